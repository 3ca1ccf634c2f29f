"""Each site's totals since it began, kept up at write time: what an overview reads instead of history."""

from dataclasses import dataclass

from ccserver.scope import SiteScope


@dataclass(frozen=True)
class Totals:
    """A site's incidents since it began, and how many are open by severity."""

    incidents: int = 0
    open_low: int = 0
    open_medium: int = 0
    open_high: int = 0
    open_critical: int = 0
    success_count: int = 0
    l1_count: int = 0
    l2_count: int = 0
    l3_count: int = 0


async def find(scope: SiteScope) -> Totals:
    """Return the site's totals; all zero before its first incident."""
    row = await scope.conn.fetchrow(
        """
        SELECT incidents, open_low, open_medium, open_high, open_critical, success_count, l1_count, l2_count, l3_count
        FROM site_totals
        WHERE site_id = $1 AND partner_id = $2
        """,
        scope.site_id,
        scope.partner_id,
    )
    return Totals(**row) if row else Totals()
