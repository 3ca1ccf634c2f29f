"""Enrolment codes."""

import click

from ccserver import enrolment, keys
from ccserver.commands.calling import AsJson, actor, current, show, with_database
from ccserver.errors import NotFoundError
from ccserver.queries import audit_log, sites
from ccserver.queries.audit_log import Act
from ccserver.scope import Database


@click.group("enroll-code")
def command() -> None:
    """One-time codes by which appliances become known."""


@command.command("create")
@click.option("--site", "site_id", required=True, help="The site that the appliance stands in.")
@click.option("--hours", default=enrolment.CODE_HOURS, show_default=True, type=click.IntRange(1, 24 * 30))
@AsJson
def enroll_code_create(site_id: str, hours: int, as_json: bool) -> None:
    """Make a code for one appliance; it is shown once, and only the hash of its secret is kept."""
    settings = current()
    server_keys = keys.load(settings.key_file)

    async def act(db: Database) -> str:
        async with db.platform() as scope:
            found = await sites.find_anywhere(scope, site_id)
        if found is None:
            raise NotFoundError(f"There is no site {site_id}: `ccserver site list` shows them.")
        async with db.site(found.partner_id, found.id) as own:
            made = await enrolment.make_code(own, server_keys, hours)
            await audit_log.append(own, Act(actor(), "enroll_code.create", f"site:{site_id}", {"hours": hours}))
            return str(made)

    code = with_database(act)
    install = f"cc-agent enroll --server-url {settings.public_url}"
    show(
        {"code": code, "enroll": install, "hours": hours},
        as_json,
        f"{code}\n\nOn the appliance, within {hours} h, run this and give the code when it asks:\n  {install}",
    )
