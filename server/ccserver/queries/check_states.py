"""Check states: the latest run of each check on each host, kept up as evidence arrives."""

from collections.abc import Sequence
from datetime import datetime

from ccserver.compliance import FRESH_FOR, CheckRun, CheckState, is_fresh
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope


async def upsert(scope: ApplianceScope, runs: Sequence[CheckRun]) -> int:
    """Write the runs that are newer than what is there, by (epoch, sequence); return how many changed a status."""
    changed = await scope.conn.fetchval(
        """
        WITH run AS (
            SELECT *
            FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
                        $10::timestamptz[], $11::bigint[], $12::bigint[])
                 AS r (host_id, check_id, status, severity, reason, since, seen_at, epoch_number, seq)
        ), before AS (
            SELECT s.host_id, s.check_id, s.status
            FROM check_states s JOIN run USING (host_id, check_id)
            WHERE s.site_id = $1 AND s.appliance_id = $3
        ), written AS (
            INSERT INTO check_states AS s (
                site_id, partner_id, appliance_id, host_id, check_id, status, severity, reason, since, seen_at,
                epoch_number, seq)
            SELECT $1, $2, $3, host_id, check_id, status, severity, reason, since, seen_at, epoch_number, seq FROM run
            ON CONFLICT (site_id, appliance_id, host_id, check_id) DO UPDATE
            SET status = excluded.status, severity = excluded.severity, reason = excluded.reason,
                since = excluded.since, seen_at = excluded.seen_at, epoch_number = excluded.epoch_number,
                seq = excluded.seq
            WHERE (s.epoch_number, s.seq) < (excluded.epoch_number, excluded.seq)
            RETURNING s.host_id, s.check_id, s.status
        )
        SELECT count(*)
        FROM written LEFT JOIN before USING (host_id, check_id)
        WHERE before.status IS DISTINCT FROM written.status
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        [run.host_id for run in runs],
        [run.check_id for run in runs],
        [run.status for run in runs],
        [run.severity for run in runs],
        [run.reason for run in runs],
        [run.since for run in runs],
        [run.seen_at for run in runs],
        [run.epoch_number for run in runs],
        [run.seq for run in runs],
    )
    return int(changed)


async def list_of_sites(
    scope: PartnerScope | SiteScope, site_ids: Sequence[str], now: datetime, limit: int
) -> dict[str, list[CheckState]]:
    """Return the check states of some of the partner's sites by site, worst first, at most `limit` of each site.

    A stale one counts as unknown, so it stands with these.
    """
    rows = await scope.conn.fetch(
        """
        SELECT c.site_id, c.appliance_id, c.host_id, c.check_id, c.status, c.severity, c.reason, c.since, c.seen_at,
               EXISTS (SELECT FROM waivers w
                       WHERE w.site_id = c.site_id AND w.partner_id = $1 AND w.check_id = c.check_id
                         AND (w.host_id IS NULL OR w.host_id = c.host_id) AND w.revoked_at IS NULL
                         AND w.expires_at > $4) AS waived
        FROM unnest($2::text[]) AS site (id) CROSS JOIN LATERAL (
            SELECT s.site_id, s.appliance_id, s.host_id, s.check_id, s.status, s.severity, s.reason, s.since, s.seen_at,
                   array_position(ARRAY['fail', 'unknown', 'pass'],
                                  CASE WHEN s.seen_at > $5 THEN s.status ELSE 'unknown' END) AS badness,
                   array_position(ARRAY['critical', 'high', 'medium', 'low'], s.severity) AS gravity
            FROM check_states s JOIN appliances a ON a.site_id = s.site_id AND a.id = s.appliance_id
            WHERE s.partner_id = $1 AND s.site_id = site.id AND a.revoked_at IS NULL
            ORDER BY badness, gravity, s.host_id, s.check_id
            LIMIT $3
        ) c
        ORDER BY c.site_id, c.badness, c.gravity, c.host_id, c.check_id
        """,
        scope.partner_id,
        site_ids,
        limit,
        now,
        now - FRESH_FOR,
    )
    states: dict[str, list[CheckState]] = {}
    for row in rows:
        values = {name: value for name, value in row.items() if name != "site_id"}
        states.setdefault(row["site_id"], []).append(CheckState(**values, fresh=is_fresh(row["seen_at"], now)))
    return states
