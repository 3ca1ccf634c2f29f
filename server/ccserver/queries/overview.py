"""The overview of a partner: one statement, and a page of its sites, from what is kept up at write time."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from ccserver.compliance import FRESH_FOR, Score
from ccserver.liveness import ONLINE_FOR, OVERDUE_FOR
from ccserver.scope import PartnerScope
from ccshared.vocabulary import Family

if TYPE_CHECKING:
    import asyncpg

_FAMILIES = [str(family) for family in Family]
_COUNTED = (
    "sites", "closed", "failing", "alarms", "online", "overdue", "offline", "never", "waiting", "open_critical",
    "open_high", "open_medium", "open_low", "l1", "l2", "l3", "succeeded",
)  # fmt: skip
_NOTHING = r"\A\Z."  # no name holds what no text of the database can


class Show(StrEnum):
    """Which sites are listed: a closed one in its own list only."""

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


@dataclass(frozen=True)
class Asked:
    """Which sites are listed: `search` is part of a name or an id, in any case; `auditor_id` sees assigned ones."""

    show: Show = Show.ALL
    sort: Sort = Sort.WORST
    search: str = ""
    offset: int = 0
    limit: int = 50
    auditor_id: str | None = None


@dataclass(frozen=True)
class SiteRow:
    """A site in numbers.

    `as_of` is the oldest fresh check run in the score, `last_run` the newest of all, None without any. What waits is by
    the appliances' last check-ins, of which `waiting_as_of` is the oldest; `waiting_since` is None where nothing waits
    or no clock can say. `open_…` count incidents by severity, `alarms` what is wrong with its logs.
    """

    id: str
    name: str
    closed_at: datetime | None
    score: Score
    as_of: datetime | None
    last_run: datetime | None
    online: int
    overdue: int
    offline: int
    never: int
    waiting: int
    waiting_since: datetime | None
    waiting_as_of: datetime | None
    open_critical: int
    open_high: int
    open_medium: int
    open_low: int
    alarms: int

    @property
    def appliances(self) -> int:
        """How many appliances are in service."""
        return self.online + self.overdue + self.offline + self.never

    @property
    def open_incidents(self) -> int:
        """How many incidents are open, of any severity."""
        return self.open_critical + self.open_high + self.open_medium + self.open_low


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


@dataclass(frozen=True)
class Overview:
    """A partner's sums, how many sites are in the list that was asked for, and a page of them."""

    summary: Summary
    total: int
    sites: list[SiteRow]


