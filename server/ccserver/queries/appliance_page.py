"""An appliance's page: one statement. Each part is an array of rows in its dataclass's order."""

from collections.abc import Sequence
from dataclasses import dataclass

from ccserver.queries import evidence_logs
from ccserver.queries.appliances import ApplianceDetail
from ccserver.queries.log_verifications import Fault
from ccserver.scope import SiteScope
from ccserver.witness import Log


@dataclass(frozen=True)
class Rows:
    """What was read of an appliance: itself, what its site is called, its newest logs, and those of them at fault."""

    appliance: ApplianceDetail
    site_name: str
    logs: Sequence[Log]
    faults: Sequence[Fault]


async def read(scope: SiteScope, appliance_id: str, limit: int) -> Rows | None:
    """Return an appliance of the scope's site with its newest `limit` epochs, first the newest; None without it."""
    row = await scope.conn.fetchrow(
        """
        WITH log AS MATERIALIZED (
            SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at,
                   witness_name, held_size, held_root
            FROM evidence_logs
            WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3
            ORDER BY id DESC
            LIMIT $4
        )
        SELECT ROW(a.site_id, a.id, a.name, a.hostname, a.enrolled_at, a.revoked_at, a.ip_address, a.version,
                   a.last_checkin, a.clock, a.clock_offset_ms, a.epoch, a.log_size, a.waiting, a.waiting_bytes,
                   a.oldest_at, a.alarms, a.revision) AS appliance,
               (SELECT name FROM sites WHERE partner_id = $2 AND id = $1) AS site_name,
               ARRAY(SELECT ROW(id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at,
                                witness_name, held_size, held_root)
                     FROM log ORDER BY id DESC) AS logs,
               ARRAY(SELECT ROW(v.site_id, log.origin, v.fault)
                     FROM log JOIN log_verifications v ON v.site_id = $1 AND v.partner_id = $2 AND v.log_id = log.id
                     WHERE v.fault IS NOT NULL
                     ORDER BY log.origin) AS faults
        FROM appliances a
        WHERE a.site_id = $1 AND a.partner_id = $2 AND a.id = $3
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        limit,
    )
    if row is None:
        return None
    return Rows(
        ApplianceDetail(*row["appliance"]),
        row["site_name"],
        [evidence_logs.log_of(each) for each in row["logs"]],
        [Fault(*each) for each in row["faults"]],
    )
