"""Whether the database was put back from an older copy: then a new generation begins, and each log proves itself anew.

In a generation, a log that was there before is cosigned further only once its appliance has shown the newest receipt it
holds: the log may have been longer than the restored row says.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from ccserver.errors import DatabaseUnavailableError
from ccserver.marks import Marks, save
from ccserver.queries import witness_marks
from ccserver.scope import Database

_log = logging.getLogger("ccserver")
# How long a receipt may be given before the mark tells of it.
EVERY_S = 5.0
# Beyond what any other process's file has reached by then.
LEAP = 1 << 20


async def check(database: Database, marks: Marks) -> None:
    """Compare the database with what is known of it, and begin a new generation where it is older."""
    async with database.bare() as conn:
        begun = await witness_marks.begin_generation(conn, marks.known, LEAP)
        if begun is not None:
            _log.error(
                "the database is older than the receipts that were given: it was restored from a backup."
                " Each appliance fills up its logs again, and shows its newest receipt before one is cosigned further"
            )
        marks.known = max(marks.known, begun or await witness_marks.mark(conn))
    await asyncio.to_thread(save, marks)


@contextlib.asynccontextmanager
async def watching(database: Database, marks: Marks) -> AsyncIterator[None]:
    """Move the mark on until the block ends, and once more then."""
    task = asyncio.create_task(watch(database, marks))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(DatabaseUnavailableError):  # a mark that lags only claims less
            await move(database, marks)


async def watch(database: Database, marks: Marks) -> None:
    """Move the mark on, for ever, while receipts are given."""
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            await move(database, marks)
        except DatabaseUnavailableError as error:
            _log.warning("the witness's mark stays: %s", error)


async def move(database: Database, marks: Marks) -> None:
    """Move the mark on where a receipt was given since."""
    if not marks.given:
        return
    marks.given = False  # before asking: a receipt that is given meanwhile is told of by the next move
    try:
        async with database.bare() as conn:
            moved = await witness_marks.move(conn, marks.known)
    except BaseException:
        marks.given = True
        raise
    if moved is None:
        marks.given = True
        await check(database, marks)
        return
    marks.known = max(marks.known, moved)
    await asyncio.to_thread(save, marks)
