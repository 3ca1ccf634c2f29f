"""The witness's mark and generation: one row, no tenant's, so a bare connection."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ccserver.scope import Connection, PooledConnection


async def mark(conn: "PooledConnection | Connection") -> int:
    """Return the mark as it stands."""
    found: int = await conn.fetchval("SELECT mark FROM witness_marks WHERE id = 1")
    return found


async def move(conn: "PooledConnection | Connection", known: int) -> int | None:
    """Move the mark on and return it; None when it is behind what is known, because the database was restored."""
    found: int | None = await conn.fetchval(
        "UPDATE witness_marks SET mark = mark + 1 WHERE id = 1 AND mark >= $1 RETURNING mark", known
    )
    return found


async def begin_generation(conn: "PooledConnection | Connection", known: int, leap: int) -> int | None:
    """Begin a new generation where the mark is behind what is known; return its mark, None when it is not behind."""
    found: int | None = await conn.fetchval(
        """
        UPDATE witness_marks SET mark = $1::bigint + $2, generation = generation + 1
        WHERE id = 1 AND mark < $1
        RETURNING mark
        """,
        known,
        leap,
    )
    return found
