"""Wrong clocks: ten years off, set back every hour, 1970 at boot, three days of suspension.

The first form lives through weeks in seconds: the agent's own store, clock watch, uploader and retention, on a loop
whose hours pass at once, against a server that fails now and then. The second is the agent as a process of its own,
with a preloaded library that moves its clocks.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ccagent import evidence, identity, leaves, opening, queue, retention
from ccagent.client import Client, TransientError
from ccagent.clock import Clocks, ClockWatch
from ccagent.identity import DeviceKey, Enrolment
from ccagent.simulation.simulated_time import SimulatedLoop
from ccagent.store import Store, Tx
from ccagent.uploader import Pace, Uploader, cap_s
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.faults import appliance, clock_process
from tests.faults.memory_server import MemoryServer
from tests.faults.rows import Row, scratch, seeded

DAYS = 8  # awake; after each of them three asleep
TEN_YEARS_S = 3652 * 86_400
SUSPENDED_S = 3 * 86_400.0
PATROL_S = 3600.0
SLACK_S = 10.0
KEEP_S = retention.KEEP_MS / 1000
_PER_PATROL = 14
_FULL = 10  # stories from which on the running agent is moved at length


class Days(SimulatedLoop):
    """A loop whose days pass at once; `turns` counts what was waited for."""

    turns = 0

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, **more: Any) -> asyncio.TimerHandle:
        self.turns += 1
        return super().call_at(when, callback, *args, **more)


@dataclass
class Server(MemoryServer):
    """The witness's rule with a clock that is right; it refuses everything with a 503 while it is `down`.

    `asked` are the agent's times (s since boot) at which it asked for anything.
    """

    boot: "Machine | None" = None
    down: bool = False
    asked: list[float] = field(default_factory=list)

    def now_s(self) -> int:
        assert self.boot is not None
        return int(self.boot.true_s())

    def _fail_sometimes(self) -> None:
        assert self.boot is not None
        self.asked.append(self.boot.boot_s())
        if self.down:
            error = TransientError("503")
            error.silence, error.status = False, 503
            raise error


@dataclass
class Machine:
    """An appliance's clocks: both follow the loop's, until something moves them."""

    loop: Days
    wall_at_0: float = appliance.STAMP[0] / 1000
    boot_at_0: float = 1000.0
    asleep_s: float = 0.0

    def true_s(self) -> float:
        """Return what the time really is (s since 1970)."""
        return appliance.STAMP[0] / 1000 + self.loop.time() + self.asleep_s

    def boot_s(self) -> float:
        return self.loop.time() + self.boot_at_0

    def wall_ms(self) -> int:
        return max(round((self.loop.time() + self.wall_at_0) * 1000), 0)

    def watch(self) -> ClockWatch:
        return ClockWatch(Clocks(self.wall_ms, self.boot_s, lambda: True))


@dataclass
class Life:
    """One appliance through a story: what it has, and what was moved under it."""

    row: Row
    chance: random.Random
    folder: Path
    machine: Machine
    server: Server
    store: Store
    watch: ClockWatch
    task: "asyncio.Task[None] | None" = None
    uploader: Uploader | None = None
    number: int = 0
    steps: list[int] = field(default_factory=list)  # in ms, as they were made
    sealed_at: list[float] = field(default_factory=list)  # true time of each entry

    def start(self) -> None:
        known = identity.load(appliance.Places(self.folder))
        assert known is not None
        pace = Pace(
            uniform=self.chance.uniform,
            boottime=self.machine.boot_s,
            now_ms=self.machine.wall_ms,
            stamp=self.watch.stamp,
        )
        who = Enrolment(known, DeviceKey(appliance.DEVICE))
        self.uploader = Uploader(self.store, cast("Client", self.server), who, pace)
        self.task = asyncio.create_task(self.uploader.run())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def run(seed: int, n: int) -> Row:
    """Tell n stories of weeks, and move the clocks of one running agent."""
    logging.disable(logging.CRITICAL)
    row, chance = Row(), seeded(seed, "clock")
    with scratch() as folder, ThreadPoolExecutor(1) as thread:
        moved = thread.submit(clock_process.move_under_a_running_agent, folder, row, quick=n < _FULL)
        for number in range(n):
            _tell(row, chance.getrandbits(32), number)
        moved.result()
    return row


def _tell(row: Row, seed: int, number: int) -> None:
    with scratch() as folder:
        chance = random.Random(seed)
        with asyncio.Runner(loop_factory=Days) as runner:
            runner.run(_story(row, chance, folder, number))


async def _story(row: Row, chance: random.Random, folder: Path, number: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Days)
    machine = Machine(loop)
    places = appliance.settle_in(folder)
    store = appliance.open_store(places)
    appliance.begin(store)
    server = Server(boot=machine)
    life = Life(row, chance, folder, machine, server, store, machine.watch())
    life.sealed_at.append(machine.true_s())
    life.start()
    backwards_hourly = number % 4 == 3
    try:
        await _weeks(life, backwards_hourly)
        server.down = False
        for _ in range(2):  # all is delivered, and what is old enough leaves
            await _patrol(life)
            await loop_passes(life, 2 * PATROL_S)
        await _let_leave(life)
        _judge(life)
    finally:
        await life.stop()
        life.store.close()
    row.count("virtual days", round((loop.time() + machine.asleep_s) / 86_400))


async def _weeks(life: Life, backwards_hourly: bool) -> None:
    for hour in range(DAYS * 24):
        stirs = backwards_hourly or life.chance.random() < 0.05
        life.server.down = life.chance.random() < (0.7 if life.server.down or stirs else 0.05)
        await _patrol(life)
        await asyncio.sleep(SLACK_S)  # so that whoever failed waits when the clock moves
        if backwards_hourly:
            _step(life, -3600)
        elif stirs:
            await life.chance.choice((_forward, _back, _reboot_in_1970))(life)
        await loop_passes(life, PATROL_S)
        if hour % 24 == 23:
            await _suspend(life)


async def loop_passes(life: Life, seconds: float) -> None:
    """Let time go by; between two tries there is never more than the cap, and no turn more than the steps need."""
    began, turns, asked = life.machine.loop.time(), life.machine.loop.turns, len(life.server.asked)
    await asyncio.sleep(seconds)
    passed = life.machine.loop.time() - began
    made = life.machine.loop.turns - turns
    life.row.expect(made <= 2 * passed / 5 + 100, f"awake {made} times in {passed:.0f} s: a busy loop")
    tries = len(life.server.asked) - asked
    life.row.expect(tries <= 60, f"asked the server {tries} times in {passed:.0f} s")
    _next_try_is_near(life)


def _next_try_is_near(life: Life) -> None:
    left = life.store.read(queue.destination)
    if left.next_retry_at_ms is not None and life.server.asked:
        cap = cap_s(TransientError.cause, left.retry_count)
        waited = life.machine.boot_s() - life.server.asked[-1]
        life.row.count("waits looked at")
        life.row.expect(waited <= cap + SLACK_S, f"no try for {waited:.0f} s, the cap is {cap:.0f} s")


async def _let_leave(life: Life) -> None:
    before_ms = life.store.read(retention.now_ms, life.machine.wall_ms()) - retention.KEEP_MS
    while await life.store.write(retention.prune, before_ms):
        pass


async def _patrol(life: Life) -> None:
    """What a round of the patrol does with the clock: put a step on record, seal, and let old rows leave."""
    delta = life.watch.step()
    if delta is not None:
        await _seal(life, evidence.clock_step(life.watch.stamp(), delta))
        life.watch.took_step(delta)
    life.watch.heard_server(round(life.machine.true_s() * 1000))
    for _ in range(_PER_PATROL):
        life.number += 1
        at, known = life.watch.stamp()
        true_ms = life.machine.true_s() * 1000
        life.row.expect((known == Clock.SYNC) <= (abs(at - true_ms) <= 61_000), "a wrong clock passed for a right one")
        await _seal(life, Draft(Kind.CHECK_RUN, secrets.token_hex(16), at, known, "0" * 32, {"number": life.number}))
    await _let_leave(life)
    assert life.uploader is not None
    life.uploader.wake.set()


async def _seal(life: Life, draft: Draft) -> None:
    await life.store.write(queue.append, draft)
    life.sealed_at.append(life.machine.true_s())
    life.row.count("entries")


def _step(life: Life, seconds: int) -> None:
    before = life.machine.wall_ms()
    life.machine.wall_at_0 += seconds
    life.steps.append(life.machine.wall_ms() - before)
    life.row.count("steps")


async def _forward(life: Life) -> None:
    _step(life, TEN_YEARS_S)


async def _back(life: Life) -> None:
    _step(life, -TEN_YEARS_S)


async def _suspend(life: Life) -> None:
    """Wall and boot clock go on while nothing runs; who waited tries at the next turn."""
    life.machine.boot_at_0 += SUSPENDED_S
    life.machine.wall_at_0 += SUSPENDED_S
    life.machine.asleep_s += SUSPENDED_S
    life.row.count("suspensions")
    waiting = life.store.read(queue.destination).next_retry_at_ms is not None
    asked = len(life.server.asked)
    await asyncio.sleep(SLACK_S)
    life.row.expect(not waiting or len(life.server.asked) > asked, "no try within 10 s of a suspension of three days")


async def _reboot_in_1970(life: Life) -> None:
    """Start the agent anew on a machine whose clock knows nothing; at the next hour it is set right."""
    await life.stop()
    life.store.close()
    life.machine.boot_at_0 = 20.0 - life.machine.loop.time()
    life.machine.wall_at_0 = 20.0 - life.machine.loop.time()
    life.store = opening.open_store(appliance.Places(life.folder), life.machine.watch().stamp())
    life.watch = life.machine.watch()
    life.server.asked.append(life.machine.boot_s())  # the wait counts from here at the most
    life.start()
    life.row.count("boots in 1970")
    await _patrol(life)
    await loop_passes(life, PATROL_S)
    before = life.machine.wall_ms()
    life.machine.wall_at_0 = appliance.STAMP[0] / 1000 + life.machine.asleep_s
    life.steps.append(life.machine.wall_ms() - before)


def _receipted_before(tx: Tx, time_s: float) -> int:
    """Return how many entries had a receipt by then (s since 1970)."""
    size: int | None = tx.execute("SELECT max(size) FROM receipts WHERE cosigned_at_s < ?", (time_s,)).fetchone()[0]
    return size or 0


def _judge(life: Life) -> None:
    """All is there, once, in the order in which it was sealed; each step is told; nothing left before its time."""
    row = life.row
    told = appliance.told(life.store)
    row.expect(told.epochs == 1, "a sound store was taken for a damaged one")
    row.expect(set(told.leaves.values()) == life.server.has(), "here and on the server are not the same entries")
    (stored,) = life.server.logs.values()
    payloads = [line.entry for line in stored.lines if line.entry is not None]
    numbers = [entry.body["number"] for entry in payloads if entry.kind == Kind.CHECK_RUN]
    row.expect(numbers == list(range(1, life.number + 1)), "the order is not that of the sealing, or one stands twice")
    deltas = sum(entry.body["delta_ms"] for entry in payloads if entry.kind == Kind.CLOCK_STEP)
    due = sum(life.steps)
    row.expect(abs(deltas - due) <= 5_000 or life.watch.step() is not None, f"moved by {due} ms, told of {deltas} ms")
    kept = life.store.read(lambda tx: tx.execute("SELECT min(seq) FROM queued_evidence").fetchone()[0])
    row.count("left after their time", kept)
    now = life.machine.true_s()
    # A block leaves as a whole, once its last entry was receipted long enough ago.
    reckoned_s = life.store.read(retention.now_ms, life.machine.wall_ms()) / 1000
    due = life.store.read(_receipted_before, reckoned_s - KEEP_S) >= leaves.BLOCK
    row.expect(kept > 0 or not due, "nothing left 30 days after its receipt")
    row.expect(not kept or now - life.sealed_at[kept - 1] >= KEEP_S, "a payload left before its time")
