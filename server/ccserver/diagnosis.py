"""What is wrong with this server, and the next step: each part is looked at by itself, and none ends the others."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import asyncpg

from ccserver import certificates, config, health, keys, migrate, pooler, tables
from ccserver.certificates import Pair
from ccserver.config import Config
from ccserver.errors import CentralCommandError
from ccserver.queries import audit_log, catalog, log_verifications, server
from ccserver.scope import Database, open_pool

_LOCKED = sorted(tables.SITE_TABLES | tables.PARTNER_TABLES | tables.TENANT_TABLES)
_MIB = 1024 * 1024
_RENEW = timedelta(days=21)  # who renews by program does it 30 days before the end: then something is wrong with that


class Level(StrEnum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What was found of one part; `next_step` is empty where all is fine."""

    part: str
    level: Level
    said: str
    next_step: str = ""


def fine(part: str, said: str) -> list[Finding]:
    """Return that a part is as it should be."""
    return [Finding(part, Level.FINE, said)]


def warning(part: str, said: str, next_step: str) -> list[Finding]:
    """Return that a part works, and what would be better."""
    return [Finding(part, Level.WARNING, said, next_step)]


def broken(part: str, said: str, next_step: str) -> list[Finding]:
    """Return that a part does not work, and what to do."""
    return [Finding(part, Level.BROKEN, said, next_step)]


def secret_files(files: dict[str, Path]) -> list[Finding]:
    """Look at the files that settings stand in."""
    found = []
    for name, path in files.items():
        if path.exists() and path.stat().st_mode & 0o004:
            found += warning("settings", f"everybody on this host can read the file of {name}", f"chmod 600 {path}")
    return found


def key_file(settings: Config) -> list[Finding]:
    """Look at the key file: there, whole, closed to others, of this name, each later key announced."""
    path = settings.key_file
    loaded = keys.load(path)
    owner = path.stat().st_uid
    if os.geteuid() == 0 and owner != settings.data_dir.stat().st_uid:
        return warning(
            "key file", f"{path} belongs to uid {owner}, the data to another", f"chown {path} to the server's user"
        )
    uses = ", ".join(f"{key.use} {key.name}" for key in loaded.signing)
    if len(loaded.statements) < len(loaded.signing) - 2:
        return broken("key file", f"a later key is not announced: {uses}", "restore the key file from its backup")
    if settings.server_name not in (loaded.server, config.DEFAULT_NAME):
        said = f"CCSERVER_NAME is {settings.server_name}, the keys are of {loaded.server}"
        return warning("key file", said, "unset CCSERVER_NAME: a server keeps the name of its keys")
    return fine("key file", f"{path}, mode 0600: {uses}")


def certificate(settings: Config) -> list[Finding]:
    """Look at the certificate as `serve` does before it starts, and at how long it is good."""
    if settings.tls is None:
        return fine("certificate", "none: TLS is a proxy's, or nobody's beyond the loopback")
    until = certificates.look(Pair(*settings.tls, settings.public_host))
    return good_until(until, datetime.now(UTC))


def good_until(until: datetime, now: datetime) -> list[Finding]:
    """Say whether a certificate is good for long enough."""
    said = f"it is good until {until:%Y-%m-%d %H:%M} UTC"
    if until - now < _RENEW:
        days = (until - now).days
        todo = "put a new one there: the server takes it within a minute, or at `systemctl reload ccserver`"
        return warning("certificate", f"{said}, {days} day{'' if days == 1 else 's'} from now", todo)
    return fine("certificate", said)


