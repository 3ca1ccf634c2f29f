"""The real server for rows: its database, its process or its app, and real agents that remember receipts."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import uvicorn

from ccagent import enrolment, evidence, identity, queue
from ccagent.client import Client, RequestError
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import Pace, Uploader
from ccserver import app, config, keys, localpg, migrate
from ccserver.errors import AlreadyExistsError
from ccserver.limits import Rates
from ccserver.scope import open_pool
from ccshared import merkle
from ccshared.messages import Head
from ccshared.vocabulary import Clock
from tests.databases import short_place
from tests.devices import Running

BIN = Path(sys.executable).parent
LIVE = "cc_live"
START_MS = 1_790_000_000_000
# A whole fleet calls from one address.
UNLIMITED = {f"CCSERVER_LIMIT_{kind.upper()}": "900000/900000" for kind in vars(Rates())}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def postgres(*, durable: bool) -> Iterator[localpg.LocalPostgres]:
    """Run an embedded PostgreSQL with our schema in the database LIVE."""
    with short_place() as place, localpg.start(place / "pg", durable=durable) as running:
        urls = running.create_database(LIVE)
        asyncio.run(migrate.run(urls.owner, lambda _: None))
        yield running


def settings(folder: Path, **more: str) -> config.Config:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = {
        "CCSERVER_DATA_DIR": str(folder / "server"),
        "CCSERVER_NAME": "cc.example",
        "CCSERVER_LISTEN": f"127.0.0.1:{port}",
    }
    made = config.from_environ(told | more)
    keys.create(made.key_file, made.server_name)
    return made


def settings_at(made: config.Config) -> config.Config:
    """Return the same at another free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return replace(made, port=port, public_url=f"http://{made.host}:{port}")


@contextlib.asynccontextmanager
async def serving(made: config.Config, urls: localpg.Urls, wrap: Any = lambda inner: inner) -> AsyncIterator[Running]:
    """Serve the real app on a socket within this process, `wrap` around it, with one site in its database."""
    listener = socket.create_server((made.host, made.port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    real = uvicorn.Config(wrap(app.make(made, urls.server)), lifespan="on", interface="asgi3", log_config=None)
    server = uvicorn.Server(real)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    try:
        async with at(made, urls) as running:
            yield running
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def at(made: config.Config, urls: localpg.Urls) -> AsyncIterator[Running]:
    """What tests ask of a running server, wherever it runs; a site is made once."""
    db = await open_pool(urls.server, min_size=1, max_size=2)
    try:
        async with httpx.AsyncClient(base_url=made.public_url, trust_env=False, timeout=30) as client:
            running = Running(made.public_url, client, db, keys.load(made.key_file), urls)
            with contextlib.suppress(AlreadyExistsError):
                await running.add_site("acme", "acme-clinic")
            yield running
    finally:
        await db.close()


@dataclass
class Process:
    """The real `ccserver serve`."""

    made: config.Config
    urls: localpg.Urls
    more: Mapping[str, str] = field(default_factory=dict)
    child: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        base = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "CCSERVER_"))}
        own = {
            "DATABASE_URL": self.urls.server,
            "CCSERVER_DATA_DIR": str(self.made.data_dir),
            "CCSERVER_NAME": self.made.server_name,
            "CCSERVER_LISTEN": f"{self.made.host}:{self.made.port}",
        }
        quiet_ = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.child = subprocess.Popen([BIN / "ccserver", "serve"], env=base | own | self.more, **quiet_)

    async def ready(self) -> None:
        until = time.monotonic() + 30
        async with httpx.AsyncClient(base_url=self.made.public_url, trust_env=False) as client:
            while time.monotonic() < until:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/agent/v1/nonce")).status_code == 200:
                        return
                await asyncio.sleep(0.02)
        raise TimeoutError("ccserver did not start")

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.child is not None:
            self.child.send_signal(number)
            self.child.wait(20)
            self.child = None


@dataclass
class Receipts:
    """Every receipt that any agent was given: the roots by (log, size)."""

    roots: dict[tuple[str, int], set[bytes]] = field(default_factory=dict)

    def hear(self, text: str | None) -> None:
        if text is not None:
            origin, size, root = text.split("\n")[:3]
            self.roots.setdefault((origin, int(size)), set()).add(root.encode())

    @property
    def doubled(self) -> list[tuple[str, int]]:
        """Sizes of a log for which two roots were cosigned."""
        return [place for place, roots in self.roots.items() if len(roots) > 1]


