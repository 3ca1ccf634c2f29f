"""Many callers at once over connections that are kept, with as little work of their own as can be."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass


def request(method: str, path: str, token: str, body: bytes = b"", more: str = "") -> bytes:
    """Return a whole request as it travels; `more` are further header lines, each ended."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Line:
    """One connection that is kept."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def call(self, sent: bytes) -> bytes:
        """Send a request and return the answer's body; AssertionError unless it is 200."""
        self.writer.write(sent)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self.reader.readexactly(length)
        assert head.startswith(b"HTTP/1.1 200"), head + body
        return body


async def lines(port: int, count: int) -> list[Line]:
    """Open connections."""
    return [Line(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]


async def each(callers: Sequence[Line], calls: Sequence[Sequence[bytes]]) -> list[list[bytes]]:
    """Let every caller send its own requests one after the other, all callers at once, and return the answers."""
    return list(await asyncio.gather(*map(_all, callers, calls)))


async def _all(line: Line, calls: Sequence[bytes]) -> list[bytes]:
    return [await line.call(call) for call in calls]
