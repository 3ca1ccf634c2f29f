"""Settings at their levels."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

from ccserver import setting_levels
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import Consent
from ccserver.errors import NotFoundError
from ccserver.queries import appliances, settings
from ccserver.queries.settings import Change, Place
from ccserver.scope import PLATFORM, Database, PartnerScope, SiteScope
from ccserver.setting_levels import Effective

Scope = PartnerScope | SiteScope


@dataclass(frozen=True)
class _Where:
    """The level as it was typed: nothing is the platform's."""

    partner_id: str | None
    site_id: str | None
    appliance_id: str | None


def _levels(command: Any) -> Any:
    for name, text in (
        ("appliance", "Of an appliance of --site."),
        ("site", "Of a site."),
        ("partner", "Of a partner."),
    ):
        command = click.option(f"--{name}", f"{name}_id", help=text)(command)
    return command


@click.group("setting")
def command() -> None:
    """Settings: of the platform, unless --partner, or --site, or --site and --appliance say another level."""


@command.command("show")
@_levels
@AsJson
def show_all(as_json: bool, **levels: str | None) -> None:
    """Show every setting as it counts at a level, and where it comes from."""
    found: list[Effective] = with_database(lambda db: _effective(db, _where(levels)))
    lines = [f"{row.setting.name} = {_told(row)}  ({row.origin})" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines))


@command.command("diff")
@_levels
@AsJson
def diff(as_json: bool, **levels: str | None) -> None:
    """Show only what differs from the defaults at a level."""
    found: list[Effective] = with_database(lambda db: _effective(db, _where(levels)))
    changed = [row for row in found if row.value != row.setting.default]
    lines = [f"{row.setting.name} = {row.value}, default {row.setting.default}  ({row.origin})" for row in changed]
    show(reaching.values(changed), as_json, "\n".join(lines) or "every setting is at its default")


@command.command("set")
@click.argument("name")
@click.argument("value")
@_levels
@AsJson
def set_one(name: str, value: str, as_json: bool, **levels: str | None) -> None:
    """Make a setting at a level."""
    setting = setting_levels.known(name)
    checked, where = setting_levels.typed(setting, value), _where(levels)

    async def act(db: Database) -> Any:
        before = await _one(db, where, name)
        async with _opened(db, where) as (scope, places):
            made = await setting_levels.make(scope, places[-1], Change(name, checked, before.revision, actor()))
        return made, await _one(db, where, name)

    made, counts = with_database(act)
    above = "" if counts.value == checked else f"; but {_told(counts)} counts here  ({counts.origin})"
    show(asdict(made), as_json, f"{name} = {checked}{above}")


@command.command("unset")
@click.argument("name")
@_levels
@reaching.destroys
@AsJson
def unset(name: str, yes: bool, dry_run: bool, as_json: bool, **levels: str | None) -> None:
    """Unmake a setting at a level, so that the next one counts."""
    setting, where, consent = setting_levels.known(name), _where(levels), Consent(yes, dry_run)
    consent.ask(f"unset {name}")

    async def act(db: Database) -> None:
        before = await _one(db, where, name)
        async with reaching.keeping(_opened(db, where), consent) as (scope, places):
            if before.own is None:
                raise NotFoundError(f"{name} is not set at this level.")
            await setting_levels.unmake(scope, places[-1], setting, before.revision, actor())

    with_database(act)
    show({"name": name, "dry_run": dry_run}, as_json, consent.say(f"{name} is unset at this level"))


def _told(row: Effective) -> str:
    return (str(row.value) or "(empty)") if row.setting.is_text else f"{row.value} {row.setting.unit}"


def _where(levels: dict[str, str | None]) -> _Where:
    where = _Where(**levels)
    if where.appliance_id and not where.site_id:
        raise click.UsageError("--appliance goes with its --site.")
    if where.partner_id and where.site_id:
        raise click.UsageError("Say --partner or --site: a site has one partner.")
    return where


async def _effective(db: Database, where: _Where) -> list[Effective]:
    async with db.partner(PLATFORM) as scope:
        far = await settings.list_of(scope, [setting_levels.OF_PLATFORM])
    async with _opened(db, where) as (scope, places):
        return setting_levels.effective(places, [*far, *await settings.list_of(scope, places)])


async def _one(db: Database, where: _Where, name: str) -> Effective:
    return next(each for each in await _effective(db, where) if each.setting.name == name)


@asynccontextmanager
async def _opened(db: Database, where: _Where) -> AsyncIterator[tuple[Scope, tuple[Place, ...]]]:
    if where.site_id is None:
        async with db.partner(where.partner_id or PLATFORM) as partner:
            tenant = [where.partner_id] if where.partner_id else []
            yield partner, setting_levels.places(*tenant)
        return
    async with reaching.site_scope(db, where.site_id) as site:
        more = [where.appliance_id] if where.appliance_id else []
        if more and await appliances.find(site, more[0]) is None:
            raise NotFoundError(f"There is no appliance {more[0]} at this site.")
        yield site, setting_levels.places(site.partner_id, site.site_id, *more)
