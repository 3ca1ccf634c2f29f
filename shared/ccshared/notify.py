"""Telling systemd that a service is ready and its loop turns (sd_notify(3)); where none listens, nobody is told."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping

LEAST_S = 0.1


@contextlib.asynccontextmanager
async def ready(environ: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Say that the service is ready, keep the watchdog quiet as long as the loop turns, and say when it stops."""
    tell(environ, "READY=1")
    task = asyncio.create_task(_keep_quiet(environ))
    try:
        yield
    finally:
        tell(environ, "STOPPING=1")
        task.cancel()
        await asyncio.wait([task])


def tell(environ: Mapping[str, str], state: str) -> None:
    """Send a line to systemd; a socket that is not there, or full, costs nothing but the line."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)
        to.connect("\0" + address[1:] if address[0] == "@" else address)
        to.send(state.encode())


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return how often systemd wants to hear from this process (half its limit), None when it does not."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdecimal()) or pid not in ("", str(os.getpid())):
        return None
    return max(int(text) / 2_000_000, LEAST_S)


async def _keep_quiet(environ: Mapping[str, str]) -> None:
    every = watchdog_s(environ)
    while every is not None:
        tell(environ, "WATCHDOG=1")
        await asyncio.sleep(every)
