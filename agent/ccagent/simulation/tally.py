"""What a simulation counts, and whether its objectives held."""

import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ccagent.simulation.scenario import Objectives


@dataclass
class Tally:
    """Counts of one fleet. Moments are seconds of the simulation's clock, latencies milliseconds.

    `awaited` is, for each appliance, when its outages end; the first request to reach the server after that takes it.
    """

    appliances: int
    awaited: dict[int, list[float]] = field(default_factory=dict)
    first_contacts: list[float] = field(default_factory=list)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: Counter[int] = field(default_factory=Counter)
    checkins: int = 0
    cut: int = 0
    unanswered: int = 0
    errors: int = 0
    peak: int = 0
    peak_at_s: int = 0
    is_over: bool = False
    _second: int = -1
    _who: set[int] = field(default_factory=set)

    def await_return(self, number: int, at_s: float) -> None:
        """Expect an appliance back from that moment on."""
        self.awaited.setdefault(number, []).append(at_s)

    def reached(self, number: int, now: float) -> None:
        """Count that a request of an appliance reaches the server."""
        back = [at for at in self.awaited.get(number, ()) if at <= now]
        if back:
            self.awaited[number] = [at for at in self.awaited[number] if at > now]
            self.first_contacts += [now - at for at in back]
        if int(now) != self._second:
            self._second, self._who = int(now), set()
        self._who.add(number)
        if len(self._who) > self.peak:
            self.peak, self.peak_at_s = len(self._who), self._second

    def answered(self, what: str, status: int, took_ms: float) -> None:
        """Count an answer; a log that the server has not heard of is none of its faults."""
        self.latencies.append(took_ms)
        self.statuses[status] += 1
        self.checkins += what == "POST /checkin" and status < 300
        self.errors += status >= 400 and not (status == 404 and what.startswith("GET /log/"))

    def failed(self) -> None:
        """Count a request that nothing answered although the line was there, and not because the play was over."""
        if self.is_over:
            return
        self.unanswered += 1
        self.errors += 1

    @property
    def never_back(self) -> int:
        """How many appliances are awaited still."""
        return sum(bool(moments) for moments in self.awaited.values())

    def summary(self) -> dict[str, Any]:
        """Return what was counted, by names that objectives use."""
        return {
            "requests": len(self.latencies),
            "cut": self.cut,
            "checkins": self.checkins,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "unanswered": self.unanswered,
            "errors": self.errors,
            "p50_ms": _quantile(self.latencies, 0.5),
            "p99_ms": _quantile(self.latencies, 0.99),
            "peak_per_s": self.peak,
            "peak_at_s": self.peak_at_s,
            "peak_share_per_s": self.peak / self.appliances,
            "first_contacts": len(self.first_contacts),
            "never_back": self.never_back,
            "median_first_contact_s": statistics.median(self.first_contacts) if self.first_contacts else None,
            "last_first_contact_s": max(self.first_contacts, default=None),
        }


def judge(objectives: Objectives, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each objective that was given with what was wanted, what came of it, and whether it held.

    What could not be measured has not held.
    """
    judged = []
    for name, wanted in objectives.model_dump(exclude_none=True).items():
        got = summary[name]
        held = got == wanted if isinstance(wanted, bool) else got is not None and got <= wanted
        if name == "median_first_contact_s":
            held = held and not summary["never_back"]
        judged.append({"objective": name, "wanted": wanted, "got": got, "held": held})
    return judged


def _quantile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3) if ordered else None
