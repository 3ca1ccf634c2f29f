"""The witness's mark: it moves after every receipt, however close to the move before that one is given."""

import asyncio
from pathlib import Path

import asyncpg

from ccserver import restores
from ccserver.marks import Marks
from tests.devices import Running


async def test_a_receipt_given_while_the_mark_moves_moves_it_once_more(server: Running, tmp_path: Path) -> None:
    marks = Marks(tmp_path / "keys.mark", 0, given=True)
    conn = await asyncpg.connect(server.urls.admin)
    try:
        async with conn.transaction():
            await conn.execute("SELECT FROM witness_marks FOR UPDATE")
            moving = asyncio.create_task(restores.move(server.db, marks))
            await asyncio.sleep(0.3)
            marks.given = True  # a receipt, after the move was asked for
        await moving
        assert marks.given
        before = marks.known
        await restores.move(server.db, marks)
        assert (marks.known, marks.given) == (before + 1, False)
    finally:
        await conn.close()
