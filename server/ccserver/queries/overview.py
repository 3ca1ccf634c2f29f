"""The overview of a partner: one statement, and a row for each site, from what is kept up at write time."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.compliance import FRESH_FOR, Score
from ccserver.liveness import ONLINE_FOR, OVERDUE_FOR
from ccserver.scope import PartnerScope
from ccshared.vocabulary import Family


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
        WITH site AS MATERIALIZED (
            SELECT s.id, s.name, s.closed_at
            FROM sites s
            WHERE s.partner_id = $1
              AND ($2::text IS NULL
                   OR EXISTS (SELECT FROM user_sites u
                              WHERE u.partner_id = $1 AND u.site_id = s.id AND u.user_id = $2))
        ), box AS MATERIALIZED (
            SELECT site_id, id, last_checkin, waiting,
                   oldest_at - coalesce(clock_offset_ms, 0) * interval '1 millisecond' AS since
            FROM appliances
            WHERE partner_id = $1 AND revoked_at IS NULL
        ), boxes AS (
            SELECT site_id, count(*) AS appliances,
                   count(*) FILTER (WHERE last_checkin > $3) AS online,
                   count(*) FILTER (WHERE last_checkin <= $3 AND last_checkin > $4) AS overdue,
                   count(*) FILTER (WHERE last_checkin <= $4) AS offline,
                   count(*) FILTER (WHERE last_checkin IS NULL) AS never,
                   coalesce(sum(waiting), 0)::bigint AS waiting,
                   min(since) FILTER (WHERE waiting > 0 AND since <= last_checkin) AS waiting_since,
                   min(last_checkin) FILTER (WHERE waiting > 0) AS waiting_as_of
            FROM box
            GROUP BY site_id
        ), waived AS MATERIALIZED (
            SELECT DISTINCT site_id, check_id, host_id
            FROM waivers
            WHERE partner_id = $1 AND revoked_at IS NULL AND expires_at > $5
        ), state AS (
            SELECT c.site_id, c.appliance_id, c.check_id, c.seen_at, c.seen_at > $6 AS fresh,
                   CASE WHEN c.seen_at > $6 THEN c.status ELSE 'unknown' END AS status,
                   every_host.site_id IS NOT NULL OR one_host.site_id IS NOT NULL AS waived
            FROM check_states c
            JOIN box ON box.site_id = c.site_id AND box.id = c.appliance_id
            LEFT JOIN waived every_host
              ON every_host.site_id = c.site_id AND every_host.check_id = c.check_id AND every_host.host_id IS NULL
            LEFT JOIN waived one_host
              ON one_host.site_id = c.site_id AND one_host.check_id = c.check_id AND one_host.host_id = c.host_id
            WHERE c.partner_id = $1
        ), checked AS (
            SELECT site_id, count(*) FILTER (WHERE NOT waived AND status = 'pass') AS passed,
                   count(*) FILTER (WHERE NOT waived AND status = 'fail') AS failed,
                   count(*) FILTER (WHERE NOT waived AND status = 'unknown') AS unknown,
                   count(*) FILTER (WHERE waived) AS waived,
                   min(seen_at) FILTER (WHERE fresh AND NOT waived) AS as_of,
                   max(seen_at) AS last_run,
                   bit_or(1 << array_position($7::text[], check_id)) AS families
            FROM state
            GROUP BY site_id, appliance_id
        ), checks AS (
            SELECT site_id, sum(passed)::bigint AS passed, sum(failed)::bigint AS failed,
                   sum(unknown)::bigint AS unknown, sum(waived)::bigint AS waived, min(as_of) AS as_of,
                   max(last_run) AS last_run, sum(bit_count(families::bit(32))) AS families
            FROM checked
            GROUP BY site_id
        ), fork AS (
            SELECT site_id, count(*) AS forks FROM equivocations WHERE partner_id = $1 GROUP BY site_id
        ), fault AS (
            SELECT site_id, count(*) AS faults
            FROM log_verifications WHERE partner_id = $1 AND fault IS NOT NULL
            GROUP BY site_id
        )
        SELECT site.id, site.name, site.closed_at,
               coalesce(passed, 0) AS passed, coalesce(failed, 0) AS failed, coalesce(checks.waived, 0) AS waived,
               coalesce(unknown, 0) + coalesce(appliances, 0) * cardinality($7::text[]) - coalesce(families, 0)::bigint
                   AS unknown,
               as_of, last_run, coalesce(online, 0) AS online, coalesce(overdue, 0) AS overdue,
               coalesce(offline, 0) AS offline, coalesce(never, 0) AS never, coalesce(waiting, 0) AS waiting,
               waiting_since, waiting_as_of, coalesce(open_critical, 0) AS open_critical,
               coalesce(open_high, 0) AS open_high, coalesce(open_medium, 0) AS open_medium,
               coalesce(open_low, 0) AS open_low, coalesce(incidents, 0) AS incidents,
               coalesce(success_count, 0) AS succeeded, coalesce(l1_count, 0) AS l1, coalesce(l2_count, 0) AS l2,
               coalesce(l3_count, 0) AS l3, coalesce(forks, 0) AS forks, coalesce(faults, 0) AS faults
        FROM site
        LEFT JOIN boxes ON boxes.site_id = site.id
        LEFT JOIN checks ON checks.site_id = site.id
        LEFT JOIN site_totals t ON t.site_id = site.id AND t.partner_id = $1
        LEFT JOIN fork ON fork.site_id = site.id
        LEFT JOIN fault ON fault.site_id = site.id
        ORDER BY site.name, site.id
        """,
        scope.partner_id,
        auditor_id,
        now - ONLINE_FOR,
        now - OVERDUE_FOR,
        now,
        now - FRESH_FOR,
        [str(family) for family in Family],
    )
    return [_row(dict(row)) for row in rows]


def _row(values: dict[str, object]) -> SiteRow:
    counts = {name: values.pop(name) for name in ("passed", "failed", "unknown", "waived")}
    return SiteRow(score=Score(**counts), **values)  # type: ignore[arg-type]  # as the statement names them
