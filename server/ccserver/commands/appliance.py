"""Appliances."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

import click

from ccserver import liveness, releases
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, a_name, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Partner, Site
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.queries import appliances
from ccserver.queries.appliances import ApplianceDetail, Silent
from ccserver.scope import Database, SiteScope


@click.group("appliance")
def command() -> None:
    """Appliances: the boxes that run the agent."""


@command.command("list")
@Partner
@click.option("--outdated", is_flag=True, help="Only those in service whose agent is older than this server's release.")
@AsJson
def list_appliances(partner_id: str, outdated: bool, as_json: bool) -> None:
    """List a partner's newest appliances, with those that were revoked."""
    release = version("ccserver")

    async def act(db: Database) -> list[ApplianceDetail]:
        async with db.partner(partner_id) as scope:
            found = await appliances.newest(scope, NEWEST)
        return [row for row in found if not outdated or _is_outdated(row, release)]

    found: list[ApplianceDetail] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_line(row) for row in found) or "no appliances yet")


@command.command("silent")
@Partner
@AsJson
def list_silent(partner_id: str, as_json: bool) -> None:
    """List appliances that check in while nothing of theirs was receipted for 48 hours."""

    async def act(db: Database) -> list[Silent]:
        async with db.partner(partner_id) as scope:
            return await appliances.list_silent(scope, datetime.now(UTC), NEWEST.limit)

    found: list[Silent] = with_database(act)
    lines = [f"{row.id}  {row.hostname}  site {row.site_id}  newest receipt {row.last_receipt_at}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "none is silent")


@command.command("show")
@click.argument("appliance_id")
@Site
@AsJson
def show_one(appliance_id: str, site_id: str, as_json: bool) -> None:
    """Show an appliance: how it is, what waits on it, its alarms."""

    async def act(db: Database) -> ApplianceDetail:
        async with reaching.site_scope(db, site_id) as scope:
            return await _find(scope, appliance_id)

    found = asdict(with_database(act))
    show(found, as_json, "\n".join(f"{name}: {value}" for name, value in found.items()))


@command.command("rename")
@click.argument("appliance_id")
@click.argument("name")
@Site
@AsJson
def rename(appliance_id: str, name: str, site_id: str, as_json: bool) -> None:
    """Give an appliance a name; its hostname is its own to say."""
    chosen = a_name(name)

    async def act(db: Database) -> ApplianceDetail:
        async with reaching.site_scope(db, site_id) as scope:
            found = await _find(scope, appliance_id)
            done = await appliances.rename(scope, appliance_id, chosen, found.revision)
            if done is None:
                raise ChangedMeanwhileError
            await reaching.note(scope, "appliance.rename", appliance_id, site=site_id, name=chosen)
            return done

    show(asdict(with_database(act)), as_json, f"appliance {appliance_id} is called {chosen}")


@command.command("revoke")
@click.argument("appliance_id")
@Site
@reaching.destroys
@AsJson
def revoke(appliance_id: str, site_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Refuse an appliance from its very next call on; what it proved stays."""
    consent = Consent(yes, dry_run)
    consent.ask(f"revoke appliance {appliance_id}, for good")

    async def act(db: Database) -> ApplianceDetail:
        async with reaching.keeping(reaching.site_scope(db, site_id), consent) as scope:
            changed = await appliances.revoke(scope, appliance_id)
            found = await _find(scope, appliance_id)
            if changed:
                await reaching.note(scope, "appliance.revoke", appliance_id, site=site_id)
        return found

    show(asdict(with_database(act)), as_json, consent.say(f"appliance {appliance_id} is revoked"))


async def _find(scope: SiteScope, appliance_id: str) -> ApplianceDetail:
    found = await appliances.find(scope, appliance_id)
    if found is None:
        raise NotFoundError(f"There is no appliance {appliance_id} at this site.")
    return found


def _is_outdated(row: ApplianceDetail, release: str) -> bool:
    return row.revoked_at is None and releases.is_older(row.version, release)


def _line(row: ApplianceDetail) -> str:
    state = "revoked" if row.revoked_at else str(liveness.of(row.last_checkin, datetime.now(UTC)))
    alarms = f"  ALARMS {', '.join(row.alarms)}" if row.alarms else ""
    return f"{row.id}  {row.name or row.hostname}  site {row.site_id}  version {row.version}  {state}{alarms}"
