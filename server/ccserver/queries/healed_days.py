"""What was settled on which day, by rule, planner or person: kept up at write time."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.retention import Swept
from ccserver.scope import PartnerScope, PlatformScope


@dataclass(frozen=True)
class Healed:
    """How many incidents were settled on a day, by level."""

    day: datetime
    l1: int
    l2: int
    l3: int


async def days(scope: PartnerScope, since: datetime, auditor_id: str | None) -> list[Healed]:
    """Return the days since then on which something was settled, oldest first; an auditor's are of assigned sites."""
    rows = await scope.conn.fetch(
        """
        SELECT d.day, sum(l1_count)::bigint AS l1, sum(l2_count)::bigint AS l2, sum(l3_count)::bigint AS l3
        FROM healed_days d
        WHERE d.partner_id = $1 AND d.day >= $2
          AND ($3::text IS NULL
               OR d.site_id IN (SELECT site_id FROM user_sites WHERE partner_id = $1 AND user_id = $3))
        GROUP BY d.day ORDER BY d.day
        """,
        scope.partner_id,
        since,
        auditor_id,
    )
    return [Healed(**row) for row in rows]


async def drop(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete days that are older than this."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, day FROM healed_days
            WHERE day < now() - $2 * interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM healed_days d USING chosen c WHERE d.site_id = c.site_id AND d.day = c.day RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM gone) AS done
        """,
        limit,
        days,
    )
    return Swept(row["chosen"], row["done"]) if row else Swept(0, 0)
