"""A repair that never helps and an order that always fails, in a whole fleet: the bounds, and the stop switch.

Two plays by the code of `cc-agent simulate`, on its clock that jumps; every appliance has a real store and heals by the
agent's own code. Its root helper is a stand-in that keeps no bound, so what it counts is what the agent's bounds let
through.

In the first all appliances live through six hours against the witness in memory, in which a check breaks again and
again, and a stop comes after four; at full length a few live through thirty hours. In the second a tenth of them (20 at
least) meet the real server and PostgreSQL: an order for all of them, whose 5 % counts 40 more that are in service and
never heard of, fails on the canary and, resumed, three times in a row, and a stop comes while it goes on. The server's
own round, each minute, is done on the simulation's clock.
"""

import asyncio
import threading
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
from tests.operators import Operator, unlimited, with_key

HOUR_S = 3600.0
SHORT_H, LONG_H, AFTER_STOP_H = 6, 30, 2
FULL_FROM, LIVE_LONG = 400, 20
BUDGET, SHARE_PERCENT, FAILURES = 3, 5, 3
HOURLY_S, MINUTELY_S = 3600.0, 60.0
LATE = 1.1  # chance stretches the time between two check-ins so far
AT_ONCE_S = 30.0  # from a check-in's answer to what it asks for, after the 20 s of what the helper is still at
BESIDE = 40
AFTER_STOP_STEPS = 25  # of 5 s
RUNBOOK = "run-backup"
_RELEASED = "SELECT count(*) FROM orders WHERE envelope IS NOT NULL"
T = TypeVar("T")

_OPEN = "SELECT count(*) FROM incidents WHERE resolved_at IS NULL AND escalated_at IS NULL"
_ASKED = "SELECT count(*) FROM incidents WHERE escalated_at IS NOT NULL"
_ALL = "SELECT count(*) FROM incidents"
_TRIED = "SELECT count(*) FROM attempts"
_BESIDE = """
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin)
    SELECT 'acme-beside', 'acme', 'beside-' || n, 'box', sha256(n::text::bytea), now()
    FROM generate_series(1, $1::int) n
"""
_GOING = """
    SELECT count(*) FROM orders WHERE envelope IS NOT NULL AND status IN ('pending', 'acknowledged', 'running')
"""


