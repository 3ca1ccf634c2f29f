"""Sites."""

from dataclasses import asdict

import click

from ccserver.commands.calling import LIST_LIMIT, AsJson, a_name, actor, an_id, show, with_database
from ccserver.queries import audit_log, sites
from ccserver.queries.audit_log import Act
from ccserver.scope import Database


@click.group("site")
def command() -> None:
    """Sites: the clinics of a partner."""


@command.command("create")
@click.argument("name")
@click.option("--partner", "partner_id", required=True, help="The partner that it belongs to, for good.")
@click.option("--id", "site_id", help="An id of your own, [0-9a-z-]; by default a new one.")
@AsJson
def site_create(name: str, partner_id: str, site_id: str | None, as_json: bool) -> None:
    """Add a site to a partner."""
    chosen = an_id(site_id)

    async def act(db: Database) -> None:
        async with db.partner(partner_id) as scope:
            await sites.insert(scope, chosen, a_name(name))
            await audit_log.append(scope, Act(actor(), "site.create", f"site:{chosen}", {"name": a_name(name)}))

    with_database(act)
    show({"id": chosen, "partner_id": partner_id, "name": name}, as_json, f"site {chosen}  {name}")


@command.command("list")
@AsJson
def site_list(as_json: bool) -> None:
    """List the sites of all partners."""

    async def act(db: Database) -> list[sites.Site]:
        async with db.platform() as scope:
            return await sites.list_anywhere(scope, LIST_LIMIT)

    found = with_database(act)
    lines = [f"{row.id}  {row.name}  (partner {row.partner_id})" for row in found]
    show(
        [asdict(row) for row in found],
        as_json,
        "\n".join(lines or ["no sites yet: ccserver site create --partner ID NAME"]),
    )
