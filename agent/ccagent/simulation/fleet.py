"""The whole of a simulation: enrol who is new, let all live for the scenario's duration, count and judge."""

import asyncio
import contextlib
import importlib.util
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ccagent import clock, enrolment, identity, queue
from ccagent.client import Client, HttpWire, Wire
from ccagent.daemon import Agent
from ccagent.enrolment import EnrolmentError
from ccagent.host import Host
from ccagent.simulation import appliance, lines, mending, tally
from ccagent.simulation.appliance import Appliance
from ccagent.simulation.lines import HeldWire, Line
from ccagent.simulation.mending import Deeds, Machine
from ccagent.simulation.scenario import Scenario
from ccagent.simulation.simulated_time import SimulatedLoop
from ccagent.simulation.tally import Tally

FILES_EACH, FILES_BESIDE = 5, 128
PROGRESS_S = 1.0
_OPTIONAL = "sniffio"


class FleetError(Exception):
    """The simulation cannot begin; the message says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What a simulation counted, its judged objectives, and whether it was told to stop before its end."""

    summary: dict[str, Any]
    objectives: list[dict[str, Any]]
    interrupted: bool

    @property
    def held(self) -> bool:
        """Whether every objective held."""
        return all(one["held"] for one in self.objectives)


@dataclass
class Stage:
    """Where a scenario is played: state directory, enrolment codes, and whom to tell how far it is.

    `wire` stands for the server where it is given, and answers on the simulation's clock. `start_ms` (UTC) is when the
    play begins, None: now. `meanwhile` goes on beside the fleet, on its clock; when it fails, so does the play. `deeds`
    are what helpers did.
    """

    state_dir: Path
    codes: Sequence[str] = ()
    wire: Wire | None = None
    start_ms: int | None = None
    tell: Callable[[str], None] = field(default=lambda _: None)
    meanwhile: Callable[[list[Appliance]], Awaitable[None]] | None = None
    deeds: Deeds = field(default_factory=Deeds)


def play(scenario: Scenario, stage: Stage) -> Outcome:
    """Play a scenario and return what came of it; SIGINT and SIGTERM end it early, and it still says what it saw.

    FleetError and EnrolmentError before it begins; appliances that were enrolled by then stay so.
    """
    _say_what_is_absent()
    _allow_files(scenario.appliances * FILES_EACH + FILES_BESIDE)
    simulated = partial(SimulatedLoop, scenario.speed) if scenario.clock == "simulated" else None
    with asyncio.Runner(loop_factory=simulated) as runner:
        return runner.run(_play(scenario, stage))


async def _play(scenario: Scenario, stage: Stage) -> Outcome:
    began = time.monotonic()
    with _stop_signals() as stop:
        async with _wire(scenario, stage) as wire:
            enrolled = await _enrol(scenario, stage, wire, stop)
            counts = Tally(scenario.appliances)
            with contextlib.ExitStack() as stores:
                fleet, zero_ms = [], wall_at_zero_ms(scenario, stage)
                for number in range(1, scenario.appliances + 1):
                    fleet.append(one := _member(scenario, stage, number, counts, zero_ms))
                    stores.callback(one.agent.store.close)
                await _live(scenario, stage, _Run(fleet, counts, wire, stop))
                summary = _summary(fleet, counts) | {"enrolled_now": enrolled} | _healed(fleet, stage.deeds)
    summary |= {"simulated_s": round(asyncio.get_running_loop().time() - _zero(scenario, began), 1)}
    summary |= {"real_s": round(time.monotonic() - began, 1), "processor_s": round(time.process_time(), 1)}
    summary |= {"peak_memory_bytes": _memory_bytes()}
    return Outcome(summary, tally.judge(scenario.objectives, summary), stop.is_set())


@dataclass(frozen=True)
class _Run:
    fleet: list[Appliance]
    counts: Tally
    wire: Wire
    stop: asyncio.Event


def _zero(scenario: Scenario, began: float) -> float:
    return 0.0 if scenario.clock == "simulated" else began


@contextlib.asynccontextmanager
async def _wire(scenario: Scenario, stage: Stage) -> AsyncIterator[Wire]:
    if stage.wire is not None:
        yield stage.wire
        return
    async with HttpWire(scenario.server_url, connections=scenario.connections) as http:
        loop = asyncio.get_running_loop()
        yield HeldWire(http, loop.held) if isinstance(loop, SimulatedLoop) else http


async def _enrol(scenario: Scenario, stage: Stage, wire: Wire, stop: asyncio.Event) -> int:
    """Enrol the appliances that are not yet, each with the next code that is good; return how many."""
    new = [number for number in range(1, scenario.appliances + 1) if not _is_known(stage, number)]
    codes = iter(stage.codes)
    connect = cast("enrolment.Connect", partial(Client, scenario.server_url, wire=wire))
    for done, number in enumerate(new):
        if stop.is_set():
            raise FleetError(f"interrupted: {done} of {len(new)} appliances were enrolled, and stay so")
        if not await _enrol_one(connect, stage, number, codes):
            raise FleetError(
                f"{len(new) - done} appliances are not enrolled and no code is left: make that many with"
                " 'ccserver enroll-code create' and give them in a file"
            )
        stage.tell(f"{done + 1} of {len(new)} enrolled")
    return len(new)


async def _enrol_one(connect: enrolment.Connect, stage: Stage, number: int, codes: Iterator[str]) -> bool:
    """Enrol an appliance with the first code that nobody used; False when there is none."""
    for code in codes:
        try:
            await enrolment.enroll_by(
                connect, appliance.places_of(stage.state_dir, number), code, appliance.name_of(number)
            )
        except EnrolmentError as error:
            if str(error) != enrolment.CODE_USED:
                raise
        else:
            return True
    return False


