"""Pattern statistics: each appliance's own totals; the latest report replaces the one before."""

from ccserver.scope import ApplianceScope
from ccshared.messages import PatternReports


async def upsert(scope: ApplianceScope, said: PatternReports) -> None:
    """Write the totals that are newer than what is there."""
    await scope.conn.execute(
        """
        INSERT INTO pattern_stats AS p (
            site_id, partner_id, appliance_id, pattern_signature, incident_type, total_count, l1_count, l2_count,
            l3_count, success_count, total_resolution_time_ms, epoch_number, revision)
        SELECT $1, $2, $3, r.*, $4, $5
        FROM unnest($6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                    $13::bigint[]) AS r
        ON CONFLICT (site_id, appliance_id, pattern_signature) DO UPDATE
        SET incident_type = excluded.incident_type, total_count = excluded.total_count, l1_count = excluded.l1_count,
            l2_count = excluded.l2_count, l3_count = excluded.l3_count, success_count = excluded.success_count,
            total_resolution_time_ms = excluded.total_resolution_time_ms, epoch_number = excluded.epoch_number,
            revision = excluded.revision, received_at = now()
        WHERE (p.epoch_number, p.revision) < (excluded.epoch_number, excluded.revision)
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        said.epoch,
        said.revision,
        [pattern.pattern_signature for pattern in said.patterns],
        [pattern.incident_type for pattern in said.patterns],
        [pattern.total_count for pattern in said.patterns],
        [pattern.l1_count for pattern in said.patterns],
        [pattern.l2_count for pattern in said.patterns],
        [pattern.l3_count for pattern in said.patterns],
        [pattern.success_count for pattern in said.patterns],
        [pattern.total_resolution_time_ms for pattern in said.patterns],
    )
