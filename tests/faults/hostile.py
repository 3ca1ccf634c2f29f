"""A hostile appliance, enrolled and with a good key: nothing is cosigned that is not stored, and it fills no disk.

Each round it does one thing that a real device never does; then the database is compared with every receipt it got.
"""

import asyncio
import random
import secrets
from dataclasses import replace

import httpx

from ccserver import quotas
from ccserver.localpg import Urls
from ccshared import ed25519, merkle, notes
from ccshared.batch import Batch, Stub, write
from ccshared.vocabulary import Kind, StubReason
from tests.devices import Device, Running
from tests.faults import central
from tests.faults.central import Receipts
from tests.faults.rows import Row, scratch, seeded

_MIB = 1024 * 1024
_QUOTA_MIB = 16


def run(seed: int, n: int) -> Row:
    """Attack n times."""
    row, chance = Row(), seeded(seed, "hostile")
    with central.quiet(), scratch() as folder, central.postgres(durable=False) as running:
        made = central.settings(folder, CCSERVER_APPLIANCE_QUOTA_MIB=str(_QUOTA_MIB))
        urls = running.urls(central.LIVE)
        asyncio.run(_attack(row, chance, n, (made, urls)))
    return row


async def _attack(row: Row, chance: random.Random, n: int, where: tuple[object, Urls]) -> None:
    made, urls = where
    async with central.serving(made, urls) as server:  # type: ignore[arg-type]
        hostile, victim = [await Device.enrolled(server, "acme", "acme-clinic") for _ in range(2)]
        await _grow(victim, 3)
        world = World(row, chance, hostile, victim, server)
        for _ in range(n):
            await world.step()
        await _judge(world, urls)
        await _many_logs(world, urls)
        await _fill_the_disk(world, urls)


async def _grow(device: Device, count: int) -> None:
    for _ in range(count):
        device.seal()
    assert (await device.send(device.batch(0))).status_code == 200


class World:
    """The attacker, a neighbour of its, and every receipt that either was given."""

    def __init__(self, row: Row, chance: random.Random, hostile: Device, victim: Device, server: Running) -> None:
        self.row, self.chance, self.hostile, self.victim, self.server = row, chance, hostile, victim, server
        self.receipts = Receipts()

    async def step(self) -> None:
        attack = self.chance.choice(_ATTACKS)
        self.hear(await attack(self))
        self.hear(await self.hostile.call("GET", f"log/{self.hostile.epoch}"))
        self.row.count("attacks")

    def hear(self, answer: httpx.Response) -> None:
        self.row.expect(answer.status_code < 500, f"an attack was answered {answer.status_code}")
        if answer.status_code in (200, 202):
            self.receipts.hear(answer.json().get("receipt"))

    async def honest(self) -> httpx.Response:
        """Add what a real device would: a log must be there to be attacked."""
        before = len(self.hostile.payloads)
        for _ in range(self.chance.randint(1, 3)):
            self.hostile.seal()
        answer = await self.hostile.send(self.hostile.batch(self.chance.randint(max(0, before - 300), before)))
        if answer.status_code != 200:  # too often, for now
            del self.hostile.payloads[before:]
        return answer

    async def bogus_root_over_equal_rows(self) -> httpx.Response:
        size = len(self.hostile.payloads) or 1
        return await self.hostile.send(self._forged(size, secrets.token_bytes(32), 0))

    async def bogus_root_over_new_rows(self) -> httpx.Response:
        first = len(self.hostile.payloads)
        self.hostile.seal()
        sent = replace(self.hostile.batch(first), checkpoint=self._sign(first + 1, secrets.token_bytes(32)))
        answer = await self.hostile.send(sent)
        if answer.status_code != 200:
            self.hostile.payloads.pop()
        return answer

    async def smaller_size(self) -> httpx.Response:
        size = self.chance.randint(1, max(1, len(self.hostile.payloads)))
        return await self.hostile.send(self._forged(size, secrets.token_bytes(32), size - 1))

    async def another_origin(self) -> httpx.Response:
        theirs = replace(self.hostile, appliance_id=self.victim.appliance_id, payloads=[], epoch=self.victim.epoch)
        theirs.seal()
        body, headers = write(theirs.batch(0)), self.hostile.headers
        path = f"/agent/v1/log/{theirs.epoch}/entries"
        return await self.server.client.post(path, content=body, headers=headers)

    async def a_nonce_like_a_checkpoint(self) -> httpx.Response:
        """What signs a log must not get a token, and what gets a token must not sign a log."""
        note = f"{self.hostile.origin}\n1\n"
        signature = ed25519.sign(self.hostile.seed, note.encode()).hex()
        body = {"appliance_id": self.hostile.appliance_id, "nonce": note, "signature": signature}
        answer = await self.server.client.post("/agent/v1/token", json=body)
        self.row.expect(answer.status_code in (401, 422), "a nonce that is none got a token")
        return answer

    async def fork(self) -> httpx.Response:
        if len(self.hostile.payloads) < 2:
            return await self.honest()
        other = replace(self.hostile, payloads=list(self.hostile.payloads))
        at = self.chance.randrange(1, len(other.payloads))
        del other.payloads[at:]
        for _ in range(self.chance.randint(1, 3)):
            other.seal(Kind.HEARTBEAT, {"text": "x" * self.chance.choice((10, 10_000))})
        answer = await self.hostile.send(other.batch(max(0, at - 1)))
        self.row.expect(answer.status_code in (409, 429), f"a fork was answered {answer.status_code}")
        return answer

    async def stubs_for_what_never_was(self) -> httpx.Response:
        first = len(self.hostile.payloads)
        lines = [Stub(secrets.token_bytes(32), StubReason.PRUNED)]
        return await self.hostile.send(Batch(self._sign(first + 1, secrets.token_bytes(32)), first, None, lines))

    async def a_receipt_of_its_own(self) -> httpx.Response:
        """Show as held what the server never signed: nothing may be held back, or cosigned, because of it."""
        size = len(self.hostile.payloads) + 40
        name, key = self.server.keys.witness.name, ed25519.new_seed()
        held = notes.cosign(self._sign(size, secrets.token_bytes(32)), name, key, 1_790_000_000)
        self.hostile.seal()
        answer = await self.hostile.send(replace(self.hostile.batch(len(self.hostile.payloads) - 1), held=held))
        if answer.status_code != 200:
            self.hostile.payloads.pop()
        return answer

    def _forged(self, size: int, root: bytes, first: int) -> Batch:
        lines: list[bytes | Stub] = list(self.hostile.payloads[first:size]) or [b"{}"]
        return Batch(self._sign(size, root), first, None, lines)

    def _sign(self, size: int, root: bytes) -> str:
        return notes.sign_checkpoint(notes.Checkpoint(self.hostile.origin, size, root), self.hostile.seed)


