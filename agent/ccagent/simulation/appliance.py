"""One appliance of a simulated fleet: the agent's own loops, and findings that chance makes instead of checks."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ccagent import daemon, finding, identity, opening, patrol, queue, repairing
from ccagent.client import Client
from ccagent.clock import Clocks, ClockWatch
from ccagent.config import ChecksSettings, Config
from ccagent.daemon import Agent
from ccagent.finding import Drift, Finding
from ccagent.host import Host
from ccagent.identity import Enrolment
from ccagent.patrol import Patrol
from ccagent.places import Places
from ccagent.report import Vitals
from ccagent.scrubbing import load_key
from ccagent.simulation import mending
from ccagent.simulation.lines import Cut
from ccagent.simulation.mending import Machine
from ccagent.simulation.scenario import Scenario
from ccagent.uploader import Pace
from ccshared.vocabulary import Family, Severity

STEP_S = 5.0
NOTICED_AFTER_S = 1.0  # as a real agent lets the changes of its network settle


class FleetPlaces(Places):
    """An appliance's files, but one ballast for the whole fleet, since it has one disk."""

    @property
    def ballast(self) -> Path:
        """The fleet's."""
        return self.state_dir.parent / "ballast"


@dataclass
class Appliance:
    """One of the fleet. `chance` is its own; `failing` are the checks that fail at the moment.

    `time` gives the seconds since the play began. Where there is a `machine`, what breaks on it is repaired.
    """

    number: int
    agent: Agent
    who: Enrolment
    cuts: Sequence[Cut]
    chance: random.Random
    never_mends: bool
    failing: list[str] = field(default_factory=list)
    rounds: int = 0
    time: Callable[[], float] = field(default=lambda: 0.0)
    machine: Machine | None = None

    @property
    def name(self) -> str:
        """Its host name."""
        return name_of(self.number)

    def waiting(self) -> int:
        """Return how many entries have no receipt yet."""
        return self.agent.store.read(queue.status).waiting


def name_of(number: int) -> str:
    """Return the host name of the appliance with that number, from 1."""
    return f"sim-{number:05}"


def places_of(state_dir: Path, number: int) -> Places:
    """Return where an appliance of the fleet keeps its files."""
    return FleetPlaces(state_dir / name_of(number))


def switch_on(scenario: Scenario, places: Places, number: int, zero_ms: int) -> Agent:
    """Open an enrolled appliance's store and return its agent, on the clock of the running loop.

    `zero_ms` (UTC) is what the wall clock says when the loop's time is 0: one for all, or what one did is judged by
    when another did.
    """
    time = asyncio.get_running_loop().time
    chance = random.Random(f"{scenario.seed} pace {number}")  # noqa: S311 - to be repeated, not to be secret
    clocks = Clocks(lambda: zero_ms + round(time() * 1000), time, lambda: True)
    watch = ClockWatch(clocks)
    step_s = STEP_S if scenario.clock == "real" else math.inf
    return Agent(
        config=Config(),
        places=places,
        store=opening.open_store(places, watch.stamp()),
        scrub_key=load_key(places.scrub_key),
        vitals=Vitals(started_at_ms=clocks.wall()),
        watch=watch,
        pace=Pace(chance.uniform, time, clocks.wall, step_s),
        hostname=name_of(number),
        checkin_every_s=scenario.checkin_interval_s,
    )


async def live(one: Appliance, scenario: Scenario, client: Client, end: asyncio.Event) -> None:
    """Run an appliance from its own moment within the ramp until the end; findings stop when the duration is over."""
    await asyncio.sleep(one.chance.uniform(0, scenario.ramp_s))
    loops = daemon.server_loops(one.agent, one.who, client)
    loops["rounds"] = partial(_rounds, one, scenario)
    loops["line"] = partial(_notice, one)
    if one.machine is not None:
        loops["breaks"] = partial(mending.breaks, one.machine, lambda: one.time() > scenario.duration_s)
        loops["looks"] = partial(_looks, one, one.machine)
        loops["healing"] = partial(repairing.work, one.agent.healer)
    await daemon.together(end.wait(), loops)


async def _looks(one: Appliance, machine: Machine) -> None:
    """Do the rounds of the check that breaks, as a real agent's patrol does them."""
    while True:
        await mending.wait_for_news(machine)
        about = await machine.examine(mending.CHECK, machine.host, one.agent.config.checks, datetime.now(UTC))
        await _take(one, [about])


async def _rounds(one: Appliance, scenario: Scenario) -> None:
    """Find something now and then, as often as the scenario says in the mean."""
    rate = (scenario.evidence_per_hour + scenario.incidents_per_hour) / 3600
    incidents = scenario.incidents_per_hour / 3600
    while rate > 0:
        await asyncio.sleep(one.chance.expovariate(rate))
        if one.time() > scenario.duration_s:
            break
        found = _incident(one) if one.chance.random() * rate < incidents else _evidence(one)
        await _take(one, found)
    await asyncio.Event().wait()


async def _take(one: Appliance, found: list[Finding]) -> None:
    await patrol.take(_patrol(one), found)
    one.agent.found.set()
    if one.agent.uploader is not None:
        one.agent.uploader.wake.set()


def _patrol(one: Appliance) -> Patrol:
    agent = one.agent
    return Patrol(
        store=agent.store,
        watch=agent.watch,
        host=Host.here(),
        checks=ChecksSettings(),
        scrub_key=agent.scrub_key,
        version=identity.version(),
        site_id=one.who.identity.site_id,
        healer=agent.healer if one.machine is not None else None,
    )


def _evidence(one: Appliance) -> list[Finding]:
    """Return a check that says something new, and those that failed as mended."""
    one.rounds += 1
    if one.never_mends:
        checks = [one.chance.choice([str(family) for family in Family if str(family) not in one.failing] or ["backup"])]
        return [_passed(one, check) for check in checks if check not in one.failing]
    mended, one.failing = one.failing, []
    return [_passed(one, check) for check in {*mended, one.chance.choice([str(family) for family in Family])}]


def _incident(one: Appliance) -> list[Finding]:
    one.rounds += 1
    check = one.chance.choice([str(family) for family in Family])
    if check not in one.failing:
        one.failing.append(check)
    drift = Drift(Severity.HIGH, "simulated_drift")
    return [finding.failed(check, one.name, f"simulated: round {one.rounds} found a drift", {}, drift)]


def _passed(one: Appliance, check: str) -> Finding:
    return finding.passed(check, one.name, f"simulated: round {one.rounds} found nothing amiss", {})


async def _notice(one: Appliance) -> None:
    """Tell the agent when its link is back, where the kernel would."""
    for cut in sorted((cut for cut in one.cuts if cut.noticed), key=lambda cut: cut.end_s):
        await asyncio.sleep(max(0.0, cut.end_s + NOTICED_AFTER_S - one.time()))
        daemon.nudge(one.agent)
    await asyncio.Event().wait()
