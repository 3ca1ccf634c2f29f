"""A backup put back: into a scratch database to see that it holds, or into an empty one for good."""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ccserver import age, keys, restoring, scratch
from ccserver.archive import Manifest
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, Target, actor, current, database, progress, show
from ccserver.commands.reaching import Consent
from ccserver.errors import BadConfigError
from ccserver.queries import audit_log, backups
from ccserver.queries.audit_log import Act
from ccserver.restoring import Found, NotEmptyError, Source
from ccserver.scope import alone, platform_on
from ccshared.canonical import Json

_OWNER = "DATABASE_OWNER_URL"


@click.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--verify", "only_verify", is_flag=True, help="Into a scratch database, which goes afterwards.")
@click.option("--keep", is_flag=True, help="With --verify: let the scratch database stay, and name it.")
@click.option(
    "--identity",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The private key's file (age); - for standard input.",
)
@reaching.destroys
@AsJson
def command(file: Path, identity: Path | None, as_json: bool, **chosen: bool) -> None:
    """Put a backup back into an empty database, as its owner (DATABASE_OWNER_URL), all of it or nothing.

    --dry-run reads the whole file and looks whether the database is empty. --verify restores into a scratch database
    and holds every log against its receipt. Exit 1 when what was restored is not what was receipted.
    """
    how = _How(**chosen)
    if how.keep and not how.only_verify:
        raise click.UsageError("--keep goes with --verify")
    settings, begun = current(), time.monotonic()
    source = Source(file, age.identities(identity) if identity else [], keys.load(settings.key_file))
    manifest = restoring.examine(source)
    progress(f"{file}: of {manifest.begin.at}, {manifest.rows:,} rows, whole and of this server")
    with database(settings) as target:
        found, where = _act(source, manifest, target, how)
    minutes = round((time.monotonic() - begun) / 60, 2)
    told = _value(manifest, found, minutes, where)
    show({**told, "dry_run": how.dry_run}, as_json, "\n".join(_lines(manifest, found, minutes, where)))
    if found is not None and found.faults:
        sys.exit(1)


@dataclass(frozen=True)
class _How:
    """The options that say how far it goes."""

    only_verify: bool
    keep: bool
    yes: bool
    dry_run: bool


def _act(source: Source, manifest: Manifest, target: Target, how: _How) -> tuple[Found | None, str | None]:
    if how.only_verify:
        return asyncio.run(_try(source, manifest, target, how.keep))
    return _restore(source, manifest, target, Consent(how.yes, how.dry_run)), None


async def _try(source: Source, manifest: Manifest, target: Target, keep: bool) -> tuple[Found, str | None]:
    owner = _owner(target)
    admin = current().database_admin_url or target.admin or owner
    async with scratch.database(admin, owner, keep=keep) as (name, url):
        progress(f"scratch database {name}")
        with restoring.spool() as receipts:
            async with alone(url, scratch.SETTING) as conn:
                await restoring.fill(conn, source, manifest, receipts, progress)
                return await restoring.verify(conn, source.keys, receipts, progress), name if keep else None


def _restore(source: Source, manifest: Manifest, target: Target, consent: Consent) -> Found | None:
    owner = _owner(target)
    asyncio.run(_require_empty(owner))
    consent.ask("restore the backup into the empty database")
    return None if consent.dry_run else asyncio.run(_fill(source, manifest, owner))


async def _require_empty(owner: str) -> None:
    async with alone(owner, _OWNER) as conn:
        if not await backups.is_empty(conn):
            raise NotEmptyError


async def _fill(source: Source, manifest: Manifest, owner: str) -> Found:
    detail: dict[str, Json] = {"at": manifest.begin.at, "rows": manifest.rows}
    with restoring.spool() as receipts:
        async with alone(owner, _OWNER) as conn:
            await restoring.fill(conn, source, manifest, receipts, progress)
            await restoring.keep_mark(conn, current().key_file)
            found = await restoring.verify(conn, source.keys, receipts, progress)
            async with platform_on(conn) as scope:
                act = Act(actor(), "backup.restore", manifest.begin.server, {**detail, "faults": len(found.faults)})
                await audit_log.append(scope, act)
    return found


def _owner(target: Target) -> str:
    if target.owner is None:
        raise BadConfigError(
            "`restore` runs as the owner of the tables: set DATABASE_OWNER_URL=postgresql://cc_owner:…@host/database."
        )
    return target.owner


def _value(manifest: Manifest, found: Found | None, minutes: float, where: str | None) -> dict[str, Any]:
    return {
        "at": manifest.begin.at,
        "server": manifest.begin.server,
        "rows": manifest.rows,
        "tables": {table.name: table.rows for table in manifest.tables},
        "logs": found.logs if found else None,
        "entries": found.entries if found else None,
        "audit_chains": found.chains if found else None,
        "faults": found.faults if found else [],
        "minutes": minutes,
        "database": where,
    }


def _lines(manifest: Manifest, found: Found | None, minutes: float, where: str | None) -> list[str]:
    if found is None:
        return [
            f"would be restored: {manifest.rows:,} rows of {manifest.begin.at}; the file is whole, the database empty"
        ]
    held = f"{found.logs:,} logs with {found.entries:,} entries against their receipts, {found.chains:,} audit chains"
    lines = [f"{manifest.rows:,} rows of {len(manifest.tables)} tables, {held}: {minutes} minutes", *found.faults]
    if where:
        lines.append(f"the scratch database {where} stays: drop it when you are done")
    return lines
