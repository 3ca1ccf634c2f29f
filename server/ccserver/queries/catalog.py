"""What `ccserver doctor` asks PostgreSQL about itself. No tenant's rows but through a platform scope."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ccserver.scope import PlatformScope

if TYPE_CHECKING:
    from ccserver.scope import PooledConnection


@dataclass(frozen=True)
class Room:
    """How many connections there may be: all, and those left for ordinary roles."""

    most: int
    usable: int


@dataclass(frozen=True)
class Due:
    """Something whose time is over and that is there all the same: how many (at most 10,001), and since when."""

    what: str
    count: int
    since: datetime | None


async def memberships(conn: "PooledConnection", roles: Sequence[str]) -> dict[str, bool]:
    """Return which of the roles there are, and whether the session may enter each."""
    rows = await conn.fetch(
        """
        SELECT rolname, pg_has_role(session_user, oid, 'MEMBER') AS may_enter
        FROM pg_roles WHERE rolname = ANY ($1::text[])
        """,
        roles,
    )
    return {row["rolname"]: row["may_enter"] for row in rows}


async def unlocked(conn: "PooledConnection", tables: Sequence[str]) -> list[str]:
    """Return which of the tables are missing, or lack row security, FORCE, or the tenant's policy."""
    rows = await conn.fetch(
        """
        SELECT wanted.name
        FROM unnest($1::text[]) AS wanted (name)
        LEFT JOIN pg_class c ON c.relname = wanted.name AND c.relnamespace = 'public'::regnamespace
        WHERE c.oid IS NULL OR NOT c.relrowsecurity OR NOT c.relforcerowsecurity
           OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant')
        ORDER BY wanted.name
        """,
        tables,
    )
    return [row["name"] for row in rows]


async def strangers(conn: "PooledConnection", tables: Sequence[str]) -> list[str]:
    """Return the tables that are there and not among these."""
    rows = await conn.fetch(
        """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relname = ANY ($1::text[])
        ORDER BY relname
        """,
        tables,
    )
    return [row["relname"] for row in rows]


async def clock(conn: "PooledConnection") -> datetime:
    """Return the database's time."""
    now: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return now


async def room(conn: "PooledConnection") -> Room:
    """Return how many connections there may be."""
    row = await conn.fetchrow(
        """
        SELECT current_setting('max_connections')::int AS most,
               current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true), '0')::int AS usable
        """
    )
    assert row is not None  # noqa: S101  a select without a table
    return Room(**row)


async def compression(conn: "PooledConnection") -> str:
    """Return how payloads are compressed: `lz4`, `plain` (larger rows instead), or `default`."""
    found: str = await conn.fetchval(
        """
        SELECT CASE WHEN a.attcompression = 'l' THEN 'lz4'
                    WHEN c.reloptions::text LIKE '%toast_tuple_target%' THEN 'plain' ELSE 'default' END
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'payload'
        WHERE c.relname = 'evidence_bundles' AND c.relnamespace = 'public'::regnamespace
        """
    )
    return found or "default"


async def overdue(scope: PlatformScope) -> list[Due]:
    """Return what is past its time and was not swept, with a day's grace where nothing depends on it."""
    rows = await scope.conn.fetch(
        """
        SELECT 'orders' AS what, count(*) AS count, min(expires_at) AS since FROM (
            SELECT expires_at FROM orders
            WHERE status = 'pending' AND expires_at < now() - interval '1 hour' LIMIT 10001) AS found
        UNION ALL
        SELECT 'sessions', count(*), min(expires_at) FROM (
            SELECT expires_at FROM sessions WHERE expires_at < now() - interval '7 days' LIMIT 10001) AS found
        UNION ALL
        SELECT 'idempotency keys', count(*), min(created_at) FROM (
            SELECT created_at FROM idempotency_keys WHERE created_at < now() - interval '7 days' LIMIT 10001) AS found
        """
    )
    return [Due(**row) for row in rows]
