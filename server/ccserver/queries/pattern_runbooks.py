"""What was run for which pattern, with what success: each appliance's own totals; the latest report replaces."""

from dataclasses import dataclass

from ccserver.promotion import Source
from ccserver.scope import ApplianceScope, PartnerScope, PlatformScope
from ccshared.messages import PatternReports


@dataclass(frozen=True)
class Group:
    """A partner's pattern and a runbook that was run for it, with the type of its incidents."""

    partner_id: str
    pattern_signature: str
    runbook_id: str
    incident_type: str


async def upsert(scope: ApplianceScope, said: PatternReports) -> None:
    """Write the totals that are newer than what is there, and have a sweep look at them."""
    rows = [(pattern, totals) for pattern in said.patterns for totals in pattern.runbooks]
    await scope.conn.execute(
        """
        INSERT INTO pattern_runbooks AS p (
            site_id, partner_id, appliance_id, epoch_number, revision, pattern_signature, incident_type, runbook_id,
            total_count, success_count, total_resolution_time_ms, order_count, order_success_count)
        SELECT $1, $2, $3, $4, $5, r.*
        FROM unnest($6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                    $13::bigint[]) AS r
        ON CONFLICT (site_id, appliance_id, pattern_signature, runbook_id) DO UPDATE
        SET incident_type = excluded.incident_type, total_count = excluded.total_count,
            success_count = excluded.success_count, total_resolution_time_ms = excluded.total_resolution_time_ms,
            order_count = excluded.order_count, order_success_count = excluded.order_success_count,
            epoch_number = excluded.epoch_number, revision = excluded.revision, due = true, received_at = now()
        WHERE (p.epoch_number, p.revision) < (excluded.epoch_number, excluded.revision)
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        said.epoch,
        said.revision,
        [pattern.pattern_signature for pattern, _ in rows],
        [pattern.incident_type for pattern, _ in rows],
        [totals.runbook for _, totals in rows],
        [totals.total_count for _, totals in rows],
        [totals.success_count for _, totals in rows],
        [totals.total_resolution_time_ms for _, totals in rows],
        [totals.order_count for _, totals in rows],
        [totals.order_success_count for _, totals in rows],
    )


async def of_pattern(scope: PartnerScope, signature: str) -> list[Source]:
    """Return what the partner's appliances tell of a pattern, at most 5,000 rows, those of the most tries first."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, appliance_id, runbook_id, total_count AS count, success_count AS successes,
               total_resolution_time_ms AS time_ms, order_count, order_success_count AS order_successes
        FROM pattern_runbooks
        WHERE partner_id = $1 AND pattern_signature = $2
        ORDER BY total_count DESC, site_id, appliance_id, runbook_id
        LIMIT 5000
        """,
        scope.partner_id,
        signature,
    )
    return [Source(**row) for row in rows]


async def take_due(scope: PlatformScope, limit: int) -> list[Group]:
    """Return what some appliance told anew of, in order, and count it as seen."""
    rows = await scope.conn.fetch(
        """
        WITH chosen AS (
            SELECT DISTINCT partner_id, pattern_signature, runbook_id
            FROM pattern_runbooks
            WHERE due
            ORDER BY partner_id, pattern_signature, runbook_id
            LIMIT $1
        ), seen AS (
            UPDATE pattern_runbooks p SET due = false
            FROM chosen c
            WHERE p.due AND (p.partner_id, p.pattern_signature, p.runbook_id)
                          = (c.partner_id, c.pattern_signature, c.runbook_id)
            RETURNING p.partner_id, p.pattern_signature, p.runbook_id, p.incident_type
        )
        SELECT partner_id, pattern_signature, runbook_id, min(incident_type) AS incident_type
        FROM seen
        GROUP BY partner_id, pattern_signature, runbook_id
        ORDER BY partner_id, pattern_signature, runbook_id
        """,
        limit,
    )
    return [Group(**row) for row in rows]


async def of_group(scope: PlatformScope, group: Group) -> list[Source]:
    """Return what the appliances of one partner tell of a pattern and a runbook; never of two partners."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, appliance_id, runbook_id, total_count AS count, success_count AS successes,
               total_resolution_time_ms AS time_ms, order_count, order_success_count AS order_successes
        FROM pattern_runbooks
        WHERE partner_id = $1 AND pattern_signature = $2 AND runbook_id = $3
        """,
        group.partner_id,
        group.pattern_signature,
        group.runbook_id,
    )
    return [Source(**row) for row in rows]


async def canary(scope: PartnerScope, signature: str, appliance_id: str | None) -> tuple[str, str] | None:
    """Return site and id of the appliance to try a rule on: the named one, else one that meets the pattern often.

    One that checks in comes before one that is silent; None where there is none that is not revoked.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT a.site_id, a.id
        FROM appliances a
        LEFT JOIN pattern_runbooks p
          ON p.site_id = a.site_id AND p.appliance_id = a.id AND p.pattern_signature = $2
        WHERE a.partner_id = $1 AND a.revoked_at IS NULL
          AND CASE WHEN $3::text IS NULL THEN p.appliance_id IS NOT NULL ELSE a.id = $3 END
        ORDER BY coalesce(a.last_checkin > now() - interval '15 minutes', false) DESC, p.total_count DESC NULLS LAST,
                 a.site_id, a.id
        LIMIT 1
        """,
        scope.partner_id,
        signature,
        appliance_id,
    )
    return (row["site_id"], row["id"]) if row else None
