"""What systemd hears: ready, alive as long as the loop turns, stopping; and nothing where it does not listen."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccshared import notify


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A socket as systemd's, and the environment that names it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}


def heard(systemd: socket.socket) -> list[bytes]:
    systemd.setblocking(False)
    said = []
    try:
        while True:
            said.append(systemd.recv(100))
    except BlockingIOError:
        return said


async def test_a_service_says_that_it_is_ready_alive_and_stopping(
    systemd: tuple[socket.socket, dict[str, str]],
) -> None:
    listening, environ = systemd
    async with notify.ready(environ):
        await asyncio.sleep(0.35)
    said = heard(listening)
    assert (said[0], said[-1]) == (b"READY=1", b"STOPPING=1")
    assert set(said[1:-1]) == {b"WATCHDOG=1"}
    assert len(said) >= 4


async def test_an_abstract_socket_is_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0cc-test-{os.getpid()}")
        notify.tell({"NOTIFY_SOCKET": f"@cc-test-{os.getpid()}"}, "READY=1")
        assert heard(listening) == [b"READY=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "vsock:2:1", "@nobody-listens"])
async def test_where_systemd_does_not_listen_nothing_happens(address: str) -> None:
    async with notify.ready({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("environ", "every"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "1"}, notify.LEAST_S),
        ({}, None),
    ],
)
def test_the_watchdog_hears_twice_within_its_limit(environ: dict[str, str], every: float | None) -> None:
    assert notify.watchdog_s(environ) == every
