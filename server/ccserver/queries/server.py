"""What the server asks about the database itself before it serves. No tenant's rows, so a bare connection."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccserver.scope import Connection, PooledConnection


@dataclass(frozen=True)
class Role:
    """The role that is connected."""

    name: str
    is_superuser: bool
    bypasses_row_security: bool
    owns_tables: bool


async def role(conn: "PooledConnection | Connection") -> Role:
    """Return who is connected."""
    row = await conn.fetchrow(
        """
        SELECT r.rolname AS name, r.rolsuper AS is_superuser, r.rolbypassrls AS bypasses_row_security,
               EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p')) AS owns_tables
        FROM pg_roles r
        WHERE r.rolname = session_user
        """
    )
    assert row is not None  # noqa: S101  a session has a user
    return Role(**row)


async def settings(conn: "PooledConnection | Connection") -> dict[str, str]:
    """Return the settings on which durability depends, and whether the database says that it is for tests."""
    row = await conn.fetchrow(
        """
        SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
               current_setting('synchronous_commit') AS synchronous_commit,
               coalesce(current_setting('cc.test_database', true), '') AS "cc.test_database"
        """
    )
    assert row is not None  # noqa: S101  a select without a table
    return dict(row)


async def ledger(conn: "PooledConnection | Connection") -> dict[int, tuple[str, str]]:
    """Return which migrations ran, as (name, sha256) by number; empty when none ever did."""
    if not await conn.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return {}
    rows = await conn.fetch("SELECT number, name, sha256 FROM schema_migrations ORDER BY number")
    return {row["number"]: (row["name"], row["sha256"]) for row in rows}
