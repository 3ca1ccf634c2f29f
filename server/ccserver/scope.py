"""Scopes: a connection, a tenant and a transaction together. Nothing else opens transactions.

Row security is bound to three settings that last one transaction. They are sent in one round trip with BEGIN, where
values cannot be bound, so only ids that match `[0-9a-z-]{1,64}` whole are let in. Leaving a scope commits; an exception
rolls back.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import asyncpg

from ccserver import pooler
from ccserver.errors import DatabaseUnavailableError, DeviceUnknownError, NotFoundError, SiteClosedError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

PLATFORM = "platform"
_ID = re.compile(r"[0-9a-z-]{1,64}")
_ACQUIRE_SECONDS = 5.0
_COMMAND_SECONDS = 30.0
_KEPT = 4  # connections that are lent again at once
_LENT_AGAIN = 1000  # then the pool has a look, which ends one that was used long
_SITE_CLOSED = "CC001"  # as the triggers of migration 016 say
_BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Nothing of the request's doing: the database is away, full or starting.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg's own state machine, on a connection that ends under it
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DeadlockDetectedError,  # two requests in each other's way: the same again goes through
)


@dataclass(frozen=True)
class CredentialScope:
    """Before a tenant is known: shows the one row that what was presented belongs to."""

    conn: "PooledConnection"


@dataclass(frozen=True)
class PartnerScope:
    """One partner's rows, of all its sites."""

    conn: "PooledConnection"
    partner_id: str


@dataclass(frozen=True)
class SiteScope:
    """One site's rows."""

    conn: "PooledConnection"
    partner_id: str
    site_id: str


@dataclass(frozen=True)
class ApplianceScope:
    """One appliance's rows; `public_key` is the 32-byte device key it is registered with."""

    conn: "PooledConnection"
    partner_id: str
    site_id: str
    appliance_id: str
    public_key: bytes


@dataclass(frozen=True)
class PlatformScope:
    """Every tenant's rows; for platform routes, sweeps and the command line only."""

    conn: "PooledConnection"


async def widen(scope: ApplianceScope) -> SiteScope:
    """Return the scope of the appliance's whole site, for what is derived last in the same transaction."""
    await scope.conn.execute("SELECT set_config('cc.appliance_id', '', true)")
    return SiteScope(scope.conn, scope.partner_id, scope.site_id)


@dataclass
class Use:
    """How a pool was used since it was opened: connections lent, seconds waited for one, and waits without one."""

    lent: int = 0
    waited_s: float = 0.0
    timeouts: int = 0


