"""How much evidence waited on an appliance, sampled at its check-ins."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.retention import Swept
from ccserver.scope import PlatformScope, SiteScope


@dataclass(frozen=True)
class Hour:
    """An hour with a sample, and the most entries that waited in it."""

    at: datetime
    waiting: int


async def hours(scope: SiteScope, appliance_id: str, since: datetime) -> list[Hour]:
    """Return the hours since then with a sample, oldest first."""
    rows = await scope.conn.fetch(
        """
        SELECT date_trunc('hour', at) AS at, max(waiting) AS waiting
        FROM queue_samples
        WHERE site_id = $1 AND appliance_id = $2 AND at >= $3
        GROUP BY 1 ORDER BY 1
        """,
        scope.site_id,
        appliance_id,
        since,
    )
    return [Hour(**row) for row in rows]


async def drop(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete samples that are older than this."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, appliance_id, at FROM queue_samples
            WHERE at < now() - $2 * interval '1 day' ORDER BY at LIMIT $1 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM queue_samples q USING chosen c
            WHERE q.site_id = c.site_id AND q.appliance_id = c.appliance_id AND q.at = c.at
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM gone) AS done
        """,
        limit,
        days,
    )
    return Swept(row["chosen"], row["done"]) if row else Swept(0, 0)
