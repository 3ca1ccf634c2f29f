"""What tells that something on a page may have changed: one number for all that it shows, never its content."""

from collections.abc import Sequence

from ccserver.scope import PartnerScope


async def mark(scope: PartnerScope) -> int:
    """Return a number that is another one once the partner's overview or its newest 200 orders changed, or its orders
    for many, the problems that stand, its rules.
    """
    found: int = await scope.conn.fetchval(
        """
        SELECT hashtextextended(concat_ws('/',
            (SELECT concat_ws(',', count(*), max(created_at), max(closed_at)) FROM sites WHERE partner_id = $1),
            (SELECT concat_ws(',', count(*), max(enrolled_at), max(revoked_at), sum(waiting),
                              count(*) FILTER (WHERE last_checkin > now() - interval '3 minutes'),
                              count(*) FILTER (WHERE last_checkin > now() - interval '15 minutes'))
             FROM appliances WHERE partner_id = $1),
            (SELECT concat_ws(',', count(*), max(since)) FROM check_states WHERE partner_id = $1),
            (SELECT max(changed_at) FROM site_totals WHERE partner_id = $1),
            (SELECT string_agg(status, ',')
             FROM (SELECT status FROM orders WHERE partner_id = $1 ORDER BY created_at DESC, id DESC LIMIT 200) newest),
            (SELECT string_agg(status, ',')
             FROM (SELECT status FROM fleet_orders WHERE partner_id = $1 ORDER BY created_at DESC, id DESC LIMIT 50) f),
            (SELECT concat_ws(',', count(*), sum(revision), max(noticed_at)) FROM problems
             WHERE partner_id = $1 AND ended_at IS NULL),
            (SELECT concat_ws(',', count(*), sum(revision)) FROM rules WHERE partner_id = $1)
        ), 0)
        """,
        scope.partner_id,
    )
    return found


async def marks_of_sites(scope: PartnerScope, site_ids: Sequence[str]) -> dict[str, int]:
    """Return such a number for each of these sites: of check-ins, checks, logs, incidents, codes, newest orders."""
    rows = await scope.conn.fetch(
        """
        SELECT s.id, hashtextextended(concat_ws('/', s.closed_at,
            (SELECT concat_ws(',', count(*), max(enrolled_at), max(revoked_at), max(last_checkin), sum(waiting))
             FROM appliances WHERE partner_id = $1 AND site_id = s.id),
            (SELECT concat_ws(',', count(*), max(since)) FROM check_states WHERE partner_id = $1 AND site_id = s.id),
            (SELECT sum(size) FROM evidence_logs WHERE partner_id = $1 AND site_id = s.id),
            (SELECT changed_at FROM site_totals WHERE partner_id = $1 AND site_id = s.id),
            (SELECT concat_ws(',', count(*), max(used_at), max(revoked_at)) FROM enrollment_codes
             WHERE partner_id = $1 AND site_id = s.id),
            (SELECT string_agg(status, ',')
             FROM (SELECT status FROM orders WHERE partner_id = $1 AND site_id = s.id
                   ORDER BY created_at DESC, id DESC LIMIT 100) newest)
        ), 0) AS mark
        FROM sites s
        WHERE s.partner_id = $1 AND s.id = ANY ($2::text[])
        """,
        scope.partner_id,
        list(site_ids),
    )
    return {row["id"]: row["mark"] for row in rows}
