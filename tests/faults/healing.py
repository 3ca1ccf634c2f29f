"""A repair that never helps and an order that always fails, in a whole fleet: the bounds, and the stop switch.

Plays by the code of `cc-agent simulate`, on its clock that jumps; every appliance has a real store and heals by the
agent's own code. Its root helper is a stand-in that keeps no bound, so what it counts is what the agent's bounds let
through.

In the first a few appliances live against the witness in memory, through thirty hours at full length, in which a check
breaks again and again, and a stop comes two hours before the end. In the second all meet the real server, a process of
its own, and PostgreSQL: a check breaks on each, a person mends it, it breaks again; an order for all of them, whose
5 % counts 40 more that are in service and never heard of, fails on the canary and, resumed, three times in a row; and
a stop comes while it goes on and repairs do. The server's own round, each minute, is done on the simulation's clock.
"""

import asyncio
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ccagent.places import Places
from ccagent.simulation import appliance, fleet
from ccagent.simulation.appliance import Appliance
from ccagent.simulation.fleet import Stage
from ccagent.simulation.mending import Begun, Deeds
from ccagent.simulation.scenario import Healing, Objectives, Scenario
from ccagent.simulation.simulated_time import SimulatedLoop
from ccagent.store import Store, Tx
from ccserver import catalogue, fleets
from ccserver.fleets import Means
from ccshared import envelope, policy, rules
from ccshared.envelope import PayloadType
from ccshared.policy import Policy
from tests.devices import Running
from tests.faults import central
from tests.faults.appliance import ORDER, STAMP
from tests.faults.herd import settle_in
from tests.faults.memory_wire import MemoryWire
from tests.faults.rows import Row, scratch
from tests.operators import Operator, with_key

HOUR_S = 3600.0
SHORT_H, LONG_H, AFTER_STOP_H = 6, 30, 2
FULL_FROM, LIVE_LONG = 400, 20
BUDGET, SHARE_PERCENT, FAILURES = 3, 5, 3
HOURLY_S, MINUTELY_S, STEP_S = 3600.0, 60.0, 5.0
LATE = 1.1  # chance stretches the time between two check-ins so far
AT_ONCE_S = 30.0  # from a check-in's answer to what it asks for, after the 20 s of what the helper is still at
BESIDE = 40
RUNBOOK = "run-backup"
_RELEASED = "SELECT count(*) FROM orders WHERE envelope IS NOT NULL"
T = TypeVar("T")

_OPEN = "SELECT count(*) FROM incidents WHERE resolved_at IS NULL AND escalated_at IS NULL"
_ASKED = "SELECT count(*) FROM incidents WHERE escalated_at IS NOT NULL"
_ALL = "SELECT count(*) FROM incidents"
_TRIED = "SELECT count(*) FROM attempts"
_NOT_ASKED = "SELECT count(*) FROM incidents WHERE escalated_at IS NULL"
_BESIDE = """
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin)
    SELECT 'acme-beside', 'acme', 'beside-' || n, 'box', sha256(n::text::bytea), now()
    FROM generate_series(1, $1::int) n
"""
_GOING = """
    SELECT count(*) FROM orders WHERE envelope IS NOT NULL AND status IN ('pending', 'acknowledged', 'running')
"""


@dataclass(frozen=True)
class Shape:
    """How the play against the real server goes (s): when the order is given, and how long the stop is looked at."""

    checkin_s: float
    breaks_per_day: float
    person_after_s: float
    order_at_s: float
    watched_s: float
    duration_s: float
    repairs_each: float  # more than so many an appliance, or nothing is proved


SHORT = Shape(60, 200, 3600, 150, 125, 600, 0)
# The third try ends half an hour after the first, for rounds come each five minutes; then a person is asked. When the
# stop comes, most have used up their budget, many were mended and broke again, and some are still at it.
LONG = Shape(300, 144, 2400, 3000, 480, 4500, 1.5)


def run(seed: int, count: int) -> Row:
    """Let a few appliances heal in vain for hours, and so many against the real server, and be ordered in vain."""
    row = Row()
    full = count >= FULL_FROM
    with central.quiet():
        _heal_in_vain(row, seed, LIVE_LONG, LONG_H if full else SHORT_H)
        _order_in_vain(row, seed, count, LONG if full else SHORT)
    return row


def _scenario(seed: int, count: int, **more: Any) -> Scenario:
    return Scenario(appliances=count, seed=seed, clock="simulated", evidence_per_hour=0, **more)


