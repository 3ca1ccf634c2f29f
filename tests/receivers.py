"""Real receivers on loopback ports: one speaks HTTP, one SMTP. Each keeps what it was told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import orjson


@dataclass(frozen=True)
class Told:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class HttpReceiver:
    """Answers with `statuses` one after the other, the last one for ever; a status of 0 never answers."""

    statuses: list[int] = field(default_factory=lambda: [200])
    extra: str = ""
    endless: bool = False
    port: int = 0
    told: list[Told] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            method, path, _ = lines[0].split(" ")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            self.told.append(Told(method, path, headers, body))
            await self._reply(writer, status)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, status: int) -> None:
        if not status:
            await asyncio.sleep(3600)
        if not self.endless:
            writer.write(f"HTTP/1.1 {status} So\r\n{self.extra}Content-Length: 0\r\n\r\n".encode())
            return
        writer.write(f"HTTP/1.1 {status} So\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()


@asynccontextmanager
async def http_receiver(*statuses: int, **more: Any) -> AsyncIterator[HttpReceiver]:
    receiver = HttpReceiver(list(statuses) or [200], **more)
    async with _listening(receiver, receiver.answer):
        yield receiver


@dataclass
class SmtpReceiver:
    """Takes mail, with PLAIN sign-in if a password is set; refuses recipients in `unknown`."""

    port: int = 0
    unknown: Sequence[str] = ()
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients: list[str] = []
        writer.write(b"220 mail.test ESMTP\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.split(" ")[0].upper()
            if verb == "RCPT":
                to = line.partition("<")[2].partition(">")[0]
                taken = to not in self.unknown
                recipients += [to] if taken else []
                writer.write(b"250 ok\r\n" if taken else b"550 no such mailbox here\r\n")
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                data = await reader.readuntil(b"\r\n.\r\n")
                parsed = message_from_bytes(data[:-3], policy=policy.default)
                assert isinstance(parsed, EmailMessage)
                self.mails.append((recipients, parsed))
                writer.write(b"250 taken\r\n")
            else:
                writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
        writer.close()


@asynccontextmanager
async def smtp_receiver(**more: Any) -> AsyncIterator[SmtpReceiver]:
    receiver = SmtpReceiver(**more)
    async with _listening(receiver, receiver.answer):
        yield receiver


@asynccontextmanager
async def _listening(receiver: Any, answer: Any) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await answer(reader, writer)
        except asyncio.CancelledError:
            writer.close()

    server = await asyncio.start_server(kept, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
