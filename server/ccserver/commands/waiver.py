"""Waivers."""

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ccserver import waiving
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Partner, Site
from ccserver.errors import NotFoundError
from ccserver.queries import waivers
from ccserver.queries.waivers import Draft, Waiver
from ccserver.scope import Database


@click.group("waiver")
def command() -> None:
    """Waivers: checks that do not count for a while, each with a reason and an end."""


@command.command("list")
@Partner
@AsJson
def list_waivers(partner_id: str, as_json: bool) -> None:
    """List a partner's newest waivers, those that ended too."""

    async def act(db: Database) -> list[Waiver]:
        async with db.partner(partner_id) as scope:
            return await waivers.newest_of_partner(scope, NEWEST)

    found: list[Waiver] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_line(row) for row in found) or "no waivers")


@command.command("create")
@click.argument("check_id")
@Site
@click.option("--reason", required=True, help="Why; auditors read it.")
@click.option("--days", required=True, type=click.IntRange(1, 366))
@click.option("--host", "host_id", help="Only this host of the site.")
@AsJson
def create(check_id: str, site_id: str, as_json: bool, **given: Any) -> None:
    """Let a check not count for a while."""
    reason, host_id = str(given["reason"]), given["host_id"]
    if not 1 <= len(reason) <= 2000 or "\x00" in reason:
        raise click.BadParameter("1 to 2000 letters", param_hint="--reason")
    if not re.fullmatch(r"[0-9a-z_.-]{1,64}", check_id):
        raise click.BadParameter("1 to 64 of 0-9, a-z, _, . and -", param_hint="CHECK_ID")
    if host_id is not None and (not 1 <= len(host_id) <= 255 or not host_id.isprintable()):
        raise click.BadParameter("1 to 255 letters", param_hint="--host")
    draft = Draft(check_id, host_id, reason, datetime.now(UTC) + timedelta(days=given["days"]))

    async def act(db: Database) -> Waiver:
        async with reaching.site_scope(db, site_id) as scope:
            return await waiving.make(scope, actor(), draft)

    found: Waiver = with_database(act)
    show(asdict(found), as_json, _line(found))


@command.command("revoke")
@click.argument("waiver_id")
@Site
@reaching.destroys
@AsJson
def revoke(waiver_id: str, site_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """End a waiver now: its check counts again."""
    consent = Consent(yes, dry_run)
    consent.ask(f"end waiver {waiver_id}")

    async def act(db: Database) -> None:
        async with reaching.keeping(reaching.site_scope(db, site_id), consent) as scope:
            found = await waivers.find(scope, waiver_id)
            if found is None:
                raise NotFoundError(f"There is no waiver {waiver_id} at this site.")
            await waiving.revoke(scope, actor(), waiver_id, found.revision)

    with_database(act)
    show({"id": waiver_id, "dry_run": dry_run}, as_json, consent.say(f"waiver {waiver_id} has ended"))


def _line(row: Waiver) -> str:
    state = "revoked" if row.revoked_at else f"until {row.expires_at:%Y-%m-%d}"
    return f"{row.id}  {row.check_id}  {row.host_id or 'every host'}  site {row.site_id}  {state}  {row.reason}"
