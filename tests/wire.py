"""What a server really says to PostgreSQL: a socket in between passes all on, and notes each statement that is run."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

_SSL_REQUEST = 80877103


@dataclass
class Wire:
    """The statements run since the last `clear`, each as often as it was, and how many round trips that took."""

    url: str
    statements: list[str] = field(default_factory=list)
    round_trips: int = 0

    def clear(self) -> None:
        self.statements.clear()
        self.round_trips = 0


@asynccontextmanager
async def tapped(url: str, folder: Path) -> AsyncIterator[Wire]:
    """Listen in `folder`, a short path, for whoever connects to the URL that the wire names instead of `url`."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host, port = parts.hostname or query["host"][0], parts.port or int(query["port"][0])
    wire = Wire(f"postgresql://{parts.username}@{parts.path}?host={quote(str(folder), safe='')}&port=5432")

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}") if host.startswith("/") else None
        back, forth = await (there or asyncio.open_connection(host, port))
        try:
            await asyncio.gather(_listen(reader, forth, wire), _pass(back, writer))
        finally:
            writer.close()
            forth.close()

    async with await asyncio.start_unix_server(meet, folder / ".s.PGSQL.5432"):
        yield wire


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
    """Pass a client's messages on, and note them: PostgreSQL's protocol, version 3."""
    prepared: dict[bytes, str] = {}
    begun = False
    try:
        while True:
            kind = await reader.readexactly(1) if begun else b""
            head = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack("!i", head)[0] - 4)
            begun = begun or struct.unpack("!i", body[:4])[0] != _SSL_REQUEST
            _note(wire, kind, body, prepared)
            writer.write(kind + head + body)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


def _note(wire: Wire, kind: bytes, body: bytes, prepared: dict[bytes, str]) -> None:
    if kind == b"P":  # Parse: a name, and the text that it stands for
        name, text, *_ = body.split(b"\0")
        prepared[name] = " ".join(text.decode().split())
    elif kind == b"B":  # Bind: a portal, and the name of what runs in it
        wire.statements.append(prepared[body.split(b"\0")[1]])
    elif kind == b"Q":  # a simple query
        wire.statements.append(" ".join(body.rstrip(b"\0").decode().split()))
    wire.round_trips += kind in (b"S", b"Q")
