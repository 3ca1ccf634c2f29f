"""Problems: what somebody may have to look after, noticed by looking at what stands now and not at every change.

So nothing that writes (ingest, incidents, check-ins) does more for it, no change can be missed, and what ended before
the next look was never a problem. Each function that notices is bounded by `limit` and returns how many rows it wrote.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from ccserver.listing import Page
from ccserver.queries import planner
from ccserver.retention import Swept
from ccserver.scope import PartnerScope, PlatformScope


@dataclass(frozen=True)
class Trouble:
    """A problem as the API shows it; `revision` counts what people did with it."""

    id: str
    kind: str
    site_id: str | None
    appliance_id: str | None
    incident_id: str | None
    severity: str
    says: str
    began_at: datetime
    noticed_at: datetime
    escalated_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    snoozed_until: datetime | None
    ended_at: datetime | None
    revision: int


async def notice_incidents(scope: PlatformScope, limit: int, changed_within: timedelta) -> int:
    """Notice open incidents that are no problem yet, of open sites where an incident changed within that time."""
    rows = await scope.conn.fetch(
        """
        WITH looked AS MATERIALIZED (
            SELECT t.site_id FROM site_totals t JOIN sites s ON s.id = t.site_id AND s.closed_at IS NULL
            WHERE t.changed_at > now() - $2::interval
        )
        INSERT INTO problems (partner_id, id, kind, subject, of_site, of_appliance, of_incident, severity, says,
                              began_at, escalated_at, acknowledged_at, acknowledged_by)
        SELECT i.partner_id, gen_random_uuid()::text, 'incident', i.site_id || '/' || i.id, i.site_id, i.appliance_id,
               i.id, i.severity, left(format('%s on %s', i.incident_type, i.host_id), 500), i.created_at,
               CASE WHEN i.escalated_at IS NOT NULL THEN now() END, i.acknowledged_at, i.acknowledged_by
        FROM looked l JOIN incidents i ON i.site_id = l.site_id
        LEFT JOIN LATERAL (SELECT true AS known FROM problems p
                           WHERE p.partner_id = i.partner_id AND p.kind = 'incident'
                             AND p.subject = i.site_id || '/' || i.id AND p.ended_at IS NULL LIMIT 1) p ON true
        WHERE i.resolved_at IS NULL AND i.closed_by_hand_at IS NULL AND p.known IS NULL
        LIMIT $1
        ON CONFLICT DO NOTHING
        RETURNING true
        """,
        limit,
        changed_within,
    )
    return len(rows)


async def follow_incidents(scope: PlatformScope, limit: int, changed_within: timedelta) -> int:
    """Take over what changed, within that time, of incidents that are problems: severity, escalated, ended …"""
    rows = await scope.conn.fetch(
        """
        UPDATE problems p
        SET severity = n.severity, ended_at = CASE WHEN n.ended THEN now() END,
            escalated_at = coalesce(p.escalated_at, CASE WHEN n.escalated THEN now() END),
            acknowledged_at = coalesce(p.acknowledged_at, n.acknowledged_at),
            acknowledged_by = coalesce(p.acknowledged_by, n.acknowledged_by)
        FROM (SELECT o.partner_id, o.id, i.severity, i.acknowledged_at, i.acknowledged_by,
                     i.escalated_at IS NOT NULL AS escalated,
                     coalesce(i.resolved_at, i.closed_by_hand_at, s.closed_at) IS NOT NULL AS ended
              FROM problems o
              JOIN sites s ON s.id = o.of_site
              JOIN site_totals t ON t.site_id = o.of_site
              JOIN incidents i ON i.site_id = o.of_site AND i.id = o.of_incident
              WHERE o.kind = 'incident' AND o.ended_at IS NULL
                AND (t.changed_at > now() - $2::interval OR s.closed_at IS NOT NULL)
                AND (coalesce(i.resolved_at, i.closed_by_hand_at, s.closed_at) IS NOT NULL OR i.severity <> o.severity
                     OR i.escalated_at IS NOT NULL AND o.escalated_at IS NULL
                     OR i.acknowledged_at IS NOT NULL AND o.acknowledged_at IS NULL)
              LIMIT $1
              FOR UPDATE OF o SKIP LOCKED) n
        WHERE p.partner_id = n.partner_id AND p.id = n.id
        RETURNING true
        """,
        limit,
        changed_within,
    )
    return len(rows)


async def follow_appliances(scope: PlatformScope, limit: int, offline_after: timedelta) -> int:
    """Notice appliances that are offline, silent, or alarmed by themselves, and end what does not stand any more."""
    written: int = await scope.conn.fetchval(
        """
        WITH box AS MATERIALIZED (
            SELECT a.partner_id, a.site_id, a.id, a.last_checkin, a.silent_since, a.alarms,
                   left(coalesce(a.name, a.hostname), 200) AS called
            FROM appliances a JOIN sites s ON s.id = a.site_id AND s.closed_at IS NULL
            WHERE a.revoked_at IS NULL AND a.last_checkin IS NOT NULL
        ), stands AS MATERIALIZED (
            SELECT partner_id, site_id, id, 'offline' AS kind, id AS subject, 'high' AS severity,
                   format('%s is offline', called) AS says, last_checkin AS began_at
            FROM box WHERE last_checkin < now() - $2::interval
            UNION ALL
            SELECT partner_id, site_id, id, 'silent', id, 'high',
                   format('%s checks in and its evidence does not arrive', called), silent_since
            FROM box WHERE silent_since IS NOT NULL
            UNION ALL
            SELECT partner_id, site_id, id, 'alarm', id || '/' || alarm,
                   CASE alarm WHEN 'clone_suspected' THEN 'critical' ELSE 'high' END,
                   format('%s raised the alarm %s', called, alarm), now()
            FROM box CROSS JOIN LATERAL (SELECT DISTINCT unnest(alarms) AS alarm) one
        ), added AS (
            INSERT INTO problems (partner_id, id, kind, subject, of_site, of_appliance, severity, says, began_at)
            SELECT n.partner_id, gen_random_uuid()::text, n.kind, n.subject, n.site_id, n.id, n.severity, n.says,
                   n.began_at
            FROM stands n
            WHERE NOT EXISTS (SELECT FROM problems p WHERE p.partner_id = n.partner_id AND p.kind = n.kind
                                AND p.subject = n.subject AND p.ended_at IS NULL)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING true
        ), ended AS (
            UPDATE problems p SET ended_at = now()
            FROM (SELECT o.partner_id, o.id FROM problems o
                  WHERE o.ended_at IS NULL AND o.kind IN ('offline', 'silent', 'alarm')
                    AND NOT EXISTS (SELECT FROM stands n WHERE n.partner_id = o.partner_id AND n.kind = o.kind
                                      AND n.subject = o.subject)
                  LIMIT $1 FOR UPDATE SKIP LOCKED) o
            WHERE p.partner_id = o.partner_id AND p.id = o.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM added) + (SELECT count(*) FROM ended)
        """,
        limit,
        offline_after,
    )
    return written


async def follow_evidence(scope: PlatformScope, limit: int) -> int:
    """Notice forks of the last day and stored logs that are not what was receipted, and end what stands no more."""
    written: int = await scope.conn.fetchval(
        """
        WITH stands AS MATERIALIZED (
            SELECT partner_id, site_id, appliance_id, 'fork' AS kind, site_id || '/' || log_id AS subject,
                   'A log of this appliance was signed twice at one place: it may be a clone.' AS says,
                   min(seen_at) AS began_at
            FROM equivocations WHERE seen_at > now() - interval '1 day'
            GROUP BY partner_id, site_id, appliance_id, log_id
            UNION ALL
            SELECT v.partner_id, v.site_id, l.appliance_id, 'log', v.site_id || '/' || v.log_id,
                   'A stored log is not what was receipted: the server''s own verification found it.',
                   coalesce(v.done_at, now())
            FROM log_verifications v JOIN evidence_logs l ON l.site_id = v.site_id AND l.id = v.log_id
            WHERE v.fault IS NOT NULL
        ), added AS (
            INSERT INTO problems (partner_id, id, kind, subject, of_site, of_appliance, severity, says, began_at)
            SELECT n.partner_id, gen_random_uuid()::text, n.kind, n.subject, n.site_id, n.appliance_id, 'critical',
                   n.says, n.began_at
            FROM stands n
            WHERE NOT EXISTS (SELECT FROM problems p WHERE p.partner_id = n.partner_id AND p.kind = n.kind
                                AND p.subject = n.subject AND p.ended_at IS NULL)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING true
        ), ended AS (
            UPDATE problems p SET ended_at = now()
            FROM (SELECT o.partner_id, o.id FROM problems o
                  WHERE o.ended_at IS NULL AND o.kind IN ('fork', 'log')
                    AND NOT EXISTS (SELECT FROM stands n WHERE n.partner_id = o.partner_id AND n.kind = o.kind
                                      AND n.subject = o.subject)
                  LIMIT $1 FOR UPDATE SKIP LOCKED) o
            WHERE p.partner_id = o.partner_id AND p.id = o.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM added) + (SELECT count(*) FROM ended)
        """,
        limit,
    )
    return written


async def follow_server(scope: PlatformScope, limit: int) -> int:
    """Notice what is the server's own: sweeps that failed or are late, and channels whose newest message is dead."""
    written: int = await scope.conn.fetchval(
        """
        WITH stands AS MATERIALIZED (
            SELECT 'platform' AS partner_id, 'sweep' AS kind, name AS subject,
                   format('The sweep %s %s', name,
                          CASE WHEN last_error IS NULL THEN 'is late' ELSE 'failed' END) AS says, begun_at AS began_at
            FROM sweeps
            WHERE begun_at > now() - interval '30 days'
              AND (last_error IS NOT NULL OR greatest(begun_at, done_at) < now() - interval '3 hours')
            UNION ALL
            SELECT c.partner_id, 'channel', c.id, left(format('The channel %s does not deliver', c.name), 500),
                   n.dead_at
            FROM notification_channels c
            CROSS JOIN LATERAL (SELECT dead_at FROM notifications n
                                WHERE n.partner_id = c.partner_id AND n.channel_id = c.id
                                  AND coalesce(n.dead_at, n.delivered_at) IS NOT NULL
                                ORDER BY coalesce(n.dead_at, n.delivered_at) DESC LIMIT 1) n
            WHERE c.disabled_at IS NULL AND n.dead_at >= c.tells_from
              AND EXISTS (SELECT FROM notifications d WHERE d.dead_at IS NOT NULL AND d.partner_id = c.partner_id
                            AND d.channel_id = c.id)
        ), added AS (
            INSERT INTO problems (partner_id, id, kind, subject, severity, says, began_at)
            SELECT n.partner_id, gen_random_uuid()::text, n.kind, n.subject, 'high', n.says, n.began_at
            FROM stands n
            WHERE NOT EXISTS (SELECT FROM problems p WHERE p.partner_id = n.partner_id AND p.kind = n.kind
                                AND p.subject = n.subject AND p.ended_at IS NULL)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING true
        ), ended AS (
            UPDATE problems p SET ended_at = now()
            FROM (SELECT o.partner_id, o.id FROM problems o
                  WHERE o.ended_at IS NULL AND o.kind IN ('sweep', 'channel')
                    AND NOT EXISTS (SELECT FROM stands n WHERE n.partner_id = o.partner_id AND n.kind = o.kind
                                      AND n.subject = o.subject)
                  LIMIT $1 FOR UPDATE SKIP LOCKED) o
            WHERE p.partner_id = o.partner_id AND p.id = o.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM added) + (SELECT count(*) FROM ended)
        """,
        limit,
    )
    return written


