"""A line between agent and server that does what lines do: it loses, doubles, delays, forges, and never ends.

It reads one request at a time and deals with it as `next_fault` says; `issued` are the receipts that really came from
the server.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

FAULTS = (
    "", "drop", "cut request", "duplicate", "late", "delay", "half-open", "lost answer", "cut answer", "trickle",
    "portal", "redirect", "511", "other receipt", "no receipt", "endless", "endless head",
)  # fmt: skip
_LIES = ("other receipt", "no receipt")
_PORTAL = b"<html><body>Welcome to the clinic's guest network</body></html>"
_CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"


@dataclass
class Line:
    """Where it listens and where the server is; `forge` makes another receipt of a true one."""

    upstream: int
    next_fault: Callable[[], str]
    forge: Callable[[str], str]
    port: int = 0
    tls: ssl.SSLContext | None = None
    issued: set[str] = field(default_factory=set)
    requests: int = 0
    forged: int = 0
    met: dict[str, int] = field(default_factory=dict)
    _lies: list[str] = field(default_factory=list)
    _late: list["asyncio.Task[bytes]"] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Line"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*self._late, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await _read(reader)
            self.requests += 1
            name = self._fitting(self.next_fault(), request)
            self.met[name] = self.met.get(name, 0) + 1
            await self._deal(name, request, writer)
        writer.close()

    def _fitting(self, name: str, request: bytes) -> str:
        """Keep a lie about a receipt for the next answer that has one."""
        has_receipt = b"/log/" in request.partition(b"\r\n")[0]
        if name in _LIES and not has_receipt:
            self._lies.append(name)
            return ""
        return self._lies.pop() if has_receipt and not name and self._lies else name

    async def _deal(self, name: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        if name in _ANSWERS:
            writer.write(_ANSWERS[name])
            await writer.drain()
        elif name == "half-open":
            await asyncio.sleep(0.3)
        elif name in ("endless", "endless head"):
            await _endless(writer, name)
        elif name == "late":  # it arrives after what is sent next
            self._late.append(asyncio.create_task(self._after(0.05, request)))
        elif name == "cut request":
            await self._ask(request[: len(request) // 2], whole=False)
        elif name != "drop":
            await self._pass_on(name, request, writer)

    async def _pass_on(self, name: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05 if name == "delay" else 0)
        if name == "duplicate":
            await asyncio.gather(self._ask(request), self._ask(request))
        answer = await self._ask(request)
        if name == "lost answer":
            return
        if name in ("other receipt", "no receipt"):
            answer = self._falsify(answer, name)
        if name == "cut answer":
            answer = answer[: len(answer) * 2 // 3]
        if name == "trickle":
            await _trickle(writer, answer)
        writer.write(answer if name != "trickle" else b"")
        await writer.drain()

    async def _after(self, seconds: float, request: bytes) -> bytes:
        await asyncio.sleep(seconds)
        return await self._ask(request)

    async def _ask(self, request: bytes, *, whole: bool = True) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        writer.write(request)
        if not whole:
            writer.close()
            return b""
        answer = await reader.read()  # the request said that the connection closes
        writer.close()
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(answer.partition(b"\r\n\r\n")[2])
            told = [found, *found.get("epochs", [])]
            self.issued |= {one["receipt"] for one in told if one.get("receipt")}
        return answer

    def _falsify(self, answer: bytes, name: str) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        try:
            found = json.loads(body)
            receipt = found.get("receipt")
        except (ValueError, AttributeError):
            receipt = None
        if not receipt:
            self._lies.append(name)
            return answer
        self.forged += name == "other receipt"
        found["receipt"] = self.forge(receipt) if name == "other receipt" else None
        body = json.dumps(found).encode()
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        return b"\r\n".join([*kept, b"Content-Length: %d" % len(body), b"", body])


def _plain(status: str, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{more}\r\n".encode() + body


_ANSWERS = {
    "portal": _plain("200 OK", _PORTAL, "Content-Type: text/html\r\n"),
    "redirect": _plain("302 Found", b"", "Location: http://127.0.0.1:9/\r\n"),
    "511": _plain("511 Network Authentication Required", _PORTAL),
}


async def _trickle(writer: asyncio.StreamWriter, answer: bytes) -> None:
    for place in range(len(answer)):
        writer.write(answer[place : place + 1])
        await writer.drain()
        await asyncio.sleep(0.002)


async def _endless(writer: asyncio.StreamWriter, name: str) -> None:
    """Answer for ever, as fast as it is taken: a body, or headers."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    if name == "endless":
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(_CHUNK if name == "endless" else b"X-More: " + b"y" * 4000 + b"\r\n")
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Return one request, changed only in that the connection is to close after it."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
    length = next((int(one.split(b":")[1]) for one in lines if one.lower().startswith(b"content-length:")), 0)
    body = await reader.readexactly(length)
    return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body
