"""The migration runner: numbered SQL files, each with its row in the ledger, in one transaction.

A file that was edited after it ran, is missing, or shares its number with another stops the runner
before anything changes.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from ccserver import pooler
from ccserver.errors import (
    DatabaseUnavailableError,
    MigrationError,
    NewerSchemaError,
    NotMigratedError,
    PoolerError,
)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

FOLDER = Path(__file__).parent / "migrations"
_NAME = re.compile(r"([0-9]{3})_[a-z0-9_]+\.sql")
_SCOPE = "SET LOCAL ROLE cc_platform"
_LOCK = 0x6363_6D69  # "ccmi"; any number that is ours
# One bigint key is shown as two halves, the upper one 0 here.
_IS_LOCKED = """
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = $1::bigint::oid AND pid = $2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
"""
_LEDGER = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        sha256 text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


@dataclass(frozen=True)
class Migration:
    """One file: its number, name, text, and the hex SHA-256 of its bytes."""

    number: int
    name: str
    sql: str
    sha256: str


def files(folder: Path = FOLDER) -> list[Migration]:
    """Return the migrations in order; MigrationError for a number missing or doubled, or a misnamed file."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration is named NNN_what_it_brings.sql.")
        data = path.read_bytes()
        found.append(Migration(int(match[1]), path.name, data.decode(), hashlib.sha256(data).hexdigest()))
    for expected, migration in enumerate(found, 1):
        if migration.number != expected:
            raise MigrationError(
                f"{migration.name} stands where number {expected:03} belongs: a gap, or a number twice."
            )
    if not found:
        raise MigrationError(f"There are no migrations in {folder}: the installation is not whole.")
    return found


def pending(known: list[Migration], ledger: dict[int, tuple[str, str]]) -> list[Migration]:
    """Return the files that did not run yet, given the ledger's (name, sha256) by number.

    Raises NewerSchemaError for rows beyond the files, MigrationError for a file that was edited or renamed.
    """
    beyond = sorted(number for number in ledger if number > len(known))
    if beyond:
        raise NewerSchemaError
    for migration in known:
        if migration.number in ledger and ledger[migration.number] != (
            migration.name,
            migration.sha256,
        ):
            raise MigrationError(
                f"{migration.name} is not the file that ran as {ledger[migration.number][0]}: restore it, and bring the"
                " change in a new file."
            )
    rest = [migration for migration in known if migration.number not in ledger]
    if rest and rest[0].number <= max(ledger, default=0):
        raise MigrationError(f"The ledger lacks {rest[0].name} though later files ran: restore the database's ledger.")
    return rest


def check(ledger: dict[int, tuple[str, str]], *, running: bool = False) -> None:
    """Refuse a schema that is not exactly this release's: NotMigratedError, NewerSchemaError or MigrationError.

    A server that is `running` already goes on while the next release has migrated: a schema only ever grows under it.
    """
    known = files()
    if pending(known, {number: row for number, row in ledger.items() if not running or number <= len(known)}):
        raise NotMigratedError


async def plan(owner_url: str) -> list[Migration]:
    """Return what `run` would run; it changes nothing."""
    async with _connect(owner_url) as conn:
        return pending(files(), await _ledger(conn))


async def run(
    owner_url: str, progress: Callable[[str], None], wait_s: float = 60, *, direct_url: str | None = None
) -> int:
    """Bring the schema up to date; return how many files ran. A second runner waits its turn up to `wait_s` seconds.

    `direct_url` goes past a pooler that stands before `owner_url`: the lock lasts a session and is taken there.
    """
    async with _connect(direct_url or owner_url) as locked, _connect(owner_url) as conn:
        if not await pooler.is_direct(locked):
            raise PoolerError
        await _lock(locked, wait_s)
        await conn.execute(_LEDGER)
        todo = pending(files(), await _ledger(conn))
        for migration in todo:
            progress(f"migrate  {migration.name}")
            await _apply(conn, migration, locked.get_server_pid())
    return len(todo)


async def fill_schema(conn: "Connection", until: int, progress: Callable[[str], None]) -> None:
    """Run the files up to a number in the transaction that the caller has open: taken back with it, or kept with it.

    The lock lasts as long as the connection.
    """
    await _lock(conn, 60)
    await conn.execute(_LEDGER)
    for migration in pending(files()[:until], await _ledger(conn)):
        progress(f"migrate  {migration.name}")
        await _apply(conn, migration, conn.get_server_pid())


async def _apply(conn: "Connection", migration: Migration, holder: int) -> None:
    try:
        async with conn.transaction():
            if not await conn.fetchval(_IS_LOCKED, _LOCK, holder):
                raise MigrationError("The lock is not held in this database: does DATABASE_DIRECT_URL name it?")
            # Row security hides every row from an owner without a scope: better an error than a change of none.
            hiding = "on" if _SCOPE in migration.sql else "off"
            await conn.execute("SELECT set_config('row_security', $1, true)", hiding)
            await conn.execute(migration.sql)
            await conn.execute("RESET ROLE")
            await conn.execute(
                "INSERT INTO schema_migrations (number, name, sha256) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration.name} failed, and nothing of it was kept: {error}.") from error


async def _lock(conn: "Connection", wait_s: float) -> None:
    """Poll for the lock: waiting inside PostgreSQL deadlocks with CREATE INDEX CONCURRENTLY."""
    until = time.monotonic() + wait_s
    while not await conn.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if time.monotonic() > until:
            raise MigrationError("Another runner is migrating this database: wait until it is done, then try again.")
        await asyncio.sleep(0.1)


async def _ledger(conn: "Connection") -> dict[int, tuple[str, str]]:
    async with conn.transaction():  # so that a pooler gives all of it the same session
        if await conn.fetchval("SELECT to_regclass('schema_migrations')") is None:
            return {}
        rows = await conn.fetch("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
    return {row["number"]: (row["name"], row["sha256"]) for row in rows}


@asynccontextmanager
async def _connect(owner_url: str) -> AsyncIterator["Connection"]:
    try:
        conn = await asyncpg.connect(owner_url, timeout=10, statement_cache_size=0)
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        ValueError,
    ) as error:
        raise DatabaseUnavailableError(
            f"The database cannot be reached as its owner ({error}): is it running, and is DATABASE_OWNER_URL (or "
            "DATABASE_DIRECT_URL) right?"
        ) from error
    try:
        yield conn
    finally:
        await conn.close()
