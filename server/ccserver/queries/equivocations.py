"""Equivocations: what an appliance signed for a place of its log where another entry is stored."""

from ccserver.packing import Equivocation
from ccserver.scope import ApplianceScope, SiteScope
from ccserver.witness import ForkError


async def insert(scope: ApplianceScope, log_id: int, fork: ForkError) -> None:
    """Keep a fork, unless it is known, or its log has 16: a hostile appliance makes them without end."""
    await scope.conn.execute(
        """
        INSERT INTO equivocations (site_id, partner_id, appliance_id, log_id, seq, leaf, payload, checkpoint)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8
        WHERE (SELECT count(*) FROM equivocations WHERE site_id = $1 AND log_id = $4) < 16
        ON CONFLICT DO NOTHING
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        log_id,
        fork.seq,
        fork.leaf,
        fork.payload,
        fork.checkpoint,
    )


async def of_log(scope: SiteScope, log_id: int) -> list[Equivocation]:
    """Return all of a log's forks in order of their places; `insert` keeps 16 of them."""
    rows = await scope.conn.fetch(
        """
        SELECT seq, leaf, payload, checkpoint
        FROM equivocations
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3
        ORDER BY seq, leaf
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
    )
    return [Equivocation(**row) for row in rows]