class Listening(Client):
    """The agent's client; remembers receipts, and lets `mishap` happen before and after each append."""

    receipts = Receipts()
    mishap: Any = None

    async def head(self, epoch: str) -> Head:
        head = await super().head(epoch)
        self.receipts.hear(head.receipt)
        return head

    async def append(self, epoch: str, body: bytes) -> Head:
        if self.mishap is not None:
            return await self.mishap(lambda: self._append(epoch, body))
        return await self._append(epoch, body)

    async def _append(self, epoch: str, body: bytes) -> Head:
        head = await super().append(epoch, body)
        self.receipts.hear(head.receipt)
        return head


@dataclass
class Appliance:
    """A real store and uploader at the real server; `s` is its clock, moved by whoever waits."""

    places: Places
    store: Store
    client: Listening
    uploader: Uploader
    s: float = START_MS / 1000
    refused: int = 0

    async def seal(self, number: int = 1, text: str = "good") -> None:
        for _ in range(number):
            await self.store.write(queue.append, evidence.heartbeat((self.now_ms, Clock.UNSYNC), text))

    @property
    def now_ms(self) -> int:
        return round(self.s * 1000)

    @property
    def epoch(self) -> queue.Epoch:
        opened = self.store.read(queue.current)
        assert opened is not None
        return opened

    def waiting(self) -> int:
        epochs = self.store.read(queue.all_epochs)
        return sum(max(0, self.store.read(queue.to_deliver, one) - one.watermark) for one in epochs)

    async def once(self) -> bool:
        """Do what the agent's loop does once; a failure is noted and its wait spent by the clock alone."""
        try:
            await self.uploader.look()
            await self.uploader.drain()
            await self.uploader.deliver_withheld()
        except RequestError as error:
            failure, wait = self.uploader.fail(error)
            await self.store.write(queue.note_failure, failure)
            self.refused += 1
            self.s += wait
            return False
        return True

    async def until(self, hours: float) -> float:
        """Go on as the loop would until nothing waits; return after how many seconds by its clock, or all of them."""
        began = self.s
        while self.s < began + hours * 3600:
            if await self.once() and not self.waiting():
                break
        return self.s - began


@contextlib.asynccontextmanager
async def appliance(server: Running, folder: Path, receipts: Receipts, pace: Pace) -> AsyncIterator[Appliance]:
    """Enrol an appliance and open its log."""
    places = Places(folder)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    if identity.load_enrolment(places) is None:
        await enrolment.enroll(
            places, enrolment.Server(server.url), str(await server.code("acme", "acme-clinic")), "box"
        )
    who = identity.load_enrolment(places)
    assert who is not None
    store = Store.open(places)
    async with Listening(server.url, enrolment.device(who)) as client:
        client.receipts = receipts
        await enrolment.ensure_epoch(store, places, client, (START_MS, Clock.UNSYNC))
        made = Appliance(places, store, client, None)  # type: ignore[arg-type]  # they know each other
        made.uploader = Uploader(
            store,
            client,
            who,
            replace(
                pace,
                boottime=lambda: made.s,
                now_ms=lambda: made.now_ms,
                stamp=lambda: (made.now_ms, Clock.UNSYNC),
            ),
        )
        try:
            yield made
        finally:
            store.close()


async def rows(urls: localpg.Urls, sql: str, *values: object) -> list[Any]:
    conn = await asyncpg.connect(urls.admin)
    try:
        return list(await conn.fetch(sql, *values))
    finally:
        await conn.close()


async def differences(urls: localpg.Urls, one: Appliance) -> list[str]:
    """Return what is wrong with the server's copy of an appliance's logs: each entry stands once, and is receipted."""
    found = []
    for epoch in one.store.read(queue.all_epochs):
        if epoch.carried_from is not None and not epoch.watermark:
            continue
        size = one.store.read(queue.to_deliver, epoch)
        stored = await rows(
            urls,
            """
            SELECT b.bundle_hash, l.cosigned_at, l.size FROM evidence_logs l
            JOIN evidence_bundles b ON b.site_id = l.site_id AND b.log_id = l.id
            WHERE l.origin = $1 ORDER BY b.seq
            """,
            epoch.origin,
        )
        if len(stored) != size or not stored or stored[0]["size"] != size:
            found.append(f"the server has {len(stored)} of the {size} entries of {epoch.epoch}")
        elif merkle.root([row["bundle_hash"] for row in stored]) != one.store.read(queue.root_at, epoch.epoch, size):
            found.append(f"the server has other entries of {epoch.epoch}")
        elif stored[0]["cosigned_at"] is None or epoch.watermark < size:
            found.append(f"{epoch.epoch} is not receipted whole")
    return found
