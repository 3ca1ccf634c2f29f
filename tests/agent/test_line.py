import asyncio
import socket
from collections.abc import Iterator

import pytest

from ccagent import line


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What the kernel says, and where it is heard: datagrams, as rtnetlink's are."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ends[1].setblocking(False)
    yield ends
    for end in ends:
        end.close()


async def calls_within(seconds: float, heard: socket.socket, every_s: float) -> int:
    calls: list[int] = []
    task = asyncio.create_task(line.watch(heard, lambda: calls.append(1), every_s))
    await asyncio.sleep(seconds)
    task.cancel()
    return len(calls)


async def test_a_burst_of_changes_is_one(pair: tuple[socket.socket, socket.socket]) -> None:
    for _ in range(20):
        pair[0].send(b"x" * 100)
    assert await calls_within(0.2, pair[1], 0.02) == 1


async def test_without_a_change_nothing_is_done(pair: tuple[socket.socket, socket.socket]) -> None:
    assert await calls_within(0.1, pair[1], 0.01) == 0


async def test_changes_without_end_cost_little(pair: tuple[socket.socket, socket.socket]) -> None:
    async def flap() -> None:
        while True:
            pair[0].send(b"x")
            await asyncio.sleep(0.001)

    task = asyncio.create_task(flap())
    count = await calls_within(0.5, pair[1], 0.1)
    task.cancel()
    assert 1 <= count <= 3


async def test_the_kernels_socket_opens_here_or_says_that_there_is_none() -> None:
    with line.opened() as told:
        assert told is None or told.family == socket.AF_NETLINK