def _is_known(stage: Stage, number: int) -> bool:
    return identity.load_enrolment(appliance.places_of(stage.state_dir, number)) is not None


def wall_at_zero_ms(scenario: Scenario, stage: Stage) -> int:
    """Return what the one wall clock of all appliances says (ms UTC) when the loop's time is 0."""
    if stage.start_ms is not None:
        return stage.start_ms
    passed_s = asyncio.get_running_loop().time() + scenario.begins_ago_s
    return clock.now_ms() - round(passed_s * 1000)


def _member(scenario: Scenario, stage: Stage, number: int, counts: Tally, zero_ms: int) -> Appliance:
    places = appliance.places_of(stage.state_dir, number)
    who = identity.load_enrolment(places)
    if who is None:
        raise FleetError(f"{places.state_dir} holds no enrolled appliance: start again")
    chance = random.Random(f"{scenario.seed} life {number}")  # noqa: S311 - to be repeated, not to be secret
    cuts = lines.cuts_of(scenario, chance)
    for cut in cuts:
        if cut.end_s <= scenario.duration_s:
            counts.await_return(number, cut.end_s)
    agent = appliance.switch_on(scenario, places, number, zero_ms)
    machine = _machine(scenario, stage, number, agent)
    return Appliance(number, agent, who, cuts, chance, chance.random() < scenario.failing_share, machine=machine)


def _machine(scenario: Scenario, stage: Stage, number: int, agent: Agent) -> Machine | None:
    """Return what an appliance heals, where the scenario lets anything break."""
    if scenario.healing is None:
        return None
    chance = random.Random(f"{scenario.seed} machine {number}")  # noqa: S311 - to be repeated, not to be secret
    machine = Machine(number, agent, Host(appliance.name_of(number)), scenario.healing, chance, stage.deeds)
    mending.equip(machine)
    return machine


def _healed(fleet: list[Appliance], deeds: Deeds) -> dict[str, Any]:
    unsettled = sum(one.machine is not None and mending.is_unsettled(one.machine) for one in fleet)
    return deeds.summary() | {"unsettled": unsettled}


async def _live(scenario: Scenario, stage: Stage, run: _Run) -> None:
    """Let all live for the duration and what goes on beside it, and then until all is receipted."""
    loop = asyncio.get_running_loop()
    began, end = loop.time(), asyncio.Event()

    def since() -> float:
        return loop.time() - began

    stopwatch = loop.time if stage.wire is not None else time.perf_counter
    lives = []
    for one in run.fleet:
        line = Line(run.wire, one.number, one.cuts, run.counts, since, stopwatch)
        if one.machine is not None:
            line = replace(line, checked_in=one.machine.checked_in)
        client = Client(scenario.server_url, enrolment.device(one.who), wire=line)
        lives.append(asyncio.create_task(appliance.live(replace(one, time=since), scenario, client, end)))
    beside = None if stage.meanwhile is None else asyncio.ensure_future(stage.meanwhile(run.fleet))
    try:
        await _watch(scenario, stage, run, began)
        if beside is not None:
            await _unless_stopped(run.stop, beside)
        await _settle(scenario, run)
    finally:
        run.counts.is_over = True
        end.set()
        if beside is not None:
            beside.cancel()
        await asyncio.gather(*lives, return_exceptions=True)


async def _watch(scenario: Scenario, stage: Stage, run: _Run, began: float) -> None:
    loop, told = asyncio.get_running_loop(), 0.0
    over, step = began + scenario.duration_s, max(scenario.duration_s / 200, 0.2)
    while loop.time() < over and not run.stop.is_set():
        await _sleep(run.stop, min(step, over - loop.time()))
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            stage.tell(
                f"{loop.time() - began:.0f} of {scenario.duration_s:.0f} s, {len(run.counts.latencies)} requests,"
                f" {run.counts.errors} errors"
            )


async def _unless_stopped(stop: asyncio.Event, beside: "asyncio.Future[None]") -> None:
    stopped = asyncio.ensure_future(stop.wait())
    either: set[asyncio.Future[Any]] = {stopped, beside}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if beside.done():
        beside.result()


async def _settle(scenario: Scenario, run: _Run) -> None:
    """Wait until all is receipted, or the time for that is over."""
    loop = asyncio.get_running_loop()
    until = loop.time() + scenario.settle_s
    for one in run.fleet:
        if one.agent.uploader is not None:
            one.agent.uploader.wake.set()
    while (
        asyncio.get_running_loop().time() < until and not run.stop.is_set() and any(one.waiting() for one in run.fleet)
    ):
        await _sleep(run.stop, 0.5)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def _summary(fleet: list[Appliance], counts: Tally) -> dict[str, Any]:
    kept = [one.agent.store.read(queue.status) for one in fleet]
    waiting = sum(one.waiting for one in kept)
    return {
        "appliances": len(fleet),
        "entries": sum(one.size for one in kept),
        "receipted": sum(one.watermark for one in kept),
        "waiting": waiting,
        "all_receipted": waiting == 0 and all(one.watermark for one in kept),
        **counts.summary(),
    }


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _say_what_is_absent() -> None:
    """Spare each request a search of the whole path: the HTTP library imports sniffio again and again, in vain."""
    if importlib.util.find_spec(_OPTIONAL) is None:
        sys.modules[_OPTIONAL] = cast("ModuleType", None)


def _allow_files(count: int) -> None:
    """Let this process open so many files; FleetError when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise FleetError(f"so many appliances need {count} open files, and {hard} are allowed: raise 'ulimit -Hn'")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