async def newest(scope: PartnerScope, is_open: bool | None, page: Page) -> list[Trouble]:
    """Return a page of the partner's problems, newest first."""
    await planner.read_in_order(scope)
    rows = await scope.conn.fetch(
        """
        SELECT id, kind, of_site AS site_id, of_appliance AS appliance_id, of_incident AS incident_id, severity, says,
               began_at, noticed_at, escalated_at, acknowledged_at, acknowledged_by, snoozed_until, ended_at, revision
        FROM problems
        WHERE partner_id = $1 AND (noticed_at, id) < ($2, $3) AND ($4::boolean IS NULL OR (ended_at IS NULL) = $4)
        ORDER BY noticed_at DESC, id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        is_open,
        page.fetched,
        page.offset,
    )
    return [Trouble(**row) for row in rows]


async def count(scope: PartnerScope, is_open: bool | None) -> int:
    """Return how many problems the partner has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM problems
              WHERE partner_id = $1 AND ($2::boolean IS NULL OR (ended_at IS NULL) = $2) LIMIT 10001) AS counted
        """,
        scope.partner_id,
        is_open,
    )
    return found


async def find(scope: PartnerScope, problem_id: str) -> Trouble | None:
    """Return a problem of the partner."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, kind, of_site AS site_id, of_appliance AS appliance_id, of_incident AS incident_id, severity, says,
               began_at, noticed_at, escalated_at, acknowledged_at, acknowledged_by, snoozed_until, ended_at, revision
        FROM problems
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        problem_id,
    )
    return Trouble(**row) if row else None


