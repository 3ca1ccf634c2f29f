"""An appliance's way to the server: cut when the scenario says so, and counted."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ccagent.client import Answer, Request, Wire
from ccagent.simulation.scenario import Scenario
from ccagent.simulation.tally import Tally

CONNECT_S = 15.0  # how long the client waits for a connection that never comes
FLAP_EVERY_S, FLAP_FOR_S = 60.0, 10.0


@dataclass(frozen=True)
class Cut:
    """A span (s) in which nothing gets through; `every_s` later it is the same again, for ever where that is finite.

    `silent`: nobody even refuses. `noticed`: the appliance's kernel tells it when the link is back.
    """

    start_s: float
    end_s: float
    silent: bool = False
    noticed: bool = False
    every_s: float = math.inf

    def covers(self, now: float) -> bool:
        """Return whether the line is cut now."""
        since = now - self.start_s
        return since >= 0 and since % self.every_s < self.end_s - self.start_s


@dataclass(frozen=True)
class Line:
    """A wire that may be cut. `time` is the simulation's clock, `stopwatch` what latencies are measured with (s).

    `checked_in` is told of each check-in that was answered, and how long that took by the simulation's clock (s).
    """

    wire: Wire
    number: int
    cuts: Sequence[Cut]
    tally: Tally
    time: Callable[[], float]
    stopwatch: Callable[[], float]
    checked_in: Callable[[float], None] = lambda _: None

    async def exchange(self, request: Request) -> Answer:
        """Return the server's answer; OSError when the line is cut."""
        for cut in self.cuts:
            if cut.covers(self.time()):
                await self._get_nowhere(cut)
        asked_at = self.time()
        self.tally.reached(self.number, asked_at)
        began, answer = self.stopwatch(), None
        try:
            answer = await self.wire.exchange(request)
        finally:
            if answer is None:
                self.tally.failed()
        self.tally.answered(f"{request.method} {request.path}", answer.status, (self.stopwatch() - began) * 1000)
        if request.path.endswith("/checkin") and answer.status == 200:
            self.checked_in(self.time() - asked_at)
        return answer

    async def _get_nowhere(self, cut: Cut) -> None:
        self.tally.cut += 1
        if cut.silent:
            await asyncio.sleep(CONNECT_S)
            raise TimeoutError("the line is cut")
        raise ConnectionRefusedError("the line is cut")


@dataclass(frozen=True)
class HeldWire:
    """A wire to a real server: while it answers, simulated time passes as real time does."""

    wire: Wire
    held: Callable[[], AbstractContextManager[None]]

    async def exchange(self, request: Request) -> Answer:
        """Return the server's answer."""
        with self.held():
            return await self.wire.exchange(request)


def cuts_of(scenario: Scenario, chance: random.Random) -> list[Cut]:
    """Return when one appliance's line is cut, as chance has it."""
    cuts = []
    for outage in scenario.outage:
        if chance.random() < outage.share:
            back_s = outage.end_s + chance.uniform(0, outage.spread_s)
            silent, noticed = chance.random() < outage.silent_share, chance.random() < outage.noticed_share
            cuts.append(Cut(outage.start_s, back_s, silent, noticed))
    if scenario.offline_share and chance.random() < scenario.offline_share:
        cuts.append(Cut(0.0, scenario.duration_s))
    if chance.random() < scenario.flapping_share:
        start_s = chance.uniform(0, FLAP_EVERY_S)
        cuts.append(Cut(start_s, start_s + FLAP_FOR_S, every_s=FLAP_EVERY_S))
    return cuts
