"""What stands between two: in front of several servers, or before a database whose answers it delays."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_PIECE = 65_536


@dataclass
class Forwarder:
    """Passes what comes to the next of `targets`, and back what is answered, `delay_s` later.

    A target is a Unix socket or a port of this machine; one that refuses is passed over.
    """

    targets: list[Path | int]
    delay_s: float = 0.0
    _turn: int = 0
    _open: "set[asyncio.Task[None]]" = field(default_factory=set)

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        near = (reader, writer)
        try:
            far = await self._connect()
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.create_task(_carry(near[0], far[1], 0.0)),
            asyncio.create_task(_carry(far[0], near[1], self.delay_s)),
        ]
        self._open.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for one in ways:
            one.cancel()
        self._open.difference_update(ways)
        for end in (near[1], far[1]):
            end.close()

    async def _connect(self) -> Streams:
        refusal: OSError = ConnectionRefusedError("nothing stands behind it")
        for _ in list(self.targets):
            self._turn += 1
            target = self.targets[self._turn % len(self.targets)]
            try:
                if isinstance(target, Path):
                    return await asyncio.open_unix_connection(str(target))
                return await asyncio.open_connection("127.0.0.1", target)
            except OSError as error:
                refusal = error
        raise refusal


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            if delay_s:
                await asyncio.sleep(delay_s)
            writer.write(piece)
            await writer.drain()


@contextlib.contextmanager
def forwarding(forwarder: Forwarder, at: Path | int) -> Iterator[None]:
    """Forward from a Unix socket or a port of this machine until the block ends."""
    loop, ready, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with await _listen(forwarder.pass_on, at):
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=lambda: loop).run(serve()), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise OSError(f"nothing can listen at {at}")
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)


async def _listen(pass_on: Callable[..., Awaitable[None]], at: Path | int) -> asyncio.Server:
    if isinstance(at, Path):
        return await asyncio.start_unix_server(pass_on, str(at))
    return await asyncio.start_server(pass_on, "127.0.0.1", at)