async def acknowledge(scope: PartnerScope, problem_id: str, revision: int, actor: str) -> bool:
    """Say that somebody looks after a problem, the first who did; False when it is not there at this revision."""
    done: bool | None = await scope.conn.fetchval(
        """
        UPDATE problems
        SET acknowledged_at = coalesce(acknowledged_at, now()), acknowledged_by = coalesce(acknowledged_by, $4),
            revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND revision = $3
        RETURNING true
        """,
        scope.partner_id,
        problem_id,
        revision,
        actor,
    )
    return bool(done)


async def snooze(scope: PartnerScope, problem_id: str, revision: int, until: datetime | None) -> bool:
    """Tell nobody of a problem until then, or from now on again; False when it is not there at this revision."""
    done: bool | None = await scope.conn.fetchval(
        """
        UPDATE problems SET snoozed_until = $4, revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND revision = $3
        RETURNING true
        """,
        scope.partner_id,
        problem_id,
        revision,
        until,
    )
    return bool(done)


async def drop(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete problems that ended so many days ago, with what was told of them."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT partner_id, id FROM problems WHERE ended_at < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM problems p USING chosen c WHERE p.partner_id = c.partner_id AND p.id = c.id RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    assert row is not None  # noqa: S101  a select without a table has a row
    return Swept(row["chosen"], row["done"])
