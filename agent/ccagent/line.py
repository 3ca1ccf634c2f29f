"""Changes of this machine's network, as the kernel tells them: what was out of reach may be reached now."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE of linux/rtnetlink.h.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_SETTLE_S = 1.0  # one plug in its socket makes a dozen changes
_AT_MOST_EVERY_S = 10.0


@contextlib.contextmanager
def opened() -> Iterator[socket.socket | None]:
    """Yield a socket that the kernel tells of changes on; None where there is no such (not Linux, or not allowed)."""
    try:
        family, protocol = socket.AF_NETLINK, socket.NETLINK_ROUTE
        told = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except (AttributeError, OSError):
        yield None
        return
    with told:
        try:
            told.bind((0, _GROUPS))
        except OSError:
            yield None
            return
        yield told


async def watch(told: socket.socket, changed: Callable[[], None], every_s: float = _AT_MOST_EVERY_S) -> None:
    """Call `changed` soon after a change, but not more than once in `every_s`; for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await _read(loop, told)
        await asyncio.sleep(min(_SETTLE_S, every_s))
        _empty(told)
        changed()
        await asyncio.sleep(every_s)


async def _read(loop: asyncio.AbstractEventLoop, told: socket.socket) -> None:
    try:
        await loop.sock_recv(told, 65536)
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # so many changes that some were dropped: still a change
            raise


def _empty(told: socket.socket) -> None:
    with contextlib.suppress(OSError):  # nothing left to read is one of these
        while told.recv(65536):
            pass
