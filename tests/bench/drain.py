"""What waited for weeks is delivered: the agent's uploader, the real server, durable PostgreSQL, receipts verified.

The floor inserts as many rows of the same bytes. Each round the agent has new entries waiting; its uploader goes on
with the same connection, so it has found its batch length by then.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop

from ccagent import enrolment, evidence, queue
from ccagent.client import Client
from ccagent.identity import DeviceKey, Enrolment, Identity
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccagent.uploader import Uploader
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.bench import floor_rows
from tests.bench.floor_rows import Floor
from tests.bench.ingest import CHECKS
from tests.bench.measure import Result, faster, seconds
from tests.bench.real_server import SITE, Bench, serving
from tests.devices import Device

ROUNDS, WAITING, CHUNK = 5, 20_000, 1_000
AT_LEAST = 0.4


@dataclass
class Agent:
    """An enrolled agent's store and uploader."""

    store: Store
    uploader: Uploader
    numbers: Iterator[int]

    def wait(self) -> None:
        """Let entries wait."""
        for _ in range(WAITING // CHUNK):
            self.store.write_now(_append, [_draft(next(self.numbers)) for _ in range(CHUNK)])

    async def drain(self) -> None:
        """Deliver all that waits."""
        await self.uploader.drain()
        assert self.store.read(queue.status).waiting == 0


def _append(tx: Tx, drafts: list[Draft]) -> None:
    for draft in drafts:
        queue.append(tx, draft)


def _draft(number: int) -> Draft:
    check = CHECKS[number % len(CHECKS)]
    facts = {f"fact_{place}": f"{number:08x}{place:04x}" * 6 for place in range(16)}
    body = {"check": check, "host": "box", "status": "pass", "severity": "low", "reason": "all is well", "since": 1}
    more = {"facts": facts, "hipaa_controls": ["164.312(b)"]}
    at = time.time_ns() // 1_000_000
    return Draft(Kind.CHECK_RUN, f"{number:032x}", at, Clock.SYNC, f"{number:032x}", body | more)


async def measure() -> list[Result]:
    """Return the row."""
    async with serving() as bench, _agent(bench) as agent:
        (conn,) = await floor_rows.connect(bench.running.urls.admin, 1)
        await conn.execute(floor_rows.TABLE)
        agent.wait()
        rows = agent.store.read(queue.lines, agent.store.read(queue.current).epoch, 1, floor_rows.A_TRANSACTION, 10**7)
        floor = Floor([conn], [floor_rows.values(rows)] * (WAITING // floor_rows.A_TRANSACTION)).block()
        found = []
        for number in range(ROUNDS + 1):  # the first does not count
            blocks = [agent.drain, floor] if number % 2 else [floor, agent.drain]
            took = {block: await seconds(block) for block in blocks}
            found.append((took[agent.drain], took[floor]))
            agent.wait()
        await conn.close()
        what = f"{ROUNDS * WAITING:,} entries, receipts verified ÷ the floor, one connection"
        return [faster("drain", what, found[1:], AT_LEAST, WAITING)]


@contextlib.asynccontextmanager
async def _agent(bench: Bench) -> "contextlib.AbstractAsyncContextManager[Agent]":
    (device,) = await bench.devices(1)
    who = Enrolment(_identity(bench, device), DeviceKey(device.seed))
    epoch = "1-00000001"
    begun = Epoch(epoch, who.identity.origins + epoch, who.key.public.hex(), 1_000)
    beginning = evidence.Beginning("enrolment", who.key.public.hex(), None, 1, "0")
    with contextlib.closing(Store.open(Places(bench.folder / "agent"))) as store:
        store.write_now(queue.open_epoch, begun, evidence.genesis((1_000, Clock.SYNC), beginning))
        async with Client(bench.running.url, enrolment.device(who)) as client:
            yield Agent(store, Uploader(store, client, who), itertools.count(1))


def _identity(bench: Bench, device: Device) -> Identity:
    return Identity(
        server=bench.running.keys.server,
        server_url=bench.running.url,
        site_id=SITE,
        appliance_id=device.appliance_id,
        public_key=device.public_key.hex(),
        keys=bench.running.keys.public,
        enrolled_at_ms=1,
        next_epoch_number=2,
    )


def run() -> list[Result]:
    """Measure from the main thread, because PostgreSQL ends with the thread that started it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
