"""A site's page: two statements, whatever its history. Each part is an array of rows in its dataclass's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

import orjson

from ccserver.compliance import FRESH_FOR, CheckState
from ccserver.queries import evidence_logs
from ccserver.queries.appliances import Appliance
from ccserver.queries.compliance_snapshots import Day
from ccserver.queries.evidence_bundles import Bundle, Flagged
from ccserver.queries.incidents import Incident
from ccserver.queries.log_verifications import Fault
from ccserver.queries.orders import Order
from ccserver.queries.sites import SiteDetail
from ccserver.queries.waivers import Waiver
from ccserver.scope import SiteScope
from ccserver.witness import Log

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True)
class Limits:
    """At most how many of each are read: check states, open incidents, entries and their logs, flagged, orders."""

    checks: int
    incidents: int
    evidence: int
    flagged: int
    orders: int


@dataclass(frozen=True)
class Rows:
    """What was read of a site. `check_limit`: where it has so many states, there may be more that were not read."""

    site: SiteDetail
    check_limit: int
    appliances: Sequence[Appliance]
    states: Sequence[CheckState]
    incidents: tuple[int, Sequence[Incident]]
    bundles: Sequence[Bundle]
    logs: Mapping[tuple[str, int], Log]
    waivers: Sequence[Waiver]
    flagged: Sequence[Flagged]
    forks: int
    faults: Sequence[Fault]
    days: Sequence[Day]
    orders: Sequence[Order]


async def read(scope: SiteScope, now: datetime, first_day: date, at_most: Limits) -> Rows | None:
    """Return the scope's site as its page shows it, its days from `first_day` on; None without the site."""
    stands = await _stands(scope, now, at_most)
    return _rows(stands, await _proves(scope, first_day, at_most), at_most.checks) if stands else None


async def _stands(scope: SiteScope, now: datetime, at_most: Limits) -> "asyncpg.Record | None":
    """Return how the site stands."""
    return await scope.conn.fetchrow(
        """
        SELECT ROW(s.id, s.name, s.created_at, s.closed_at, s.tags, s.revision) AS site,
               ARRAY(SELECT ROW(site_id, id, hostname, version, last_checkin, clock, clock_offset_ms, epoch, waiting,
                                oldest_at)
                     FROM appliances
                     WHERE partner_id = $1 AND site_id = $2 AND revoked_at IS NULL
                     ORDER BY hostname, id) AS appliances,
               ARRAY(SELECT ROW(c.appliance_id, c.host_id, c.check_id, c.status, c.severity, c.reason, c.since,
                                c.seen_at, c.seen_at > $4,
                                EXISTS (SELECT FROM waivers w
                                        WHERE w.site_id = $2 AND w.partner_id = $1 AND w.check_id = c.check_id
                                          AND (w.host_id IS NULL OR w.host_id = c.host_id)
                                          AND w.revoked_at IS NULL AND w.expires_at > $3))
                     FROM (SELECT k.*,
                                  array_position(ARRAY['fail', 'unknown', 'pass'],
                                                 CASE WHEN k.seen_at > $4 THEN k.status ELSE 'unknown' END) AS badness,
                                  array_position(ARRAY['critical', 'high', 'medium', 'low'], k.severity) AS gravity
                           FROM check_states k JOIN appliances a ON a.site_id = k.site_id AND a.id = k.appliance_id
                           WHERE k.partner_id = $1 AND k.site_id = $2 AND a.revoked_at IS NULL
                           ORDER BY badness, gravity, k.host_id, k.check_id
                           LIMIT $5) c
                     ORDER BY c.badness, c.gravity, c.host_id, c.check_id) AS states,
               (SELECT count(*) FROM incidents
                WHERE partner_id = $1 AND site_id = $2 AND resolved_at IS NULL AND closed_by_hand_at IS NULL) AS open,
               ARRAY(SELECT ROW(site_id, id, appliance_id, host_id, incident_type, severity,
                                coalesce(left(raw_data->>'reason', 500), ''), occurrences, created_at, last_seen_at,
                                escalated_at)
                     FROM incidents
                     WHERE partner_id = $1 AND site_id = $2 AND resolved_at IS NULL AND closed_by_hand_at IS NULL
                     ORDER BY created_at DESC, id DESC
                     LIMIT $6) AS incidents,
               ARRAY(SELECT ROW(id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at,
                                revision)
                     FROM waivers
                     WHERE partner_id = $1 AND site_id = $2 AND revoked_at IS NULL AND expires_at > $3
                     ORDER BY expires_at DESC, id
                     LIMIT 10000) AS waivers,
               ARRAY(SELECT ROW(id, site_id, appliance_id, runbook_id, runbook_digest, fleet_order_id, status,
                                created_by, creator, created_at, approved_by, cancelled_by, issued_at, expires_at,
                                acknowledged_at, started_at, finished_at)
                     FROM orders
                     WHERE site_id = $2 AND partner_id = $1
                     ORDER BY created_at DESC, id DESC
                     LIMIT $7) AS orders
        FROM sites s
        WHERE s.partner_id = $1 AND s.id = $2
        """,
        *(scope.partner_id, scope.site_id, now, now - FRESH_FOR, at_most.checks, at_most.incidents, at_most.orders),
    )