class _Lending:
    """Who has a connection of the pool: a few that came back whole are lent again at once, the others by the pool.

    Giving one back to the pool and taking it again costs as much of the processor as a statement does.
    """

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._kept: list[PooledConnection] = []
        self._asking = 0  # who waits for the pool gets what comes back
        self.use = Use()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many connections there are, are idle, and may be."""
        return self._pool.get_size(), self._pool.get_idle_size() + len(self._kept), self._pool.get_max_size()

    async def take(self) -> "PooledConnection":
        """Lend a connection, of the pool once those that were kept are lent or broken."""
        while self._kept:
            conn = self._kept.pop()
            if _is_whole(conn):
                return conn
            await self._pool.release(conn)
        asked = time.perf_counter()
        self._asking += 1
        try:
            return await self._pool.acquire(timeout=_ACQUIRE_SECONDS)
        except BaseException as error:
            self.use.timeouts += isinstance(error, TimeoutError)
            if isinstance(error, asyncpg.PostgresError):  # whatever keeps us out, the request did not do it
                raise DatabaseUnavailableError from error
            raise
        finally:
            self._asking -= 1
            self.use.waited_s += time.perf_counter() - asked

    async def give_back(self, conn: "PooledConnection", *, well: bool) -> None:
        """Keep a connection for the next; the pool gets it when somebody waits, after an error, and now and then."""
        keeps = well and not self._asking and len(self._kept) < _KEPT and self.use.lent % _LENT_AGAIN
        if keeps and _is_whole(conn):
            self._kept.append(conn)
        else:
            await self._pool.release(conn)

    async def close(self) -> None:
        """Close the pool once its connections are back, or after five seconds all the same."""
        self._asking += 1  # whatever comes back from now on is the pool's
        try:
            async with asyncio.timeout(5):
                while self._kept:
                    await self._pool.release(self._kept.pop())
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


class _Loan:
    """A connection for a block; what keeps us from the database is a DatabaseUnavailableError."""

    def __init__(self, lending: _Lending) -> None:
        self._lending = lending

    async def __aenter__(self) -> "PooledConnection":
        try:
            self._conn = await self._lending.take()
            self._lending.use.lent += 1
        except _AWAY as error:
            raise DatabaseUnavailableError from error
        return self._conn

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            await self._lending.give_back(self._conn, well=error is None)
        except _AWAY as broken:
            raise DatabaseUnavailableError from broken
        # A DataError is the request's doing, though asyncpg counts it among its interface errors.
        if isinstance(error, _AWAY) and not isinstance(error, asyncpg.DataError):
            raise DatabaseUnavailableError from error


class Database:
    """The process's one pool, and the only way to a connection.

    `pooled`: a pooler in transaction mode is in between, so what is not in one transaction may meet two sessions.
    """

    def __init__(self, pool: "Pool", *, pooled: bool = False) -> None:
        self._lending = _Lending(pool)
        self._pooled = pooled
        self.use = self._lending.use

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many connections there are, are idle, and may be."""
        return self._lending.sizes

    @asynccontextmanager
    async def credential(self, presented: str) -> AsyncIterator[CredentialScope]:
        """Open the scope that shows exactly the row of a presented credential (a hash, a login name, an id)."""
        async with self._transaction("BEGIN; SET LOCAL ROLE cc_credential") as conn:
            await conn.execute("SELECT set_config('cc.credential', $1, true)", presented)
            yield CredentialScope(conn)

    @asynccontextmanager
    async def partner(self, partner_id: str) -> AsyncIterator[PartnerScope]:
        """Open a partner's scope; the id comes from a verified credential."""
        async with self._transaction(_begin(partner_id=partner_id)) as conn:
            yield PartnerScope(conn, partner_id)

    @asynccontextmanager
    async def site(self, partner_id: str, site_id: str) -> AsyncIterator[SiteScope]:
        """Open a site's scope; a site of another partner shows nothing."""
        async with self._transaction(_begin(partner_id=partner_id, site_id=site_id)) as conn:
            yield SiteScope(conn, partner_id, site_id)

    @asynccontextmanager
    async def snapshot(self, partner_id: str, site_id: str) -> AsyncIterator[SiteScope]:
        """Open a site's scope that only reads, and sees one moment however long it lasts."""
        begin = _begin(partner_id=partner_id, site_id=site_id).replace("BEGIN", _BEGIN_SNAPSHOT, 1)
        async with self._transaction(begin) as conn:
            yield SiteScope(conn, partner_id, site_id)

    @asynccontextmanager
    async def appliance(self, site_id: str, appliance_id: str) -> AsyncIterator[ApplianceScope]:
        """Open an appliance's scope; DeviceUnknownError when it is not known, not of that site, or revoked."""
        async with self._transaction("BEGIN") as conn:
            row = await conn.fetchrow(
                "SELECT partner_id, public_key FROM cc_enter_appliance($1, $2)",
                site_id,
                appliance_id,
            )
            if row is None:
                raise DeviceUnknownError
            yield ApplianceScope(conn, row["partner_id"], site_id, appliance_id, row["public_key"])

    @asynccontextmanager
    async def platform(self) -> AsyncIterator[PlatformScope]:
        """Open the scope over all tenants."""
        async with self._transaction("BEGIN; SET LOCAL ROLE cc_platform") as conn:
            yield PlatformScope(conn)

    @asynccontextmanager
    async def bare(self) -> AsyncIterator["PooledConnection"]:
        """Lend a connection without a scope, for the one-statement functions that set their own.

        There is no transaction around it, except behind a pooler: a statement is prepared in one round trip and
        executed in the next, and in between the pooler would give another session.
        """
        async with self._transaction("BEGIN") if self._pooled else _Loan(self._lending) as conn:
            yield conn

    async def close(self) -> None:
        """Close the pool once its connections are back, or after five seconds all the same."""
        await self._lending.close()

    @asynccontextmanager
    async def _transaction(self, begin: str) -> AsyncIterator["PooledConnection"]:
        async with _Loan(self._lending) as conn:
            try:
                await conn.execute(begin, timeout=_ACQUIRE_SECONDS)  # behind a pooler this is what waits for a session
                yield conn
                await _commit(conn)
            except BaseException as error:
                await _roll_back(conn)
                if getattr(error, "sqlstate", None) == _SITE_CLOSED:
                    raise SiteClosedError from error
                raise


