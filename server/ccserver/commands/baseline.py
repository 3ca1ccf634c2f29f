"""Baselines of an appliance."""

import click

from ccserver import baselines
from ccserver.baselines import Baseline
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.policy import Appliance
from ccserver.commands.reaching import Site
from ccserver.scope import Database


@click.group("baseline")
def command() -> None:
    """What is approved of an appliance's firewall and anti-virus program, beside what it found."""


@command.command("show")
@Site
@Appliance
@AsJson
def show_all(site_id: str, appliance_id: str, as_json: bool) -> None:
    """Show each baseline as it is approved and as the appliance's last check run found it."""

    async def act(db: Database) -> list[Baseline]:
        async with reaching.site_scope(db, site_id) as scope:
            return await baselines.of(scope, appliance_id)

    found: list[Baseline] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(map(_line, found)))


@command.command("approve")
@click.argument("name", type=click.Choice(sorted(baselines.OF)))
@click.argument("sha256")
@Site
@Appliance
@AsJson
def approve(name: str, sha256: str, site_id: str, appliance_id: str, as_json: bool) -> None:
    """Approve what the appliance proposes, by the hash that was seen."""

    async def act(db: Database) -> None:
        async with reaching.site_scope(db, site_id) as scope:
            await baselines.approve(scope, appliance_id, name, sha256, actor())

    with_database(act)
    show({"name": name, "sha256": sha256}, as_json, f"{name} = {sha256}")


def _line(row: Baseline) -> str:
    if row.proposed is None:
        return f"{row.name}: approved {row.approved or 'nothing'}, nothing is proposed"
    says = "DIFFERS from" if row.differs else "is as"
    return f"{row.name}: {row.proposed} on {row.host_id} {says} approved ({row.approved or 'nothing yet'})"