def run(seed: int, count: int) -> Row:
    """Let so many appliances heal in vain, and a tenth of them be ordered in vain."""
    row = Row()
    with central.quiet():
        _heal_in_vain(row, seed, count, SHORT_H)
        if count >= FULL_FROM:
            _heal_in_vain(row, seed, LIVE_LONG, LONG_H)
        _order_in_vain(row, seed, max(count // 10, 20))
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
    row.count("appliances", count)
    row.count("repairs in vain", outcome.summary["repairs"])
    row.count(f"in 24 h at most, of {hours} h", outcome.summary["most_repairs_in_a_day"])
    row.count("incidents, all at L3", sum(one.all for one in told))
    _judge_told(row, told, outcome.summary)
    _judge_stop(row, stage.deeds, stopped, HOURLY_S)


@dataclass
class Stopped:
    """When the stop was set (ms UTC), how many appliances there were, and what had been begun by then."""

    at_ms: int = 0
    begun: int = 0
    orders: int = 0


async def _stop_in_memory(wire: MemoryWire, stopped: Stopped, hours: int, these: list[Appliance]) -> None:
    await asyncio.sleep((hours - AFTER_STOP_H) * HOUR_S)
    _give_policies(wire, len(these), "stop")
    _note_stop(stopped, these)


def _note_stop(stopped: Stopped, these: list[Appliance]) -> None:
    machine = these[0].machine
    assert machine is not None
    stopped.at_ms = these[0].agent.pace.now_ms()
    stopped.begun, stopped.orders = len(machine.deeds.begun), len(machine.deeds.of("order"))


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
    row.expect(summary["repairs"] > len(told), "there were hardly any repairs, so nothing is proved")
    for number, one in enumerate(told, 1):
        row.expect(one.unanswered == 0, f"appliance {number}: {one.unanswered} incidents are with nobody")
        row.expect(one.asked == one.all, f"appliance {number}: {one.asked} of {one.all} incidents ended at L3")


def _judge_stop(row: Row, deeds: Deeds, stopped: Stopped, every_s: float) -> None:
    """Expect nothing to begin after an appliance heard of the stop, nor later than one check-in after it."""
    row.expect(stopped.at_ms > 0, "the stop was never set")
    late = [one for one in deeds.begun[stopped.begun :] if _is_late(one, stopped.at_ms, every_s)]
    row.count("begun before the stop was heard", len(deeds.begun) - stopped.begun - len(late))
    row.expect(not late, f"{len(late)} begun after the stop was heard, the first: {late[:1]}")


def _is_late(one: Begun, stopped_ms: int, every_s: float) -> bool:
    heard = (one.heard_ms or 0) >= stopped_ms and one.at_ms > (one.heard_ms or 0) + AT_ONCE_S * 1000
    return heard or one.at_ms > stopped_ms + (every_s * LATE + AT_ONCE_S) * 1000


@dataclass
class Far:
    """The real server, in a thread whose time is the real one."""

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
    """Serve from another thread, with no rounds of the server's own: those are done on the simulation's clock."""
    made = unlimited(central.settings(folder, CCSERVER_SWEEP_SECONDS="0"))
    with central.postgres(durable=False) as postgres:
        ready: Future[tuple[Far, asyncio.Event]] = Future()

        async def serve() -> None:
            end = asyncio.Event()
            async with central.serving(made, postgres.urls(central.LIVE)) as running:
                ready.set_result((Far(asyncio.get_running_loop(), running), end))
                await end.wait()

        thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
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
    cap: int
    stopped: Stopped = field(default_factory=Stopped)
    reasons: list[str] = field(default_factory=list)
    begun_at_pause: list[int] = field(default_factory=list)
    most_out: int = 0
    released_later: int = 0


def _order_in_vain(row: Row, seed: int, count: int) -> None:
    with scratch() as folder, _serving(folder) as far:
        codes = far.now(_prepare(far.running, count))
        scenario = _scenario(
            seed,
            count,
            server_url=far.running.url,
            duration_s=600,
            ramp_s=MINUTELY_S,
            checkin_interval_s=MINUTELY_S,
            healing=Healing(breaks_per_day=200, person_after_s=3600),
            objectives=Objectives(errors=0, all_receipted=True, most_repairs_in_a_day=BUDGET),
        )
        ordered = Ordered(far, max(1, (count + BESIDE) * SHARE_PERCENT // 100))
        stage = Stage(folder, codes, meanwhile=partial(_order, ordered))
        outcome = fleet.play(scenario, stage)
    for one in outcome.objectives:
        row.expect(one["held"], f"real server: {one['objective']} is {one['got']}, wanted {one['wanted']}")
    _judge_orders(row, ordered, stage.deeds, count)
    _judge_stop(row, stage.deeds, ordered.stopped, MINUTELY_S)


def _judge_orders(row: Row, ordered: Ordered, deeds: Deeds, count: int) -> None:
    row.count("appliances of the real server", count)
    row.count("orders in vain", len(deeds.of("order")))
    row.count(f"out at once at most, of {ordered.cap}", ordered.most_out)
    most = max(ordered.most_out, deeds.most_running)
    row.expect(most <= ordered.cap, f"{most} orders at once, where {ordered.cap} may be")
    row.expect(ordered.most_out == ordered.cap, "the bound was never reached, so nothing is proved")
    row.expect(ordered.reasons == ["the canary failed", "3 failures in a row"], f"it paused for {ordered.reasons}")
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
    await asyncio.sleep(2.5 * MINUTELY_S)  # by then all follow the policy and have receipts
    who = await far.ask(with_key(far.running, "technician"))
    body = {"runbook_id": RUNBOOK, "sites": ["acme-clinic"]}
    made = await far.ask(who.call("POST", "fleet-orders", json=body))
    made.raise_for_status()
    place = f"fleet-orders/{made.json()['fleet_order']['id']}"
    for _ in range(FAILURES - 1):
        ordered.reasons.append(await _until_paused(ordered, who, place))
        ordered.begun_at_pause.append(_orders(these))
        (await far.ask(who.call("POST", f"{place}/resume"))).raise_for_status()
    before = _orders(these)
    while _orders(these) == before:
        await _step(ordered)
    await far.ask(_set_mode(far.running, "stop"))
    released = await far.ask(_number(far.running, _RELEASED))
    _note_stop(ordered.stopped, these)
    for _ in range(AFTER_STOP_STEPS):
        await _step(ordered)
    ordered.released_later = await far.ask(_number(far.running, _RELEASED)) - released


def _orders(these: list[Appliance]) -> int:
    return sum(len(one.machine.deeds.of("order")) for one in these[:1] if one.machine is not None)


async def _until_paused(ordered: Ordered, who: Operator, place: str) -> str:
    """Return why it paused."""
    while True:
        await _step(ordered)
        said = (await ordered.far.ask(who.call("GET", place))).json()["fleet_order"]
        if said["status"] != "running":
            return str(said["pause_reason"])


async def _step(ordered: Ordered) -> None:
    """Let five seconds pass; see how many orders are out, and do the server's round where a minute is over."""
    loop, server = asyncio.get_running_loop(), ordered.far.running
    before = loop.time()
    await asyncio.sleep(5)
    if int(loop.time() // MINUTELY_S) != int(before // MINUTELY_S):
        await ordered.far.ask(fleets.advance_every(server.db, Means(server.keys, catalogue.load())))
    ordered.most_out = max(ordered.most_out, await ordered.far.ask(_number(server, _GOING)))


async def _number(server: Running, query: str) -> int:
    async with server.db.platform() as scope:
        return int(await scope.conn.fetchval(query))
