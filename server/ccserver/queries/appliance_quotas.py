"""What each appliance stored lately: a bucket that empties by so many bytes a second."""

from ccserver.scope import ApplianceScope


async def spend(scope: ApplianceScope, size: int, per_second: float) -> int:
    """Add so many bytes to what the appliance stored lately and return that; the row is locked until the scope ends.

    A row that was counted in the future, by a clock that ran ahead, counts from now on: it must not wait for that time.
    """
    spent: int = await scope.conn.fetchval(
        """
        INSERT INTO appliance_quotas AS q (site_id, partner_id, appliance_id, spent_bytes)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (site_id, appliance_id) DO UPDATE SET
            spent_bytes = excluded.spent_bytes
                + greatest(0, q.spent_bytes - floor(
                    $5::float8 * greatest(0, extract(epoch FROM now() - q.counted_at)::float8))::bigint),
            counted_at = now()
        RETURNING spent_bytes
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        size,
        per_second,
    )
    return spent
