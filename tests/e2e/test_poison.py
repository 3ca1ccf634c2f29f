"""The agent's uploader and the real server when an entry is refused: the rest flows, and the payload follows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ccagent import enrolment, evidence, identity, queue, withholding
from ccagent.client import Client, PermanentError
from ccagent.places import Places
from ccagent.store import Store, Tx
from ccagent.uploader import Pace, Uploader
from ccagent.withholding import Refusal
from ccshared import merkle
from ccshared.vocabulary import Clock
from tests.devices import Running

STAMP = (1_790_000_000_000, Clock.UNSYNC)
HOUR_MS = 3_600_000
BAD = [b"\xff\xfe not utf-8", b'{"at":1,"at":2}', b"{}", b'{"leaf":1}']


class Agent:
    """A store with an open log at the real server, and a clock that the test moves."""

    def __init__(self, store: Store, client: Client, who: identity.Enrolment) -> None:
        self.s = STAMP[0] / 1000
        self.store = store
        self.uploader = Uploader(store, client, who, Pace(boottime=lambda: self.s, now_ms=lambda: round(self.s * 1000)))

    async def seal(self, text: str) -> None:
        await self.store.write(queue.append, evidence.heartbeat(STAMP, text))

    async def persist(self, hours: float) -> None:
        """Try as often as the loop would."""
        until = self.s + hours * 3600
        while self.s < until:
            try:
                await self.uploader.drain()
            except PermanentError:
                self.s += 240
            else:
                return

    @property
    def epoch(self) -> queue.Epoch:
        opened = self.store.read(queue.current)
        assert opened is not None
        return opened


@asynccontextmanager
async def agent_at(server: Running, places: Places) -> AsyncIterator[Agent]:
    code = await server.code("acme", "acme-clinic")
    await enrolment.enroll(places, enrolment.Server(server.url), str(code), "box")
    who = identity.load_enrolment(places)
    assert who is not None
    store = Store.open(places)
    async with Client(server.url, enrolment.device(who)) as client:
        await enrolment.ensure_epoch(store, places, client, STAMP)
        yield Agent(store, client, who)
    store.close()


def put_in(tx: Tx, epoch: str, seq: int, payload: bytes) -> None:
    """Put a row in the log as a faulty release would have left it."""
    tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, ?, ?, ?, 1)
        """,
        (epoch, seq, f"{seq:032x}", payload, merkle.leaf_hash(payload), 10_000 * seq),
    )
    tx.known.clear()


async def reasons(server: Running) -> list[str | None]:
    async with server.db.platform() as scope:
        rows = await scope.conn.fetch("SELECT missing_reason FROM evidence_bundles ORDER BY seq")
    return [row["missing_reason"] for row in rows]


@pytest.mark.parametrize("bad", BAD)
async def test_what_no_server_can_read_is_withheld_and_the_rest_flows(
    server: Running, tmp_path: Path, bad: bytes
) -> None:
    async with agent_at(server, Places(tmp_path)) as agent:
        await agent.seal("good")
        await agent.store.write(put_in, agent.epoch.epoch, 2, bad)
        await agent.seal("good")
        await agent.persist(2)
        assert await reasons(server) == [None, None, "withheld", None]
        assert agent.store.read(queue.status).waiting == 0
        await agent.uploader.deliver_withheld(now=True)
        assert agent.store.read(withholding.count) == 1


async def test_what_was_withheld_takes_its_place_at_the_real_server(server: Running, tmp_path: Path) -> None:
    async with agent_at(server, Places(tmp_path)) as agent:
        for _ in range(3):
            await agent.seal("good")
        for at_ms in (0, HOUR_MS // 2, HOUR_MS):  # as if the server had refused it
            refusal = Refusal(agent.epoch.epoch, 2, "heartbeat", "entry-invalid", "as if")
            await agent.store.write(withholding.refuse, refusal, at_ms)
        await agent.uploader.drain()
        assert await reasons(server) == [None, None, "withheld", None]
        await agent.uploader.deliver_withheld(now=True)
        assert await reasons(server) == [None] * 4
        assert agent.store.read(withholding.count) == 0
