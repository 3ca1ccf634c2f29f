"""The real server failing in every way: nothing is lost, each entry stands once, no two roots for one size.

`ccserver serve` is a process on a PostgreSQL that syncs; real agents deliver to it while it answers 500 and 503, is
killed before and after its commits, while its database is shut down at once, and put back from older copies, also from
before the oldest row that the agent still has. At the end each appliance's logs are compared with the server's.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from ccagent import alarms, queue, retention
from ccagent.client import TransientError
from ccagent.uploader import Pace
from ccserver import localpg, roles
from ccserver.config import Config
from ccshared.messages import Head
from tests.devices import Device
from tests.faults import central
from tests.faults.central import Appliance, Process, Receipts
from tests.faults.rows import Row, scratch, seeded

_AGENTS = 2
_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE usename = 'cc_server' LIMIT 1"
_LEAVE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cc_live'"
_CLOSED = f'ALTER DATABASE "{central.LIVE}" ALLOW_CONNECTIONS {{}}'
_HOURS = 200.0  # of the agent's clock, to deliver all in the end

Send = Callable[[], Awaitable[Head]]


def run(seed: int, n: int) -> Row:
    """Do n things to a server, one after the other."""
    row, chance = Row(), seeded(seed, "server")
    with central.quiet(), scratch() as folder, central.postgres(durable=True) as running:
        made = central.settings(folder)
        asyncio.run(_story(row, chance, n, World(row, chance, folder, running, made)))
    return row


@dataclass
class World:
    """The server's process, its database and copies of it, the appliances and the receipts that they were given."""

    row: Row
    chance: random.Random
    folder: Path
    postgres: localpg.LocalPostgres
    made: Config
    receipts: Receipts = field(default_factory=Receipts)
    agents: list[Appliance] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.process = Process(self.made, self.postgres.urls(central.LIVE))

    async def sql(self, *statements: str) -> None:
        conn = await asyncpg.connect(self.postgres.urls("postgres").admin)
        for each in statements:
            await conn.execute(each)
        await conn.close()

    async def deliver(self) -> None:
        for one in self.agents:
            await one.seal(self.chance.randint(1, 30))
            await one.once()

    async def recovered(self) -> None:
        """Wait until the database takes connections again."""
        for _ in range(1000):
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                await self.sql("SELECT 1")
                return
            await asyncio.sleep(0.01)
        raise TimeoutError("the database did not recover")

    def everybody(self, mishap: "Callable[[Send], Awaitable[Head]] | None") -> None:
        for one in self.agents:
            one.client.mishap = mishap


async def _story(row: Row, chance: random.Random, n: int, world: World) -> None:
    world.process.start()
    try:
        await world.process.ready()
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(central.at(world.made, world.process.urls))
            for number in range(_AGENTS):
                place, pace = world.folder / f"agent-{number}", Pace(uniform=random.Random(number).uniform)
                one = central.appliance(server, place, world.receipts, pace)
                world.agents.append(await stack.enter_async_context(one))
            hostile = await Device.enrolled(server, "acme", "acme-clinic")
            await _back_up(world)
            await _from_before_the_oldest_row(world)
            for _ in range(n):
                await chance.choice(_MISHAPS)(world)
                await world.deliver()
            await _nobody_forks_a_restored_log(world, hostile)
            await _judge(world)
    finally:
        world.process.kill()
    row.count("receipts", len(world.receipts.roots))


async def _storm(world: World) -> None:
    """Fail some requests with 500 and 503, before or after the server did what was asked."""

    async def failing(send: Send) -> Head:
        fate = world.chance.random()
        if fate < 0.3:
            raise _answered(500)
        head = await send()
        if fate < 0.6:
            raise _answered(503)
        return head

    world.everybody(failing)
    for _ in range(5):
        await world.deliver()
    world.everybody(None)
    world.row.count("storms")


def _answered(status: int) -> TransientError:
    error = TransientError(f"answered {status}")
    error.status, error.silence = status, False
    return error


async def _kill_after_commit(world: World) -> None:
    """Kill the server when its answer is on the way, and let nobody see it."""

    async def killing(send: Send) -> Head:
        await send()
        world.process.kill()
        raise _answered(502)

    await _killed(world, killing)


async def _kill_meanwhile(world: World) -> None:
    """Kill the server at a moment within the request."""

    async def killing(send: Send) -> Head:
        sent = asyncio.ensure_future(send())
        await asyncio.sleep(world.chance.uniform(0, 0.02))
        world.process.kill()
        return await sent

    await _killed(world, killing)


async def _killed(world: World, killing: Callable[[Send], Awaitable[Head]]) -> None:
    one = world.chance.choice(world.agents)
    await one.seal(world.chance.randint(1, 200))
    one.client.mishap = killing
    await one.once()
    one.client.mishap = None
    if world.process.child is not None:
        world.process.kill()
    world.process.start()
    await world.process.ready()
    world.row.count("kills")