async def _proves(scope: SiteScope, first_day: date, at_most: Limits) -> "asyncpg.Record | None":
    """Return what proves it, and its days.

    Each log is entered by its last places: asked for the newest of a site, the planner reads the whole history, as it
    expects row security to leave one row. The first place is computed apart, because below row security an index takes
    comparisons only (subtraction is not leakproof).
    """
    return await scope.conn.fetchrow(
        """
        WITH log AS MATERIALIZED (
            SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at,
                   witness_name, held_size, held_root, size - $3 AS first
            FROM evidence_logs
            WHERE partner_id = $1 AND site_id = $2
            ORDER BY updated_at DESC, id DESC
            LIMIT $3
        )
        SELECT ARRAY(SELECT ROW(id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at,
                                witness_name, held_size, held_root) FROM log) AS logs,
               ARRAY(SELECT ROW(b.site_id, b.appliance_id, b.log_id, b.seq, b.bundle_type, b.bundle_hash, b.host_id,
                                b.check_id, b.hipaa_controls, b.clock, b.generated_at, b.received_at, b.flag,
                                b.missing_reason)
                     FROM log CROSS JOIN LATERAL (
                         SELECT * FROM evidence_bundles
                         WHERE partner_id = $1 AND site_id = $2 AND log_id = log.id
                           AND seq >= log.first AND seq < log.size
                     ) b
                     ORDER BY b.id DESC
                     LIMIT $3) AS bundles,
               ARRAY(SELECT ROW(b.id, b.site_id, b.appliance_id, l.epoch, b.seq, b.bundle_id, b.bundle_type,
                                encode(b.bundle_hash, 'hex'), b.flag, b.received_at)
                     FROM evidence_bundles b JOIN evidence_logs l ON l.site_id = b.site_id AND l.id = b.log_id
                     WHERE b.partner_id = $1 AND b.site_id = $2 AND b.flag IS NOT NULL
                     ORDER BY b.id DESC
                     LIMIT $4) AS flagged,
               (SELECT count(*) FROM equivocations WHERE partner_id = $1 AND site_id = $2) AS forks,
               ARRAY(SELECT ROW(v.site_id, l.origin, v.fault)
                     FROM log_verifications v JOIN evidence_logs l ON l.site_id = v.site_id AND l.id = v.log_id
                     WHERE v.partner_id = $1 AND v.site_id = $2 AND v.fault IS NOT NULL
                     ORDER BY l.origin
                     LIMIT $4) AS faults,
               ARRAY(SELECT ROW(d.day, patching, antivirus, backup, logging, firewall, encryption)
                     FROM (SELECT (snapshot_at AT TIME ZONE 'UTC')::date AS day,
                            bool_and(patching_status) AND (count(patching_status) = count(*) OR NULL) AS patching,
                            bool_and(antivirus_status) AND (count(antivirus_status) = count(*) OR NULL) AS antivirus,
                            bool_and(backup_status) AND (count(backup_status) = count(*) OR NULL) AS backup,
                            bool_and(logging_status) AND (count(logging_status) = count(*) OR NULL) AS logging,
                            bool_and(firewall_status) AND (count(firewall_status) = count(*) OR NULL) AS firewall,
                            bool_and(encryption_status) AND (count(encryption_status) = count(*) OR NULL) AS encryption
                           FROM compliance_snapshots
                           WHERE site_id = $2 AND partner_id = $1
                             AND snapshot_at >= $5::date::timestamp AT TIME ZONE 'UTC'
                           GROUP BY day) d
                     ORDER BY d.day) AS days
        """,
        *(scope.partner_id, scope.site_id, at_most.evidence, at_most.flagged, first_day),
    )


def _rows(stands: "asyncpg.Record", proves: "asyncpg.Record | None", check_limit: int) -> Rows:
    row = dict(stands) | dict(proves or {})
    site = SiteDetail(*row["site"])
    logs = [evidence_logs.log_of(each) for each in row["logs"]]
    return Rows(
        site=site,
        check_limit=check_limit,
        appliances=[Appliance(*each) for each in row["appliances"]],
        states=[CheckState(*each) for each in row["states"]],
        incidents=(row["open"], [Incident(*each) for each in row["incidents"]]),
        bundles=[_bundle(each) for each in row["bundles"]],
        logs={(site.id, log.id): log for log in logs},
        waivers=[Waiver(*each) for each in row["waivers"]],
        flagged=[Flagged(*each) for each in row["flagged"]],
        forks=row["forks"],
        faults=[Fault(*each) for each in row["faults"]],
        days=[Day(*each) for each in row["days"]],
        orders=[Order(*each) for each in row["orders"]],
    )


def _bundle(found: "asyncpg.Record") -> Bundle:
    bundle = Bundle(*found)
    return replace(bundle, hipaa_controls=orjson.loads(found[8] or "[]"))