def disk(folder: Path) -> list[Finding]:
    """Look at the room where the data is."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return room_left(folder, usage.free, usage.total)


def room_left(folder: Path, free: int, total: int) -> list[Finding]:
    """Say whether so many bytes free are enough."""
    said = f"{free // _MIB} MiB of {total // _MIB} are free at {folder}"
    if free < 256 * _MIB:
        return broken("disk", said, "make room now: a full disk stops all writes")
    if free < 2048 * _MIB or free < total // 20:
        return warning("disk", said, "make room, or move the data to a larger disk")
    return fine("disk", said)


def clocks(apart_s: float) -> list[Finding]:
    """Say whether the clocks of server and database are near enough."""
    said = f"server and database are {abs(apart_s):.1f} s apart"
    if abs(apart_s) > 60:
        return broken("clock", said, "synchronise both clocks: tokens and codes expire at the wrong time")
    return warning("clock", said, "synchronise both clocks") if abs(apart_s) > 2 else fine("clock", said)


async def database(settings: Config, url: str, owner_url: str | None) -> list[Finding]:
    """Look at the database, as the server's role and as the owner."""
    found = await guarded("owner", lambda: _owner(owner_url))
    try:
        async with _opened(url) as db:
            found += fine("database", "the server's role is let in")
            found += await guarded("fitness", lambda: _fitness(db))
            for part, look in _LOOKS.items():
                found += await guarded(part, lambda look=look: look(db, settings))  # type: ignore[misc]  # bound now
    except CentralCommandError as error:
        found += broken("database", str(error), "start it, or correct DATABASE_URL (and the password in it)")
    return found


