"""The versions of an appliance's policy."""

import json
from typing import Any

import click

from ccserver import policy_versions
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Site
from ccserver.policy_versions import Difference, Restored
from ccserver.queries import policies
from ccserver.queries.policies import Version
from ccserver.scope import Database

Appliance = click.option("--appliance", "appliance_id", required=True, help="An appliance of the site.")
_WORDS = 60


@click.group("policy")
def command() -> None:
    """What an appliance was told, by its versions; `ccserver setting` changes what it is told next."""


@command.command("list")
@Site
@Appliance
@AsJson
def list_versions(site_id: str, appliance_id: str, as_json: bool) -> None:
    """List the versions, the newest first."""

    async def act(db: Database) -> list[Version]:
        async with reaching.site_scope(db, site_id) as scope:
            return await policies.newest(scope, appliance_id, NEWEST)

    found: list[Version] = with_database(act)
    lines = [f"{row.version}  {row.created_at:%Y-%m-%d %H:%M:%S} UTC" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no policy yet: the appliance has not asked for one")


@command.command("show")
@click.argument("version", type=int)
@Site
@Appliance
def show_one(version: int, site_id: str, appliance_id: str) -> None:
    """Print what a version says, as JSON."""

    async def act(db: Database) -> dict[str, Any]:
        async with reaching.site_scope(db, site_id) as scope:
            return await policy_versions.content(scope, appliance_id, version)

    click.echo(json.dumps(with_database(act), indent=1, sort_keys=True))


@command.command("diff")
@click.argument("version", type=int)
@click.option("--against", type=int, help="Another version; by default the one before.")
@Site
@Appliance
@AsJson
def diff(version: int, against: int | None, site_id: str, appliance_id: str, as_json: bool) -> None:
    """Show in which parts a version differs from another."""

    async def act(db: Database) -> list[Difference]:
        async with reaching.site_scope(db, site_id) as scope:
            return await policy_versions.compare(scope, appliance_id, version, against)

    found: list[Difference] = with_database(act)
    lines = [f"{row.part}: {_short(row.before)} -> {_short(row.after)}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "they say the same")


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _WORDS else text[:_WORDS] + "…"


@command.command("restore")
@click.argument("version", type=int)
@Site
@Appliance
@reaching.destroys
@AsJson
def restore(version: int, yes: bool, dry_run: bool, as_json: bool, **place: str) -> None:
    """Make the settings of a version again, at the appliance's level, where others count now."""
    consent, made, site_id, appliance_id = Consent(yes, dry_run), [], place["site_id"], place["appliance_id"]
    consent.ask(f"make the settings of version {version} again for appliance {appliance_id}")

    async def act(db: Database) -> None:
        async with reaching.keeping(reaching.site_scope(db, site_id), consent) as scope:
            made.extend(await policy_versions.restore(scope, appliance_id, version, actor()))

    with_database(act)
    show(reaching.values(made), as_json, consent.say("\n".join(map(_line, made)) or "nothing differs"))


def _line(made: Restored) -> str:
    return f"{made.name} = {made.value}"
