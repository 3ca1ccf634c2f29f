"""Which sites an overview shows, in which order, and what they come to together. Functions of values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ccserver.compliance import Score
from ccserver.queries.overview import SiteRow

PER_PAGE = 50


class Show(StrEnum):
    """Which sites are listed."""

    ALL = "all"
    FAILING = "failing"
    UNKNOWN = "unknown"
    INCIDENTS = "incidents"
    ONLINE = "online"
    OVERDUE = "overdue"
    OFFLINE = "offline"
    NEVER = "never"
    WAITING = "waiting"
    ALARMS = "alarms"
    CLOSED = "closed"


class Sort(StrEnum):
    """In which order they are listed."""

    WORST = "worst"
    NAME = "name"
    SCORE = "score"
    WAITING = "waiting"


# What brings a site into a list; a closed one is in its own list only.
_SHOWN: dict[Show, Callable[[SiteRow], object]] = {
    Show.ALL: lambda _: True,
    Show.FAILING: lambda site: site.score.failed,
    Show.UNKNOWN: lambda site: site.score.unknown or site.score.value is None,
    Show.INCIDENTS: lambda site: site.open_incidents,
    Show.ONLINE: lambda site: site.online,
    Show.OVERDUE: lambda site: site.overdue,
    Show.OFFLINE: lambda site: site.offline,
    Show.NEVER: lambda site: site.never,
    Show.WAITING: lambda site: site.waiting,
    Show.ALARMS: lambda site: site.forks or site.faults,
}


@dataclass(frozen=True)
class Summary:
    """All open sites of a partner together; `as_of` is the oldest, and None where no site has one.

    `settled` counts incidents that a level settled, since the sites began.
    """

    sites: int
    closed: int
    failing: int
    alarms: int
    score: Score
    as_of: datetime | None
    online: int
    overdue: int
    offline: int
    never: int
    waiting: int
    waiting_since: datetime | None
    open_critical: int
    open_high: int
    open_medium: int
    open_low: int
    l1: int
    l2: int
    l3: int
    succeeded: int
    incidents: int

    @property
    def settled(self) -> int:
        """How many incidents a rule, the planner or a person settled."""
        return self.l1 + self.l2 + self.l3

    def share(self, count: int) -> str:
        """Return how much of what was settled a count is; never 100 % for less than all, nor 0 % for some."""
        if not self.settled:
            return "none"
        whole = round(100 * count / self.settled)
        if 0 < count < self.settled:
            whole = min(max(whole, 1), 99)
        return f"{whole} %"


def listed(sites: Sequence[SiteRow], show: Show, sort: Sort, search: str) -> list[SiteRow]:
    """Return the sites of a list in its order; `search` is part of a name or an id, in any case."""
    part = search.strip().casefold()
    found = [
        site
        for site in sites
        if (site.closed_at is not None) == (show is Show.CLOSED)
        and (show is Show.CLOSED or _SHOWN[show](site))
        and (part in site.name.casefold() or part in site.id)
    ]
    return sorted(found, key=_KEYS[sort])


def summary(sites: Sequence[SiteRow]) -> Summary:
    """Return the partner's sums over its sites, without the closed ones."""
    still = [site for site in sites if site.closed_at is None]

    def total(name: str) -> int:
        return sum(getattr(site, name) for site in still)

    counted = (
        "online", "overdue", "offline", "never", "waiting", "open_critical", "open_high", "open_medium", "open_low",
        "l1", "l2", "l3", "succeeded", "incidents",
    )  # fmt: skip
    return Summary(
        sites=len(still),
        closed=len(sites) - len(still),
        failing=sum(site.score.failed > 0 for site in still),
        alarms=sum(bool(site.forks or site.faults) for site in still),
        score=_together([site.score for site in still]),
        as_of=min((site.as_of for site in still if site.as_of), default=None),
        waiting_since=min((site.waiting_since for site in still if site.waiting_since), default=None),
        **{name: total(name) for name in counted},
    )


def _together(scores: Sequence[Score]) -> Score:
    return Score(
        sum(score.passed for score in scores),
        sum(score.failed for score in scores),
        sum(score.unknown for score in scores),
        sum(score.waived for score in scores),
    )


def _gravity(site: SiteRow) -> int:
    """Return what is worst about a site, 0 the gravest: a log that is not what was signed, to nothing at all."""
    signs = (
        site.forks or site.faults,
        site.open_critical,
        site.score.failed,
        site.offline,
        site.open_incidents,
        site.overdue or site.never,
        site.score.unknown or site.score.value is None,
    )
    return next((place for place, sign in enumerate(signs) if sign), len(signs))


def _worst(site: SiteRow) -> tuple[int | str, ...]:
    return (
        _gravity(site), -site.open_critical, -site.score.failed, -site.offline, -site.open_high, -site.open_incidents,
        -site.score.unknown, site.name.casefold(), site.id,
    )  # fmt: skip


def _by_score(site: SiteRow) -> tuple[float | str, ...]:
    value = site.score.value  # nothing known stands before everything that is
    return (-1.0 if value is None else value, -site.score.unknown, site.name.casefold(), site.id)


def _by_waiting(site: SiteRow) -> tuple[float | str, ...]:
    since = site.waiting_since.timestamp() if site.waiting_since else float("inf")
    return (since, -site.waiting, site.name.casefold(), site.id)


_KEYS: dict[Sort, Callable[[SiteRow], tuple[float | str, ...]]] = {
    Sort.WORST: _worst,
    Sort.NAME: lambda site: (site.name.casefold(), site.id),
    Sort.SCORE: _by_score,
    Sort.WAITING: _by_waiting,
}
