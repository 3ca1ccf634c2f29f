"""Incidents."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict

import click

from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import NEWEST, Partner, Site
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.listing import EVER
from ccserver.queries import incidents, planner
from ccserver.queries.incidents import Filter, IncidentDetail
from ccserver.scope import Database, SiteScope
from ccshared.vocabulary import Level, Severity

Change = Callable[[SiteScope, str, int, str], Awaitable[IncidentDetail | None]]


@click.group("incident")
def command() -> None:
    """Incidents: what their appliances found, and what people did."""


@command.command("list")
@Partner
@click.option("--severity", type=click.Choice([str(each) for each in Severity]))
@click.option("--level", type=click.Choice([str(each) for each in Level]))
@click.option("--open/--closed", "is_open", default=None, help="By default both.")
@AsJson
def list_incidents(
    partner_id: str, severity: str | None, level: str | None, is_open: bool | None, as_json: bool
) -> None:
    """List a partner's newest incidents."""

    async def act(db: Database) -> list[IncidentDetail]:
        async with db.partner(partner_id) as scope:
            await planner.read_in_order(scope)
            return await incidents.newest(scope, Filter(severity, level, is_open, *EVER), NEWEST)

    found: list[IncidentDetail] = with_database(act)
    lines = [f"{row.id}  {row.severity}  {row.incident_type}  {row.host_id}  site {row.site_id}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no incidents")


@command.command("show")
@click.argument("incident_id")
@Site
@AsJson
def show_one(incident_id: str, site_id: str, as_json: bool) -> None:
    """Show an incident."""

    async def act(db: Database) -> IncidentDetail:
        async with reaching.site_scope(db, site_id) as scope:
            return await _find(scope, incident_id)

    found = asdict(with_database(act))
    show(found, as_json, "\n".join(f"{name}: {value}" for name, value in found.items()))


@command.command("acknowledge")
@click.argument("incident_id")
@Site
@AsJson
def acknowledge(incident_id: str, site_id: str, as_json: bool) -> None:
    """Say that somebody looks after it; the first who said so stays."""
    found = _change(incident_id, site_id, "incident.acknowledge", incidents.acknowledge)
    show(asdict(found), as_json, f"incident {incident_id} is acknowledged by {found.acknowledged_by}")


@command.command("resolve")
@click.argument("incident_id")
@Site
@AsJson
def resolve(incident_id: str, site_id: str, as_json: bool) -> None:
    """Close it by hand; what its appliance says of it stays."""
    found = _change(incident_id, site_id, "incident.resolve", incidents.close_by_hand)
    show(asdict(found), as_json, f"incident {incident_id} is closed by {found.closed_by_hand_by}")


def _change(incident_id: str, site_id: str, action: str, change: Change) -> IncidentDetail:
    async def act(db: Database) -> IncidentDetail:
        async with reaching.site_scope(db, site_id) as scope:
            before = await _find(scope, incident_id)
            changed = await change(scope, incident_id, before.hand_revision, actor())
            if changed is None:
                raise ChangedMeanwhileError
            await reaching.note(scope, action, incident_id, site=site_id)
            return changed

    found: IncidentDetail = with_database(act)
    return found


async def _find(scope: SiteScope, incident_id: str) -> IncidentDetail:
    found = await incidents.find(scope, incident_id)
    if found is None:
        raise NotFoundError(f"There is no incident {incident_id} at this site.")
    return found