def _heal_in_vain(row: Row, seed: int, count: int, hours: int) -> None:
    with scratch() as folder:
        wire, stopped = MemoryWire(STAMP[0]), Stopped()
        for number in range(1, count + 1):
            settle_in(folder, number, wire, seed, 0)
        _give_policies(wire, count, "heal")
        scenario = _scenario(
            seed,
            count,
            server_url="https://cc.example",
            duration_s=hours * HOUR_S,
            ramp_s=MINUTELY_S,
            settle_s=3 * HOUR_S,
            checkin_interval_s=HOURLY_S,
            healing=Healing(breaks_per_day=12, person_after_s=5400),
            objectives=Objectives(errors=0, all_receipted=True, most_repairs_in_a_day=BUDGET),
        )
        stage = Stage(folder, wire=wire, start_ms=STAMP[0], meanwhile=partial(_stop_in_memory, wire, stopped, hours))
        outcome = fleet.play(scenario, stage)
        told = [_told(appliance.places_of(folder, number)) for number in range(1, count + 1)]
    for one in outcome.objectives:
        row.expect(one["held"], f"{one['objective']} is {one['got']}, wanted {one['wanted']}")
    row.count(f"appliances for {hours} h", count)
    row.count("repairs in vain", outcome.summary["repairs"])
    row.expect(outcome.summary["repairs"] > count, "there were hardly any repairs, so nothing is proved")
    row.count("of one in 24 h at most", outcome.summary["most_repairs_in_a_day"])
    row.count("incidents, all at L3", sum(one.all for one in told))
    _judge_told(row, told, outcome.summary)
    _judge_stop(row, stage.deeds, stopped, HOURLY_S)


@dataclass
class Stopped:
    """When the stop was set (ms UTC), what had been begun by then, and on how many appliances tries were left."""

    at_ms: int = 0
    begun: int = 0
    orders: int = 0
    untried: int = 0


async def _stop_in_memory(wire: MemoryWire, stopped: Stopped, hours: int, these: list[Appliance]) -> None:
    await asyncio.sleep((hours - AFTER_STOP_H) * HOUR_S)
    _give_policies(wire, len(these), "stop")
    _note_stop(stopped, these)


def _note_stop(stopped: Stopped, these: list[Appliance]) -> None:
    machine = these[0].machine
    assert machine is not None
    stopped.at_ms = these[0].agent.pace.now_ms()
    stopped.begun, stopped.orders = len(machine.deeds.begun), len(machine.deeds.of("order"))
    tried = Counter(one.number for one in machine.deeds.of("repair"))
    stopped.untried = sum(
        one.machine is not None and one.machine.broken and tried[one.number] < BUDGET for one in these
    )


def _give_policies(wire: MemoryWire, count: int, mode: Any) -> None:
    version = STAMP[0] + (mode == "stop")
    known = tuple(catalogue.load().values())
    made = Policy("clinic", "", version, mode, policy.ALWAYS, False, {}, rules.BUILT_IN, known)
    for number in range(1, count + 1):
        said = policy.make(replace(made, appliance=f"ap-{number}"))
        signed = envelope.sign(PayloadType.POLICY, said, ORDER, "cc.example/server/order-1").to_json()
        wire.policies[f"ap-{number}"] = (version, signed)


@dataclass(frozen=True)
class Told:
    """What an appliance's store holds: incidents, those that nobody answered, those a person was asked about, tries."""

    all: int
    unanswered: int
    asked: int
    tries: int


def _told(places: Places) -> Told:
    store = Store.open(places)
    try:
        return store.read(_counted)
    finally:
        store.close()


def _counted(tx: Tx) -> Told:
    return Told(*(tx.execute(query).fetchone()[0] for query in (_ALL, _OPEN, _ASKED, _TRIED)))


def _judge_told(row: Row, told: list[Told], summary: dict[str, Any]) -> None:
    row.expect(sum(one.tries for one in told) == summary["repairs"], "tries are on record that no helper was asked for")
    for number, one in enumerate(told, 1):
        row.expect(one.unanswered == 0, f"appliance {number}: {one.unanswered} incidents are with nobody")
        row.expect(one.asked == one.all, f"appliance {number}: {one.asked} of {one.all} incidents ended at L3")


def _judge_stop(row: Row, deeds: Deeds, stopped: Stopped, every_s: float) -> None:
    """Expect nothing to begin after an appliance heard of the stop, nor later than one check-in after it."""
    row.expect(stopped.at_ms > 0, "the stop was never set")
    late = [one for one in deeds.begun[stopped.begun :] if _is_late(one, stopped.at_ms, every_s)]
    row.count("broken with budget left when the stop came", stopped.untried)
    row.count("begun before the stop was heard", len(deeds.begun) - stopped.begun - len(late))
    row.expect(
        not late, f"{len(late)} begun after the stop was heard, the first: {late[:1]}, the stop at {stopped.at_ms}"
    )


