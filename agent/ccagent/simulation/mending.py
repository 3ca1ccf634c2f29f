"""What breaks on an appliance of a simulated fleet, and who stands in for its root helper. Healing is the agent's own.

No root process runs for what is no machine. The stand-in answers as the helper does, but keeps no bound of
its own: what it counts is what the agent's bounds let through.
"""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ccagent import daemon, finding, incidents
from ccagent.config import ChecksSettings
from ccagent.daemon import Agent
from ccagent.finding import Drift, Finding
from ccagent.helper_client import HelperRefusedError
from ccagent.host import Host
from ccagent.simulation.scenario import Healing
from ccshared.vocabulary import Family, Severity

CHECK, DRIFT = str(Family.BACKUP), "backup_missing"
DAY_MS = 24 * 3_600_000
LOOK_S = 300.0  # between two rounds of a real agent


@dataclass(frozen=True)
class Begun:
    """An order or a repair that a helper was asked for: where and when (ms UTC).

    `asked_ms` and `heard_ms` are when its last check-in by then was asked and answered: what was set in between, the
    answer need not tell.
    """

    kind: str
    number: int
    at_ms: int
    asked_ms: int | None
    heard_ms: int | None


@dataclass
class Deeds:
    """All that the fleet's helpers did: what was begun, and how many orders ran at the same moment at most."""

    begun: list[Begun] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def begin(self, what: Begun) -> None:
        """Count that something begins."""
        self.begun.append(what)
        self.running += what.kind == "order"
        self.most_running = max(self.most_running, self.running)

    def end(self, kind: str) -> None:
        """Count that something ended."""
        self.running -= kind == "order"

    def summary(self) -> dict[str, Any]:
        """Return what was counted, by names that objectives use."""
        repairs = self.of("repair")
        return {
            "repairs": len(repairs),
            "orders": len(self.begun) - len(repairs),
            "most_orders_at_once": self.most_running,
            "most_repairs_in_a_day": most_in_a_day(repairs),
        }

    def of(self, kind: str) -> list[Begun]:
        """Return what of a kind was begun, in order."""
        return [one for one in self.begun if one.kind == kind]


def most_in_a_day(begun: list[Begun]) -> int:
    """Return how many one appliance began within 24 h at most, wherever that day begins."""
    times = defaultdict(list)
    for one in begun:
        times[one.number].append(one.at_ms)
    return max((sum(at <= other < at + DAY_MS for other in of) for of in times.values() for at in of), default=0)


@dataclass
class Machine:
    """What a simulated appliance stands on: whether its backup stopped, and who answers in its helper's place."""

    number: int
    agent: Agent
    host: Host
    knobs: Healing
    chance: random.Random
    deeds: Deeds
    broken: bool = False
    asked_ms: int | None = None
    heard_ms: int | None = None
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer as the root helper does; HelperRefusedError for what it does not know."""
        match request.get("ask"):
            case "repair" | "order" as kind:
                answer = await self._run(kind)
                if kind == "repair":
                    self.ended[str(request.get("id"))] = answer
                return answer
            case "outcome" if str(request.get("id")) in self.ended:
                return self.ended[str(request.get("id"))]
            case "keys":
                return {"ok": True}
        raise HelperRefusedError("nothing is known of it")

    def checked_in(self, took_s: float) -> None:
        """Note that a check-in is answered now, and when it was asked."""
        self.heard_ms = self.agent.pace.now_ms()
        self.asked_ms = self.heard_ms - round(took_s * 1000)

    async def _run(self, kind: str) -> dict[str, Any]:
        self.deeds.begin(Begun(kind, self.number, self.agent.pace.now_ms(), self.asked_ms, self.heard_ms))
        try:
            await asyncio.sleep(self.knobs.repair_s)
        finally:
            self.deeds.end(kind)
        helped = self.chance.random() < self.knobs.helps
        self.broken = self.broken and not helped
        step = {"about": "the simulated repair", "exit_code": int(not helped), "output": ""}
        reason = "" if helped else "the simulated repair did not help"
        return {"ok": True, "status": "succeeded" if helped else "failed", "reason": reason, "steps": [step]}

    async def examine(self, name: str, host: Host, _settings: ChecksSettings, _now: datetime) -> Finding:
        """Return what a check of this machine says."""
        if name == CHECK and self.broken:
            drift = Drift(Severity.HIGH, DRIFT)
            return finding.failed(name, host.host_id, "simulated: there is no backup", {}, drift)
        return finding.passed(name, host.host_id, "simulated: nothing is amiss", {})


def equip(machine: Machine) -> None:
    """Let an agent heal this machine and no other; an order for its checks looks at this one too."""
    healer = machine.agent.healer
    healer.ask, healer.examine, healer.host = machine.ask, machine.examine, lambda: machine.host
    machine.agent.directives.errands = {**machine.agent.directives.errands, "run_checks_now": _nothing}


async def _nothing(_: object) -> str:
    return "simulated: nothing to see"


async def breaks(machine: Machine, is_over: Callable[[], bool]) -> None:
    """Let the backup stop at chance's moments until it is over; a person mends what nothing else did."""
    if machine.chance.random() < machine.knobs.breaking_share and machine.knobs.breaks_per_day:
        while True:
            await asyncio.sleep(machine.chance.expovariate(machine.knobs.breaks_per_day / 86_400))
            if is_over():
                break
            machine.broken = True
            machine.agent.look.set()
            await asyncio.sleep(machine.knobs.person_after_s or math.inf)
            machine.broken = False
            machine.agent.look.set()
    await asyncio.Event().wait()


def is_unsettled(machine: Machine) -> bool:
    """Return whether an incident is neither repaired nor with a person."""
    return bool(machine.agent.store.read(incidents.unanswered))


async def wait_for_news(machine: Machine) -> None:
    """Return when there is something to look at: at the next round, or at once where the agent was told to look.

    Where nothing is broken and nobody waits, no round is due: it would find what the last one found.
    """
    await daemon.heard(machine.agent.look, LOOK_S if is_unsettled(machine) else None)
    machine.agent.look.clear()
