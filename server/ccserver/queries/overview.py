"""The overview of a partner: one statement, and a row for each site, from what is kept up at write time."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ccserver.compliance import FRESH_FOR, Score
from ccserver.liveness import ONLINE_FOR, OVERDUE_FOR
from ccserver.scope import PartnerScope
from ccshared.vocabulary import Family

if TYPE_CHECKING:
    import asyncpg

_FAMILIES = [str(family) for family in Family]


@dataclass(frozen=True)
class SiteRow:
    """A site in numbers.

    `as_of` is the oldest fresh check run in the score, `last_run` the newest of all, None without any. What waits is by
    the appliances' last check-ins, of which `waiting_as_of` is the oldest; `waiting_since` is None where nothing waits
    or no clock can say. `open` counts by severity and `levels` by L1, L2, L3, of `incidents` since the site began, of
    which `succeeded` were repaired. `forks` and `faults` are of its logs.
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
    incidents: int
    succeeded: int
    l1: int
    l2: int
    l3: int
    forks: int
    faults: int

    @property
    def appliances(self) -> int:
        """How many appliances are in service."""
        return self.online + self.overdue + self.offline + self.never

    @property
    def open_incidents(self) -> int:
        """How many incidents are open, of any severity."""
        return self.open_critical + self.open_high + self.open_medium + self.open_low


async def sites(scope: PartnerScope, now: datetime, auditor_id: str | None = None) -> list[SiteRow]:
    """Return a row for every site of the partner, or for those that an auditor may read, by name."""
    rows = await scope.conn.fetch(
        """
        WITH box AS MATERIALIZED (
            SELECT site_id, id, last_checkin, waiting,
                   oldest_at - coalesce(clock_offset_ms, 0) * interval '1 millisecond' AS since
            FROM appliances WHERE partner_id = $1 AND revoked_at IS NULL
        ), boxes AS (
            SELECT site_id, count(*) FILTER (WHERE last_checkin > $3) AS online,
                   count(*) FILTER (WHERE last_checkin <= $3 AND last_checkin > $4) AS overdue,
                   count(*) FILTER (WHERE last_checkin <= $4) AS offline,
                   count(*) FILTER (WHERE last_checkin IS NULL) AS never, sum(waiting)::bigint AS waiting,
                   min(since) FILTER (WHERE waiting > 0 AND since <= last_checkin) AS waiting_since,
                   min(last_checkin) FILTER (WHERE waiting > 0) AS waiting_as_of
            FROM box GROUP BY site_id
        ), waived AS MATERIALIZED (
            SELECT site_id, check_id, bool_or(host_id IS NULL) AS everywhere, array_agg(host_id) AS hosts
            FROM waivers WHERE partner_id = $1 AND revoked_at IS NULL AND expires_at > $5
            GROUP BY site_id, check_id
        ), state AS (
            SELECT c.site_id, c.appliance_id, c.seen_at, 1 << array_position($7::text[], c.check_id) AS family,
                   CASE WHEN w.everywhere OR c.host_id = ANY (w.hosts) THEN 3 WHEN c.seen_at <= $6 THEN 4
                        WHEN c.status = 'pass' THEN 0 WHEN c.status = 'fail' THEN 1 ELSE 2 END AS said
            FROM check_states c LEFT JOIN waived w ON w.site_id = c.site_id AND w.check_id = c.check_id
            WHERE c.partner_id = $1
            OFFSET 0  -- so that each is said once, and not anew for every sum
        ), checked AS (
            SELECT site_id, appliance_id, count(*) FILTER (WHERE said = 0) AS passed,
                   count(*) FILTER (WHERE said = 1) AS failed, count(*) FILTER (WHERE said = 3) AS waived,
                   count(*) FILTER (WHERE said IN (2, 4)) AS unknown, max(seen_at) AS last_run,
                   min(seen_at) FILTER (WHERE said < 3) AS as_of, bit_or(family) AS families
            FROM state GROUP BY site_id, appliance_id
        ), checks AS (
            SELECT c.site_id, sum(passed)::bigint AS passed, sum(failed)::bigint AS failed,
                   sum(waived)::bigint AS waived, sum(unknown)::bigint AS unknown, min(as_of) AS as_of,
                   max(last_run) AS last_run, sum(bit_count(families::bit(32)))::bigint AS families
            FROM checked c JOIN box ON box.site_id = c.site_id AND box.id = c.appliance_id
            GROUP BY c.site_id
        )
        SELECT s.id, s.name, s.closed_at, coalesce(passed, 0), coalesce(failed, 0), coalesce(unknown, 0),
               coalesce(waived, 0), coalesce(families, 0), as_of, last_run, coalesce(online, 0), coalesce(overdue, 0),
               coalesce(offline, 0), coalesce(never, 0), coalesce(waiting, 0), waiting_since, waiting_as_of,
               coalesce(open_critical, 0), coalesce(open_high, 0), coalesce(open_medium, 0), coalesce(open_low, 0),
               coalesce(incidents, 0), coalesce(success_count, 0), coalesce(l1_count, 0), coalesce(l2_count, 0),
               coalesce(l3_count, 0), coalesce(forks, 0), coalesce(faults, 0)
        FROM sites s LEFT JOIN boxes ON boxes.site_id = s.id LEFT JOIN checks ON checks.site_id = s.id
        LEFT JOIN site_totals t ON t.partner_id = $1 AND t.site_id = s.id
        LEFT JOIN (SELECT site_id, count(*) AS forks FROM equivocations WHERE partner_id = $1 GROUP BY site_id) e
          ON e.site_id = s.id
        LEFT JOIN (SELECT site_id, count(*) AS faults FROM log_verifications
                   WHERE partner_id = $1 AND fault IS NOT NULL GROUP BY site_id) v ON v.site_id = s.id
        LEFT JOIN user_sites u ON u.partner_id = $1 AND u.site_id = s.id AND u.user_id = $2
        WHERE s.partner_id = $1 AND ($2::text IS NULL OR u.user_id IS NOT NULL)
        ORDER BY s.name, s.id
        """,
        *(scope.partner_id, auditor_id, *_bounds(now), _FAMILIES),
    )
    return [_row(row) for row in rows]


def _bounds(now: datetime) -> tuple[datetime, datetime, datetime, datetime]:
    """Return since when a check-in is online, and overdue; what waives now; and since when a run is fresh."""
    return now - ONLINE_FOR, now - OVERDUE_FOR, now, now - FRESH_FOR


def _row(found: "asyncpg.Record") -> SiteRow:
    """Return the row of columns in its order; a family that never ran on an appliance is unknown."""
    site_id, name, closed_at, passed, failed, unknown, waived, families, as_of, last_run, *rest = found
    silent = sum(rest[:4]) * len(_FAMILIES) - families
    score = Score(passed, failed, unknown + silent, waived)
    return SiteRow(site_id, name, closed_at, score, as_of, last_run, *rest)