def _is_late(one: Begun, stopped_ms: int, every_s: float) -> bool:
    heard = (one.asked_ms or 0) >= stopped_ms and one.at_ms > (one.heard_ms or 0) + AT_ONCE_S * 1000
    return heard or one.at_ms > stopped_ms + (every_s * LATE + AT_ONCE_S) * 1000


@dataclass
class Far:
    """The real server, asked by a thread whose time is the real one."""

    loop: asyncio.AbstractEventLoop
    running: Running

    async def ask(self, asked: Coroutine[Any, Any, T]) -> T:
        """Let something be done there while simulated time passes as it really does."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        with loop.held():
            return await asyncio.wrap_future(self._begin(asked))

    def now(self, asked: Coroutine[Any, Any, T]) -> T:
        return self._begin(asked).result()

    def _begin(self, asked: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(asked, self.loop)


@contextmanager
def _serving(folder: Path) -> Iterator[Far]:
    """Serve from a process of its own, which does no rounds: those are done on the simulation's clock."""
    made = central.settings(folder)
    with central.postgres(durable=False) as postgres:
        process = central.Process(
            made, postgres.urls(central.LIVE), {"CCSERVER_SWEEP_SECONDS": "0", **central.UNLIMITED}
        )
        process.start()
        try:
            with _asking(process) as far:
                yield far
        finally:
            process.kill(signal.SIGTERM)


@contextmanager
def _asking(process: central.Process) -> Iterator[Far]:
    """Let the server and its database be asked from a thread of their own, whose time is the real one."""
    ready: Future[tuple[Far, asyncio.Event]] = Future()

    async def ask() -> None:
        end = asyncio.Event()
        await process.ready()
        async with central.at(process.made, process.urls) as running:
            ready.set_result((Far(asyncio.get_running_loop(), running), end))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(ask(),), daemon=True)
    thread.start()
    far, end = ready.result(60)
    try:
        yield far
    finally:
        far.loop.call_soon_threadsafe(end.set)
        thread.join(30)


@dataclass
class Ordered:
    """What was seen of the order for many: why it paused, and how many orders were out at the same moment at most."""

    far: Far
    shape: Shape
    cap: int
    stopped: Stopped = field(default_factory=Stopped)
    reasons: list[str] = field(default_factory=list)
    begun_at_pause: list[int] = field(default_factory=list)
    most_out: int = 0
    released_later: int = 0


