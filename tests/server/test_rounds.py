"""What a server does by itself goes on, whatever goes wrong in a round."""

import asyncio
import contextlib

import pytest

from ccserver import rounds
from ccserver.errors import DatabaseUnavailableError


async def test_a_round_that_breaks_ends_neither_the_next_nor_the_server(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[Exception | None] = [DatabaseUnavailableError("away"), ValueError("a bug"), None]
    came_through = asyncio.Event()

    async def do() -> None:
        end = ends.pop(0) if ends else None
        if end is not None:
            raise end
        came_through.set()

    keeping = asyncio.create_task(rounds.keep("tests", 0.001, do))
    await asyncio.wait_for(came_through.wait(), 30)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert [record.getMessage() for record in caplog.records] == [
        "no round of tests this time: away",
        "the round of tests broke",
    ]
