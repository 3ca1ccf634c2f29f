"""Pattern statistics: each appliance's own totals; the latest report replaces the one before."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.listing import Page
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope
from ccshared.messages import PatternReports


@dataclass(frozen=True)
class Pattern:
    """A pattern's totals over the appliances that met it, and when the newest of them was told."""

    pattern_signature: str
    incident_type: str
    appliances: int
    sites: int
    total_count: int
    l1_count: int
    l2_count: int
    l3_count: int
    success_count: int
    total_resolution_time_ms: int
    received_at: datetime


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


async def newest(scope: PartnerScope | SiteScope, site_id: str | None, page: Page) -> list[Pattern]:
    """Return a page of the patterns of the partner, or of its site, the last told first; never of two partners.

    What counts once a site is counted apart: a distinct count sorts every row.
    """
    rows = await scope.conn.fetch(
        """
        WITH places AS (
            SELECT pattern_signature, count(*) AS sites
            FROM (SELECT DISTINCT pattern_signature, site_id FROM pattern_stats
                  WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2)) AS place
            GROUP BY pattern_signature
        ), summed AS (
            SELECT pattern_signature, min(incident_type) AS incident_type, count(*) AS appliances,
                   sum(total_count)::bigint AS total_count, sum(l1_count)::bigint AS l1_count,
                   sum(l2_count)::bigint AS l2_count, sum(l3_count)::bigint AS l3_count,
                   sum(success_count)::bigint AS success_count,
                   sum(total_resolution_time_ms)::bigint AS total_resolution_time_ms, max(received_at) AS received_at
            FROM pattern_stats
            WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2)
            GROUP BY pattern_signature
        )
        SELECT s.*, p.sites
        FROM summed s JOIN places p ON p.pattern_signature = s.pattern_signature
        WHERE (s.received_at, s.pattern_signature) < ($3, $4)
        ORDER BY s.received_at DESC, s.pattern_signature DESC
        LIMIT $5 OFFSET $6
        """,
        scope.partner_id,
        site_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Pattern(**row) for row in rows]


async def count(scope: PartnerScope | SiteScope, site_id: str | None) -> int:
    """Return how many patterns the partner, or its site, has met: at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT DISTINCT pattern_signature FROM pattern_stats
              WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2) LIMIT 10001) AS counted
        """,
        scope.partner_id,
        site_id,
    )
    return found
