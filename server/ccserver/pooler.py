"""Whether a connection is a session of PostgreSQL itself, or a pooler's, which may be another session each time."""

from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]


async def is_direct(conn: "Connection") -> bool:
    """Return whether no pooler is in between: a pooler makes up the process id that it tells its clients.

    One round trip in one message, so that it works through a pooler too; the answer is in the number of rows.
    """
    return await conn.execute(f"SELECT WHERE pg_backend_pid() = {conn.get_server_pid():d}") == "SELECT 1"