async def read(scope: PartnerScope, now: datetime, asked: Asked) -> Overview:
    """Return the partner's sums, or those of the sites that an auditor may read, and a page of its sites.

    Worst first: a log that is not what was signed, open critical incidents, failing checks, an appliance offline, other
    open incidents, one overdue or never heard of, what is not known. A family that never ran on one is unknown.
    """
    row = await scope.conn.fetchrow(
        """
        WITH site AS MATERIALIZED (
            SELECT *, CASE WHEN alarms > 0 THEN 0 WHEN open_critical > 0 THEN 1 WHEN failed > 0 THEN 2
                           WHEN offline > 0 THEN 3 WHEN open > 0 THEN 4 WHEN overdue + never > 0 THEN 5
                           WHEN unknown > 0 OR passed + failed = 0 THEN 6 ELSE 7 END AS gravity
            FROM cc_sites_stand($1, $2, $3, $4, $5, $6, $7)
        ), listed AS MATERIALIZED (
            SELECT * FROM site
            WHERE (closed_at IS NOT NULL) = ($8 = 'closed')
              AND CASE $8 WHEN 'failing' THEN failed > 0 WHEN 'unknown' THEN unknown > 0 OR passed + failed = 0
                          WHEN 'incidents' THEN open > 0 WHEN 'online' THEN online > 0 WHEN 'overdue' THEN overdue > 0
                          WHEN 'offline' THEN offline > 0 WHEN 'never' THEN never > 0 WHEN 'waiting' THEN waiting > 0
                          WHEN 'alarms' THEN alarms > 0 ELSE true END
              AND ($10 = '' OR name ~ $10 OR id ~ $10)
        )
        SELECT sums.*, (SELECT count(*) FROM site WHERE closed_at IS NOT NULL) AS closed,
               (SELECT count(*) FROM listed) AS total,
               ARRAY(SELECT ROW(id, name, closed_at, passed, failed, unknown, waived, as_of, last_run, online, overdue,
                                offline, never, waiting, waiting_since, waiting_as_of, open_critical, open_high,
                                open_medium, open_low, alarms)
                     FROM listed
                     ORDER BY CASE $9
                                  WHEN 'worst' THEN ARRAY[gravity, -open_critical, -failed, -offline, -open_high, -open,
                                                          -unknown]::float8[]
                                  WHEN 'score' THEN ARRAY[coalesce(passed::float8 / nullif(passed + failed, 0), -1),
                                                          -unknown]
                                  WHEN 'waiting' THEN ARRAY[coalesce(extract(epoch FROM waiting_since), 'infinity'),
                                                            -waiting]::float8[]
                              END, lower(name), id
                     LIMIT $11 OFFSET $12) AS page
        FROM (SELECT count(*) AS sites, count(*) FILTER (WHERE failed > 0) AS failing, min(as_of) AS as_of,
                     count(*) FILTER (WHERE alarms > 0) AS alarms, sum(passed) AS passed, sum(failed) AS failed,
                     sum(unknown) AS unknown, sum(waived) AS waived, sum(online) AS online, sum(overdue) AS overdue,
                     sum(offline) AS offline, sum(never) AS never, sum(waiting) AS waiting,
                     min(waiting_since) AS waiting_since, sum(open_critical) AS open_critical,
                     sum(open_high) AS open_high, sum(open_medium) AS open_medium, sum(open_low) AS open_low,
                     sum(l1) AS l1, sum(l2) AS l2, sum(l3) AS l3, sum(succeeded) AS succeeded
              FROM site WHERE closed_at IS NULL) sums
        """,
        *(scope.partner_id, asked.auditor_id, *_bounds(now), _FAMILIES, str(asked.show), str(asked.sort)),
        *(_pattern(asked.search), asked.limit, asked.offset),
    )
    assert row is not None  # noqa: S101  sums are always one row
    return Overview(_summary(row), row["total"], [_row(each) for each in row["page"]])


def _pattern(search: str) -> str:
    """Return what finds a text in any case, wherever the database's own idea of a letter's case ends."""
    text = search.strip()
    if "\x00" in text:
        return _NOTHING
    return "".join(_in_any_case(letter) for letter in text)


def _in_any_case(letter: str) -> str:
    same = {each for each in (letter, letter.lower(), letter.upper()) if len(each) == 1}
    return f"({'|'.join(sorted(same))})" if letter.isalpha() else re.escape(letter)


def _bounds(now: datetime) -> tuple[datetime, datetime, datetime, datetime]:
    """Return since when a check-in is online, and overdue; what waives now; and since when a run is fresh."""
    return now - ONLINE_FOR, now - OVERDUE_FOR, now, now - FRESH_FOR


def _summary(row: "asyncpg.Record") -> Summary:
    """Return the sums by their names; of no site they are nothing."""
    counted = {name: int(row[name] or 0) for name in _COUNTED}
    score = Score(*(int(row[name] or 0) for name in ("passed", "failed", "unknown", "waived")))
    return Summary(score=score, as_of=row["as_of"], waiting_since=row["waiting_since"], **counted)


def _row(found: "asyncpg.Record") -> SiteRow:
    """Return the row of columns in its order."""
    site_id, name, closed_at, passed, failed, unknown, waived, *rest = found
    return SiteRow(site_id, name, closed_at, Score(passed, failed, unknown, waived), *rest)
