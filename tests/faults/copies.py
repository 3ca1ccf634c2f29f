"""One appliance's disk copied, put back and run twice: forks are found, and what any copy holds reaches the server.

A run is a seeded story over real stores and real uploaders: entries are sealed, delivered over a bad line, the state
directory is copied, an old copy is put back, a copy runs beside the original. At its end every copy that still runs
delivers all it has.
"""

import asyncio
import contextlib
import logging
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ccagent import alarms, identity, queue
from ccagent.client import Client, RequestError
from ccagent.identity import DeviceKey, Enrolment
from ccagent.store import Store
from ccagent.uploader import Pace, Uploader
from tests.faults import appliance
from tests.faults.memory_server import MemoryServer
from tests.faults.rows import Row, scratch, seeded

STEPS = 24
MAX_BOXES = 3


@dataclass
class Box:
    """A machine that runs on one state directory."""

    places: Path
    store: Store
    uploader: Uploader


@dataclass
class World:
    """All there is: the server, machines, and old copies of their state directories."""

    chance: random.Random
    folder: Path
    server: MemoryServer
    boxes: list[Box] = field(default_factory=list)
    backups: list[Path] = field(default_factory=list)
    made: int = 0
    sealed: int = 0

    def start(self, directory: Path) -> Box:
        places = appliance.Places(directory)
        store = appliance.open_store(places)
        known = identity.load(places)
        assert known is not None
        pace = Pace(now_ms=lambda: appliance.STAMP[0], stamp=lambda: appliance.STAMP)
        who = Enrolment(known, DeviceKey(appliance.DEVICE))
        box = Box(directory, store, Uploader(store, cast("Client", self.server), who, pace))
        self.boxes.append(box)
        return box

    def stop(self, box: Box) -> None:
        box.store.close()
        self.boxes.remove(box)

    def copy(self, directory: Path) -> Path:
        self.made += 1
        return Path(shutil.copytree(directory, self.folder / f"copy-{self.made}"))

    def close(self) -> None:
        for box in list(self.boxes):
            self.stop(box)


def run(seed: int, times: int) -> Row:
    """Tell so many stories; count forks, epochs and entries."""
    row = Row()
    chance = seeded(seed, "copies")
    with _quiet():
        for _ in range(times):
            number = chance.getrandbits(32)
            with scratch() as folder:
                asyncio.run(_story(row, number, folder))
    return row


async def _story(row: Row, number: int, folder: Path) -> None:
    chance = random.Random(number)
    world = World(chance, folder, MemoryServer(chance))
    try:
        box = world.start(appliance.settle_in(folder / "box").state_dir)
        appliance.begin(box.store)
        for _ in range(STEPS):
            await _step(row, world)
        world.server.weather = None
        await _settle(row, world, number)
        _judge(row, world, number)
    finally:
        world.close()


async def _step(row: Row, world: World) -> None:
    box = world.chance.choice(world.boxes)
    (what,) = world.chance.choices(tuple(_STEPS), tuple(_STEPS.values()))
    await what(row, world, box)


async def _seal(row: Row, world: World, box: Box) -> None:
    for _ in range(world.chance.randint(1, 4)):
        world.sealed += 1
        box.store.write_now(queue.append, appliance.draft(world.sealed))
        row.count("entries")


async def _deliver(_row: Row, _world: World, box: Box) -> None:
    with contextlib.suppress(RequestError):
        await box.uploader.look()
        await box.uploader.drain()


async def _back_up(_row: Row, world: World, box: Box) -> None:
    _copy(world, box)


async def _restore(row: Row, world: World, box: Box) -> None:
    if world.backups:
        world.stop(box)
        world.start(world.copy(world.chance.choice(world.backups)))
        row.count("restored")


async def _clone(row: Row, world: World, box: Box) -> None:
    if len(world.boxes) < MAX_BOXES:
        world.start(world.copy(_copy(world, box)))
        row.count("cloned")


async def _restart(_row: Row, world: World, box: Box) -> None:
    world.stop(box)
    world.start(box.places)


_STEPS: dict[Callable[[Row, World, Box], Awaitable[None]], int] = {
    _seal: 8,
    _deliver: 8,
    _back_up: 2,
    _restore: 1,
    _clone: 1,
    _restart: 1,
}


def _copy(world: World, box: Box) -> Path:
    """Copy a state directory while nobody writes it, as a snapshot of a disk does."""
    world.stop(box)
    made = world.copy(box.places)
    world.backups.append(made)
    world.start(box.places)
    return made


async def _settle(row: Row, world: World, number: int) -> None:
    """Let every machine deliver until nothing changes any more."""
    before = None
    for _ in range(12):
        for box in world.boxes:
            try:
                await box.uploader.look(now=True)
                await box.uploader.drain()
            except RequestError as error:
                row.expect(False, f"story {number}: {error}")
                return
        now = [(epoch, stored.row.size) for epoch, stored in world.server.logs.items()]
        if now == before:
            return
        before = now
    row.expect(False, f"story {number}: the copies never come to rest")


def _judge(row: Row, world: World, number: int) -> None:
    has = world.server.has()
    for box in world.boxes:
        held = set(appliance.told(box.store).leaves.values())
        row.expect(held <= has, f"story {number}: {len(held - has)} entries of a copy never reached the server")
        for epoch in box.store.read(queue.all_epochs):
            ours = box.store.read(queue.root_at, epoch.epoch, epoch.watermark)
            theirs = world.server.root_at(epoch.epoch, epoch.watermark)
            row.expect(ours == theirs or not epoch.watermark, f"story {number}: a receipt is over other entries")
    row.count("logs", len(world.server.logs))
    # A log of one number twice, or one that its machine did not open: somebody must have been told.
    names = {epoch.epoch for box in world.boxes for epoch in box.store.read(queue.all_epochs)}
    sounded = sum(len(box.store.read(alarms.standing, appliance.STAMP[0])) for box in world.boxes)
    row.count("alarms", sounded)
    ended = len(names) > 1
    row.expect(not ended or sounded > 0, f"story {number}: logs parted and nobody was told")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