async def guarded(part: str, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """Look at a part; whatever goes wrong in looking is a finding and no traceback."""
    try:
        async with asyncio.timeout(20):
            return await look()
    except CentralCommandError as error:
        return broken(part, str(error), "do what the sentence says, then run `ccserver doctor` again")
    except asyncpg.PostgresError as error:
        said = f"PostgreSQL refused the question ({type(error).__name__})"
        return broken(part, said, "mend the roles with `ccserver db roles` and the schema with `ccserver migrate`")
    except (OSError, TimeoutError, ValueError, asyncpg.InterfaceError) as error:
        return broken(part, f"it could not be looked at ({type(error).__name__})", "mend what is broken above first")


async def _owner(url: str | None) -> list[Finding]:
    if url is None:
        return warning("owner", "DATABASE_OWNER_URL is not set", "set it where `ccserver migrate` runs")
    todo = await migrate.plan(url)
    if todo:
        return broken("owner", f"{len(todo)} migrations wait, from {todo[0].name} on", "run `ccserver migrate`")
    async with _opened(url) as db, db.bare() as conn:
        role = await server.role(conn)
        member = await catalog.memberships(conn, ["cc_platform"])
    if not role.owns_tables or not member.get("cc_platform"):
        said = f"{role.name} does not own the tables, or may not enter cc_platform"
        return broken("owner", said, "run what `ccserver db roles` prints, and set DATABASE_OWNER_URL to cc_owner's")
    return fine("owner", f"{role.name} is let in, owns the tables and may enter cc_platform")


async def _fitness(db: Database) -> list[Finding]:
    """Look at what the server itself looks at before it serves: role, durability, schema with every file's hash."""
    await health.check_database(db)
    return fine("fitness", f"role, durability and schema are fit; {len(migrate.files())} migrations as shipped")


async def _roles(db: Database, _settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        found = await catalog.memberships(conn, ["cc_platform", "cc_credential", "cc_backup"])
    lacking = [name for name in ("cc_platform", "cc_credential") if not found.get(name)]
    if lacking:
        said = f"the server's role may not enter {', '.join(lacking)}"
        return broken("roles", said, "run what `ccserver db roles` prints, as an administrator")
    if "cc_backup" not in found:
        return warning("roles", "there is no role cc_backup", "run what `ccserver db roles` prints")
    return fine("roles", "the server's role may enter cc_platform and cc_credential")


async def _row_security(db: Database, _settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        open_tables = await catalog.unlocked(conn, _LOCKED)
        others = await catalog.strangers(conn, [*_LOCKED, *tables.PLATFORM_TABLES])
    if open_tables:
        said = f"row security is not in force on {', '.join(open_tables)}"
        return broken("row security", said, "stop the server, and ALTER TABLE … FORCE ROW LEVEL SECURITY as cc_owner")
    if others:
        said = f"tables that are not ours: {', '.join(others)[:200]}"
        return warning("row security", said, "move them to another database")
    return fine("row security", f"in force on all {len(_LOCKED)} tables of tenants")


async def _clock(db: Database, _settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        before = datetime.now(UTC)
        told = await catalog.clock(conn)
        after = datetime.now(UTC)
    return clocks((told - before - (after - before) / 2).total_seconds())


async def _connections(db: Database, settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        room = await catalog.room(conn)
    said = f"a process takes up to {settings.pool_max} of the {room.usable} connections that there may be"
    if settings.pool_max > room.usable:
        return broken("connections", said, "lower DATABASE_POOL_MAX, or raise max_connections")
    if 2 * settings.pool_max > room.usable:
        return warning("connections", said, "lower DATABASE_POOL_MAX: two processes would not fit")
    return fine("connections", said)


async def _pooler(db: Database, settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        pooled = not await pooler.is_direct(conn)
    if not pooled:
        return fine("pooler", "none: the server speaks to PostgreSQL itself")
    if settings.database_direct_url is None:
        said = "a pooler stands between; `migrate` needs a way past it for its lock"
        return warning("pooler", said, "set DATABASE_DIRECT_URL, even where DATABASE_OWNER_URL leads past it")
    return fine("pooler", "a pooler stands between, and DATABASE_DIRECT_URL leads past it")


async def _compression(db: Database, _settings: Config) -> list[Finding]:
    async with db.bare() as conn:
        how = await catalog.compression(conn)
    said = {"lz4": "payloads are compressed by lz4", "plain": "this PostgreSQL has no lz4; payloads stay in their rows"}
    return fine("compression", said.get(how, "payloads are compressed by PostgreSQL's default"))


async def _audit(db: Database, _settings: Config) -> list[Finding]:
    """Look at each chain's end only: `ccserver audit verify` reads all of it."""
    bad = []
    async with db.platform() as scope:
        heads = await audit_log.heads(scope, None)
        for head in heads:
            last = await audit_log.links(scope, head, head.size - 1, 1) if head.size else []
            if (head.last_seq if head.last_seq is not None else -1) != head.size - 1 or any(
                link.hash != head.hash for link in last
            ):
                bad.append(head.partner_id)
    if bad:
        said = f"the end of the audit log is not what its head says: {', '.join(bad)[:200]}"
        return broken("audit", said, "run `ccserver audit verify`, keep this database, and find out who changed it")
    return fine("audit", f"{len(heads)} chains end as their heads say")


async def _evidence(db: Database, _settings: Config) -> list[Finding]:
    async with db.platform() as scope:
        bad = await log_verifications.faults(scope, 5)
    if bad:
        said = "; ".join(f"{each.origin}: {each.fault}" for each in bad)
        todo = "keep this database as it is, compare it with a backup and the appliance, and find out who changed it"
        return broken("evidence", said, todo)
    return fine("evidence", "every log that was verified is what was receipted")


async def _receipts(db: Database, settings: Config) -> list[Finding]:
    """Hold the key file against the receipts: each that is stored can be made again by a key of it."""
    await health.check_keys(db, keys.load(settings.key_file))
    return fine("receipts", "the key file holds every key that signed one")


async def _swept(db: Database, _settings: Config) -> list[Finding]:
    async with db.platform() as scope:
        late = [due for due in await catalog.overdue(scope) if due.count and due.since]
    if late:
        said = "; ".join(f"{due.count} {due.what}, the oldest of {due.since:%Y-%m-%d %H:%M} UTC" for due in late)
        return warning("sweeps", f"not swept: {said}", "see that the sweeps run, and what the log says of them")
    return fine("sweeps", "nothing is long past its time")


_LOOKS: dict[str, Callable[[Database, Config], Awaitable[list[Finding]]]] = {
    "roles": _roles,
    "row security": _row_security,
    "clock": _clock,
    "connections": _connections,
    "pooler": _pooler,
    "compression": _compression,
    "audit": _audit,
    "evidence": _evidence,
    "receipts": _receipts,
    "sweeps": _swept,
}


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    db = await open_pool(url, min_size=1, max_size=1)
    try:
        yield db
    finally:
        await db.close()
