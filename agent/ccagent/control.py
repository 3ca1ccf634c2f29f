"""The local socket (0660): whoever may open it may ask how the agent is, and wake it. One JSON line each way."""

import asyncio
import contextlib
import json
import logging
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ccagent.places import Places

log = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
PATIENCE_S = 5.0

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class SocketTakenError(Exception):
    """Something that is no socket stands where the agent's socket belongs: move it away."""


@contextlib.asynccontextmanager
async def serving(places: Places, answer: Answer) -> AsyncIterator[None]:
    """Answer on the socket until the block ends; then the socket file is gone.

    Only the owner of the store's lock may call this: a socket file found is then left from an agent that died, and
    is replaced in one step, so that nobody connects to one with other rights.
    """
    places.make_socket_dir()
    listening = _listen(places.socket)
    try:
        server = await asyncio.start_unix_server(
            lambda reader, writer: _converse(reader, writer, answer),
            sock=listening,
            limit=MAX_REQUEST,
        )
        async with server:
            yield
    finally:
        listening.close()
        places.socket.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketTakenError(f"{path} is no socket: move it away")
    fresh = path.with_name("new.sock")  # no longer than the name it will have
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(str(fresh))
        fresh.chmod(0o660)
        listening.listen(16)
        fresh.replace(path)
    except OSError:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Answer one question; who asks too slowly, too much or nothing is hung up on."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            line = await reader.readuntil(b"\n")
            writer.write(json.dumps(_answer(line, answer), default=str).encode() + b"\n")
            await writer.drain()
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        log.debug("a question on the local socket broke off")
    finally:
        writer.close()


def _answer(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"error": "not JSON"}
    if not isinstance(request, dict):
        return {"error": "not an object"}
    try:
        return answer(request)
    except Exception:  # whatever goes wrong with one answer must not silence the socket
        log.exception("a question on the local socket could not be answered")
        return {"error": "could not be answered: the agent's log says why"}