_ATTACKS = [
    World.honest,
    World.honest,
    World.bogus_root_over_equal_rows,
    World.bogus_root_over_new_rows,
    World.smaller_size,
    World.another_origin,
    World.a_nonce_like_a_checkpoint,
    World.fork,
    World.stubs_for_what_never_was,
    World.a_receipt_of_its_own,
]


async def _judge(world: World, urls: Urls) -> None:
    """Compare every receipt with what stands in the database."""
    row = world.row
    row.expect(not world.receipts.doubled, "two roots were cosigned for one size")
    for (origin, size), roots in world.receipts.roots.items():
        row.count("receipts")
        sql = """
            SELECT b.bundle_hash FROM evidence_logs l
            JOIN evidence_bundles b ON b.site_id = l.site_id AND b.log_id = l.id
            WHERE l.origin = $1 AND b.seq < $2 ORDER BY b.seq
        """
        leaves = [one["bundle_hash"] for one in await central.rows(urls, sql, origin, size)]
        stored = notes.Checkpoint(origin, size, merkle.root(leaves))
        text = notes.sign_checkpoint(stored, world.hostile.seed).split("\n")[2].encode()
        row.expect(len(leaves) == size and roots == {text}, f"a receipt over {size} entries is over others")
    kept = await central.rows(urls, "SELECT count(*)::int FROM equivocations GROUP BY log_id")
    forks, most = sum(count for (count,) in kept), max((count for (count,) in kept), default=0)
    row.count("forks kept", forks)
    row.expect(most <= 16, f"{most} forks of one log are kept")
    ((others,),) = await central.rows(
        urls, "SELECT count(*)::int FROM evidence_logs WHERE appliance_id = $1", world.victim.appliance_id
    )
    row.expect(others == 1, "a log of another appliance was made")


async def _many_logs(world: World, urls: Urls) -> None:
    """Begin logs without end; the neighbour's next entry is taken all the same."""
    refused: httpx.Response | None = None
    for number in range(quotas.LOGS_A_DAY + 4):
        one = replace(world.hostile, epoch=f"{number + 2}-{number:08x}", payloads=[])
        one.seal()
        answer = await one.send(one.batch(0))
        refused = answer if answer.status_code == 429 else refused
    logs = "SELECT count(*)::int FROM evidence_logs WHERE appliance_id = $1"
    ((count,),) = await central.rows(urls, logs, world.hostile.appliance_id)
    world.row.count("logs begun", count)
    world.row.expect(count <= quotas.LOGS_A_DAY, f"one appliance began {count} logs in a day")
    world.row.expect(refused is not None and int(refused.headers["retry-after"]) > 0, "nobody was told to wait")
    await _neighbour(world)


async def _fill_the_disk(world: World, urls: Urls) -> None:
    """Send as much as is taken."""
    device, refused = world.hostile, 0
    for _ in range(2 * _QUOTA_MIB):
        before = len(device.payloads)
        for _ in range(4):
            device.seal(Kind.HEARTBEAT, {"text": secrets.token_hex(110_000)})
        if (await device.send(device.batch(before))).status_code == 429:
            del device.payloads[before:]
            refused += 1
    total = "SELECT coalesce(sum(octet_length(payload)), 0)::bigint FROM evidence_bundles WHERE appliance_id = $1"
    ((stored,),) = await central.rows(urls, total, device.appliance_id)
    world.row.count("MiB stored", stored // _MIB)
    world.row.expect(refused > 0 and stored <= (_QUOTA_MIB + 1) * _MIB, f"{stored} bytes of one appliance are stored")
    await _neighbour(world)


async def _neighbour(world: World) -> None:
    world.victim.seal()
    answer = await world.victim.send(world.victim.batch(len(world.victim.payloads) - 1))
    world.row.expect(answer.status_code == 200, f"its neighbour was answered {answer.status_code}")