async def _crash_the_database(world: World) -> None:
    """Kill one of PostgreSQL's own processes in the middle of a request: it drops all others, and recovers."""

    async def crashing(send: Send) -> Head:
        sent = asyncio.ensure_future(send())
        await asyncio.sleep(world.chance.uniform(0, 0.01))
        with contextlib.suppress(OSError, asyncpg.PostgresError):  # it may be recovering still from the try before
            for row in await central.rows(world.process.urls, _BACKENDS):
                os.kill(row["pid"], signal.SIGKILL)
        return await sent

    one = world.chance.choice(world.agents)
    await one.seal(world.chance.randint(1, 200))
    one.client.mishap = crashing
    await one.once()
    one.client.mishap = None
    await world.recovered()
    world.row.count("crashes of the database")


async def _back_up(world: World) -> None:
    """Copy the database as it is."""
    world.process.kill(signal.SIGTERM)
    world.number += 1
    name = f"cc_copy_{world.number}"
    await world.sql(_CLOSED.format("false"))
    for left in range(5, -1, -1):
        try:
            await world.sql(_LEAVE, *roles.database_statements(name, central.LIVE))
            break
        except asyncpg.ObjectInUseError:  # whoever was just told to leave has not left yet
            if not left:
                raise
    await world.sql(_CLOSED.format("true"))
    world.copies.append(name)
    world.process.start()
    await world.process.ready()
    world.row.count("backups")


async def _restore(world: World) -> None:
    """Put the database back from any of its copies, sometimes under a server that runs."""
    if world.chance.random() < 0.5:
        world.process.kill(signal.SIGTERM)
    await _put_back(world, world.chance.choice(world.copies))
    if world.process.child is None:
        world.process.start()
    await world.process.ready()


async def _put_back(world: World, name: str) -> None:
    await world.recovered()  # a slow machine may still be about what was done to it before
    await world.sql(f'DROP DATABASE "{central.LIVE}" WITH (FORCE)', *roles.database_statements(central.LIVE, name))
    world.row.count("restores")


async def _from_before_the_oldest_row(world: World) -> None:
    """Let rows leave an appliance, and put back a database that never had them: their leaves are all that fills it."""
    one = world.agents[0]
    await one.seal(600)
    await one.until(_HOURS)
    later = one.now_ms + 10 * retention.KEEP_MS
    while await one.store.write(retention.prune, later):
        pass
    gone = one.store.read(lambda tx: tx.execute("SELECT count(*) FROM kept_leaves").fetchone()[0]) * 256
    world.row.expect(gone >= 256, "no row left the appliance")
    world.process.kill(signal.SIGTERM)
    await _put_back(world, world.copies[0])
    world.process.start()
    await world.process.ready()
    await one.uploader.look(now=True)
    await one.until(_HOURS)
    pruned = "SELECT count(*)::int FROM evidence_bundles WHERE missing_reason = 'pruned'"
    ((stubs,),) = await central.rows(world.process.urls, pruned)
    world.row.expect(stubs == gone, f"{stubs} stubs stand for {gone} rows that left")
    world.row.count("stubs", stubs)


async def _nobody_forks_a_restored_log(world: World, device: Device) -> None:
    """Go on otherwise in a log that the restored database has only the beginning of: it is not cosigned."""
    for _ in range(3):
        device.seal()
    await device.send(device.batch(0))
    await _back_up(world)
    for _ in range(2):
        device.seal()
    receipt = (await device.send(device.batch(3))).json()["receipt"]
    world.receipts.hear(receipt)
    world.process.kill(signal.SIGTERM)
    await _put_back(world, world.copies[-1])
    world.process.start()
    await world.process.ready()
    true, device.payloads = device.payloads, device.payloads[:3]
    for _ in range(2):
        device.seal()
    answer = await device.send(device.batch(3))
    if answer.status_code == 200:
        world.receipts.hear(answer.json()["receipt"])
    world.row.expect(answer.status_code == 409, f"a fork of a restored log was answered {answer.status_code}")
    answer = await device.send(device.batch(3, held=receipt))
    world.row.expect(answer.status_code == 409, f"a fork against its own receipt was answered {answer.status_code}")
    device.payloads = true
    answer = await device.send(device.batch(3, held=receipt))
    world.row.expect(answer.status_code == 200, f"a restored log could not be filled up: {answer.text}")


async def _judge(world: World) -> None:
    """Let every appliance deliver all that it has, and compare."""
    for one in world.agents:
        await one.uploader.look(now=True)
        await one.until(_HOURS)
        world.row.expect(one.waiting() == 0, f"{one.waiting()} entries of an appliance still wait")
        for trouble in await central.differences(world.process.urls, one):
            world.row.expect(False, trouble)
        named = {alarm.name for alarm in one.store.read(alarms.standing, one.now_ms)}
        world.row.expect(named <= {alarms.SERVER_ROLLBACK}, f"an appliance took a restored server for {named}")
        epochs = one.store.read(queue.all_epochs)
        world.row.count("entries", sum(one.store.read(queue.size_of, epoch.epoch) for epoch in epochs))
    world.row.expect(not world.receipts.doubled, f"two roots were cosigned for {world.receipts.doubled[:2]}")


_MISHAPS: list[Callable[[World], Awaitable[None]]] = [
    _storm,
    _kill_after_commit,
    _kill_meanwhile,
    _crash_the_database,
    _back_up,
    _restore,
]