def _order_in_vain(row: Row, seed: int, count: int, shape: Shape) -> None:
    with _room(count) as folder, _serving(folder) as far:
        codes = far.now(_prepare(far.running, count))
        scenario = _scenario(
            seed,
            count,
            server_url=far.running.url,
            duration_s=shape.duration_s,
            ramp_s=shape.checkin_s,
            settle_s=2 * shape.checkin_s,
            checkin_interval_s=shape.checkin_s,
            healing=Healing(breaks_per_day=shape.breaks_per_day, person_after_s=shape.person_after_s),
            objectives=Objectives(errors=0, all_receipted=True, most_repairs_in_a_day=BUDGET),
        )
        ordered = Ordered(far, shape, max(1, (count + BESIDE) * SHARE_PERCENT // 100))
        stage = Stage(folder, codes, meanwhile=partial(_order, ordered))
        outcome = fleet.play(scenario, stage)
        told = [_told(appliance.places_of(folder, number)) for number in range(1, count + 1)]
        elsewhere = far.now(_number(far.running, _NOT_ASKED))
    for one in outcome.objectives:
        row.expect(one["held"], f"real server: {one['objective']} is {one['got']}, wanted {one['wanted']}")
    row.count("appliances of the real server", count)
    row.count(f"repairs there, of {count * BUDGET:,} at most", outcome.summary["repairs"])
    row.expect(outcome.summary["repairs"] > count * shape.repairs_each, "there were hardly any repairs there")
    row.expect(outcome.summary["repairs"] <= count * BUDGET, "more repairs than the budget of all appliances")
    row.count("incidents there, all at L3", sum(one.all for one in told))
    row.expect(elsewhere == 0, f"the server knows of {elsewhere} incidents that are not with a person")
    _judge_told(row, told, outcome.summary)
    _judge_orders(row, ordered, stage.deeds)
    _judge_stop(row, stage.deeds, ordered.stopped, shape.checkin_s)
    row.expect(ordered.stopped.untried > 0, "nothing was left to repair when the stop came, so nothing is proved")


@contextmanager
def _room(count: int) -> Iterator[Path]:
    """Yield a directory: many appliances' stores are too much for memory."""
    if count < FULL_FROM:
        with scratch() as folder:
            yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="cc-faults-") as made:
            yield Path(os.path.realpath(made))


def _judge_orders(row: Row, ordered: Ordered, deeds: Deeds) -> None:
    row.count("orders in vain", len(deeds.of("order")))
    row.count(f"out at once at most, of {ordered.cap}", ordered.most_out)
    most = max(ordered.most_out, deeds.most_running)
    row.expect(most <= ordered.cap, f"{most} orders at once, where {ordered.cap} may be")
    row.expect(ordered.most_out == ordered.cap, "the bound was never reached, so nothing is proved")
    wanted = ["the canary failed", "3 failures in a row"]
    row.expect(ordered.reasons[:2] == wanted, f"it paused for {ordered.reasons}")
    row.expect(set(ordered.reasons[2:]) <= {wanted[1]}, f"it paused for {ordered.reasons}")
    row.expect(ordered.begun_at_pause[:1] == [1], f"the canary was not alone: {ordered.begun_at_pause}")
    row.expect(ordered.stopped.orders > 0, "no order was begun before the stop")
    row.expect(ordered.released_later == 0, f"{ordered.released_later} orders were released after the stop")


async def _prepare(server: Running, count: int) -> list[str]:
    """Let healing heal, make appliances that are in service and never heard of, and return codes for the others."""
    await _set_mode(server, "heal")
    await server.add_site("acme", "acme-beside")
    async with server.db.platform() as scope:
        await scope.conn.execute(_BESIDE, BESIDE)
    return [str(await server.code("acme", "acme-clinic")) for _ in range(count)]


async def _set_mode(server: Running, mode: str) -> None:
    who, path = await with_key(server, "owner"), "settings/healing.mode"
    etag = (await who.call("GET", path)).headers["etag"]
    answer = await who.call("PUT", path, {"If-Match": etag}, json={"value": mode})
    answer.raise_for_status()


async def _order(ordered: Ordered, these: list[Appliance]) -> None:
    """Order it of all, resume it whenever it pauses, and set the stop while it goes on for the third time."""
    far = ordered.far
    await asyncio.sleep(ordered.shape.order_at_s)  # by then all follow the policy and have receipts
    who = await far.ask(with_key(far.running, "technician"))
    body = {"runbook_id": RUNBOOK, "sites": ["acme-clinic"]}
    made = await far.ask(who.call("POST", "fleet-orders", json=body))
    made.raise_for_status()
    place = f"fleet-orders/{made.json()['fleet_order']['id']}"
    for _ in range(2):
        await _pause_and_resume(ordered, who, place, these)
    before = _orders(these)
    while (
        _orders(these) == before
    ):  # what was out when it paused may be all that is begun, and fail, and pause it again
        await _step(ordered)
        if await _pause_reason(ordered, who, place):
            await _pause_and_resume(ordered, who, place, these)
    await far.ask(_set_mode(far.running, "stop"))
    released = await far.ask(_number(far.running, _RELEASED))
    _note_stop(ordered.stopped, these)
    for _ in range(int(ordered.shape.watched_s / STEP_S)):
        await _step(ordered)
    ordered.released_later = await far.ask(_number(far.running, _RELEASED)) - released


def _orders(these: list[Appliance]) -> int:
    return sum(len(one.machine.deeds.of("order")) for one in these[:1] if one.machine is not None)


async def _pause_and_resume(ordered: Ordered, who: Operator, place: str, these: list[Appliance]) -> None:
    while not (reason := await _pause_reason(ordered, who, place)):
        await _step(ordered)
    ordered.reasons.append(reason)
    ordered.begun_at_pause.append(_orders(these))
    (await ordered.far.ask(who.call("POST", f"{place}/resume"))).raise_for_status()


async def _pause_reason(ordered: Ordered, who: Operator, place: str) -> str:
    """Return why it pauses, nothing while it goes on."""
    said = (await ordered.far.ask(who.call("GET", place))).json()["fleet_order"]
    return "" if said["status"] == "running" else str(said["pause_reason"] or said["status"])


async def _step(ordered: Ordered) -> None:
    """Let five seconds pass; see how many orders are out, and do the server's round where a minute is over."""
    loop, server = asyncio.get_running_loop(), ordered.far.running
    before = loop.time()
    await asyncio.sleep(STEP_S)
    if int(loop.time() // MINUTELY_S) != int(before // MINUTELY_S):
        await ordered.far.ask(fleets.advance_every(server.db, Means(server.keys, catalogue.load())))
    ordered.most_out = max(ordered.most_out, await ordered.far.ask(_number(server, _GOING)))


async def _number(server: Running, query: str) -> int:
    async with server.db.platform() as scope:
        return int(await scope.conn.fetchval(query))
