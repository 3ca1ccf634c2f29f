"""Asking the root helper over its local socket: one JSON line each way. The standard library only."""

import asyncio
import json
import os
import socket as sockets
import struct
from pathlib import Path
from typing import Any

MAX_REQUEST = 512 * 1024
MAX_ANSWER = 4 * 1024 * 1024

# A read has 60 s at the helper. An order or repair takes as long as its steps may: those have their own limits.
_PATIENCE_S = {"read": 70.0, "keys": 15.0, "outcome": 15.0}
_BROKEN = (OSError, ValueError, RecursionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
_PEERCRED = struct.Struct("3i")


class HelperAbsentError(Exception):
    """No helper listens, or it broke off: what it was to do may have been done, so ask for the outcome."""


class HelperRefusedError(Exception):
    """The helper answered that it does not do this; the message is its reason."""


async def ask(socket: Path, request: dict[str, Any], limit_s: float | None = None) -> dict[str, Any]:
    """Return the helper's answer to a request (docs/helper.md); `limit_s` goes before the usual patience.

    HelperRefusedError with its reason when it refuses. HelperAbsentError when nobody listens, somebody else than root
    or this user does, or the answer breaks off.
    """
    line = json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    if len(line) > MAX_REQUEST:
        raise HelperRefusedError(f"the request is longer than {MAX_REQUEST} bytes")
    try:
        async with asyncio.timeout(limit_s if limit_s is not None else _PATIENCE_S.get(str(request.get("ask")))):
            answer = json.loads(await _converse(socket, line))
    except TimeoutError as error:
        raise HelperAbsentError(f"the helper at {socket} did not answer in time") from error
    except _BROKEN as error:
        raise HelperAbsentError(f"no helper answers at {socket}: start cc-agent helper as root") from error
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        raise HelperRefusedError(_reason(answer))
    return answer


async def _converse(socket: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=MAX_ANSWER)
    try:
        if _owner(writer) not in (0, os.geteuid()):
            raise OSError("somebody else listens there")
        writer.write(line)
        await writer.drain()
        return await reader.readuntil(b"\n")
    finally:
        writer.close()


def _owner(writer: asyncio.StreamWriter) -> int:
    """Return the uid of who listens, as the kernel knows it (SO_PEERCRED, unix(7))."""
    line = writer.get_extra_info("socket")
    _, uid, _ = _PEERCRED.unpack(line.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _PEERCRED.size))
    return int(uid)


def _reason(answer: Any) -> str:
    reason = answer.get("reason") if isinstance(answer, dict) else None
    return reason if isinstance(reason, str) else "it gave no reason"