async def _commit(conn: "PooledConnection") -> None:
    """COMMIT answers ROLLBACK without an error when a statement failed and somebody caught that."""
    if await conn.execute("COMMIT") != "COMMIT":
        raise DatabaseUnavailableError("A statement failed, so nothing of the transaction was kept: try again.")


async def _roll_back(conn: "PooledConnection") -> None:
    """End the transaction whatever happened, so that no later one inherits its settings."""
    try:
        if not conn.is_closed() and conn.is_in_transaction():
            await conn.execute("ROLLBACK")
    except (*_AWAY, asyncpg.PostgresError, asyncio.CancelledError):
        conn.terminate()


def _is_whole(conn: "PooledConnection") -> bool:
    """Return whether a connection is open and in no transaction; one whose end was seen is none any more."""
    try:
        return not conn.is_closed() and not conn.is_in_transaction()
    except asyncpg.InterfaceError:
        return False


def _begin(**settings: str) -> str:
    """Return BEGIN with the scope's settings in the same message."""
    for value in settings.values():
        if not _ID.fullmatch(value):
            raise NotFoundError
    pairs = ", ".join(f"set_config('cc.{name}', '{value}', true)" for name, value in settings.items())
    return f"BEGIN; SELECT {pairs}"


async def open_pool(url: str, *, min_size: int = 2, max_size: int = 10) -> Database:
    """Connect; DatabaseUnavailableError says in a sentence why that failed.

    Behind a pooler in transaction mode (PgBouncer) no statement is kept prepared, for the session is another each time.
    """
    try:
        pool = await _pool(url, min_size, max_size, statements=100)
        if await _is_direct(pool):
            return Database(pool)
        await pool.close()
        return Database(await _pool(url, min_size, max_size, statements=0), pooled=True)
    except ValueError as error:  # its text may repeat a password
        raise DatabaseUnavailableError(
            "DATABASE_URL is no address of a PostgreSQL: what its password holds must be escaped."
        ) from error
    except (*_AWAY, asyncpg.PostgresError) as error:
        raise DatabaseUnavailableError(
            f"The database cannot be reached ({error}): is it running, and is DATABASE_URL right?"
        ) from error


@asynccontextmanager
async def alone(url: str, setting: str) -> AsyncIterator["Connection"]:
    """Open one connection outside the pool, for what takes long and copies; DatabaseUnavailableError names the setting.

    It waits for every answer, however long that takes.
    """
    try:
        conn = await asyncpg.connect(url, timeout=10, statement_cache_size=0)
    except (*_AWAY, asyncpg.PostgresError, ValueError) as error:  # a ValueError's text may repeat a password
        reason = "it is no address" if isinstance(error, ValueError) else str(error)
        raise DatabaseUnavailableError(f"The database cannot be reached ({reason}): is {setting} right?") from error
    try:
        yield conn
    except asyncpg.PostgresError as error:
        raise DatabaseUnavailableError(f"The database refused: {error}. Nothing was kept.") from error
    finally:
        await conn.close(timeout=10)


@asynccontextmanager
async def platform_on(conn: "Connection") -> AsyncIterator[PlatformScope]:
    """Open the scope over all tenants on a connection of its own, as a part of its transaction or as one."""
    async with conn.transaction():
        await conn.execute("SET LOCAL ROLE cc_platform")
        yield PlatformScope(cast("PooledConnection", conn))
        await conn.execute("RESET ROLE")


async def _pool(url: str, min_size: int, max_size: int, *, statements: int) -> "Pool":
    return await asyncpg.create_pool(
        url,
        min_size=min_size,
        max_size=max_size,
        command_timeout=_COMMAND_SECONDS,
        timeout=_ACQUIRE_SECONDS,
        statement_cache_size=statements,
        reset=_no_reset,
    )


async def _is_direct(pool: "Pool") -> bool:
    async with pool.acquire(timeout=_ACQUIRE_SECONDS) as conn:
        return await pooler.is_direct(conn)


async def _no_reset(_conn: object) -> None:
    """Every setting is local to its transaction, so a returned connection has nothing to reset (a round trip saved)."""
