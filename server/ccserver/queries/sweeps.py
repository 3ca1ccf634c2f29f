"""The sweeps' ledger, and each sweep's one bounded statement over all tenants: platform scope only.

They stand together, and not by table, because nothing else in the server changes rows of many tenants at once. Each
returns how many rows it chose and how many it changed; `limit` bounds both.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ccserver.errors import SweepWithoutScopeError
from ccserver.retention import Swept
from ccserver.scope import PlatformScope

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True)
class Ledger:
    """How a sweep went over all processes: when it was last begun and done, and its rows and failures so far."""

    name: str
    begun_at: datetime
    done_at: datetime | None
    row_count: int
    failure_count: int
    last_error: str | None


async def ledger(scope: PlatformScope) -> list[Ledger]:
    """Return every sweep that ever ran."""
    rows = await scope.conn.fetch(
        "SELECT name, begun_at, done_at, row_count, failure_count, last_error FROM sweeps ORDER BY name"
    )
    return [Ledger(**row) for row in rows]


async def begin(scope: PlatformScope, name: str, every: timedelta) -> bool:
    """Return whether this process is to run the sweep now: no process began it within the interval.

    One that was begun in the future, by a clock that ran ahead, is due.
    """
    taken = await scope.conn.fetchval(
        """
        INSERT INTO sweeps AS s (name) VALUES ($1)
        ON CONFLICT (name) DO UPDATE SET begun_at = now()
        WHERE s.begun_at <= now() - $2::interval OR s.begun_at > now() + interval '1 minute'
        RETURNING true
        """,
        name,
        every,
    )
    return bool(taken)


async def conclude(scope: PlatformScope, name: str, rows: int, error: str | None) -> None:
    """Write how a run ended."""
    await scope.conn.execute(
        """
        INSERT INTO sweeps AS s (name, done_at, row_count, failure_count, last_error)
        VALUES ($1, CASE WHEN $3::text IS NULL THEN now() END, $2, ($3 IS NOT NULL)::int, $3)
        ON CONFLICT (name) DO UPDATE
        SET done_at = coalesce(excluded.done_at, s.done_at), row_count = s.row_count + excluded.row_count,
            failure_count = s.failure_count + excluded.failure_count, last_error = excluded.last_error
        """,
        name,
        rows,
        error,
    )


async def lock(scope: PlatformScope, name: str) -> bool:
    """Take the sweep's lock until the transaction ends; False when another process has it.

    SweepWithoutScopeError in any other role: row security would show nothing, and the sweep would seem to be done.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT current_user = 'cc_platform' AS scoped,
               pg_try_advisory_xact_lock(hashtextextended('ccserver sweep ' || $1, 0)) AS locked
        """,
        name,
    )
    if row is None or not row["scoped"]:
        raise SweepWithoutScopeError
    return bool(row["locked"])


async def mark_liveness(scope: PlatformScope, limit: int, online_for: timedelta) -> Swept:
    """Make `is_online` what the last check-in says."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, id
            FROM appliances
            WHERE is_online <> (revoked_at IS NULL AND last_checkin IS NOT NULL AND last_checkin > now() - $2::interval)
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            UPDATE appliances a SET is_online = NOT a.is_online
            FROM chosen c WHERE a.site_id = c.site_id AND a.id = c.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        online_for,
    )
    return _swept(row)


async def mark_silence(scope: PlatformScope, limit: int) -> Swept:
    """Set `silent_since` where check-ins arrive and no receipt was given for 48 h, and end it where one came."""
    row = await scope.conn.fetchrow(
        """
        WITH receipted AS MATERIALIZED (
            SELECT a.site_id, a.id, CASE
                       WHEN a.revoked_at IS NULL AND a.last_checkin > now() - interval '15 minutes'
                       THEN greatest(a.enrolled_at, max(to_timestamp(l.cosigned_at)))
                   END AS at
            FROM appliances a LEFT JOIN evidence_logs l ON l.site_id = a.site_id AND l.appliance_id = a.id
            GROUP BY a.site_id, a.id
        ), chosen AS MATERIALIZED (
            SELECT a.site_id, a.id, r.at
            FROM appliances a JOIN receipted r ON r.site_id = a.site_id AND r.id = a.id
            WHERE a.silent_since IS DISTINCT FROM CASE WHEN r.at < now() - interval '48 hours' THEN r.at END
            LIMIT $1
            FOR UPDATE OF a SKIP LOCKED
        ), changed AS (
            UPDATE appliances a SET silent_since = CASE WHEN c.at < now() - interval '48 hours' THEN c.at END
            FROM chosen c WHERE a.site_id = c.site_id AND a.id = c.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
    )
    return _swept(row)


async def expire_orders(scope: PlatformScope, limit: int) -> Swept:
    """Expire orders not fetched in time, not begun an hour after it, or said to run a week after it."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, id
            FROM orders
            WHERE (status = 'pending' AND expires_at < now())
               OR (status = 'acknowledged' AND expires_at < now() - interval '1 hour')
               OR (status = 'running' AND expires_at < now() - interval '7 days')
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            UPDATE orders o SET status = 'expired', finished_at = now()
            FROM chosen c WHERE o.site_id = c.site_id AND o.id = c.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
    )
    return _swept(row)


async def drop_codes(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete enrolment codes that were used, revoked or expired so many days ago."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, secret_hash
            FROM enrollment_codes
            WHERE least(used_at, revoked_at, expires_at) < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM enrollment_codes e USING chosen c
            WHERE e.site_id = c.site_id AND e.secret_hash = c.secret_hash
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_waivers(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete waivers that were revoked or expired so many days ago."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, id
            FROM waivers
            WHERE least(revoked_at, expires_at) < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM waivers w USING chosen c WHERE w.site_id = c.site_id AND w.id = c.id RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_sessions(scope: PlatformScope, limit: int) -> Swept:
    """Delete sessions that expired."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT partner_id, token_hash FROM sessions WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM sessions s USING chosen c
            WHERE s.partner_id = c.partner_id AND s.token_hash = c.token_hash
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
    )
    return _swept(row)


async def drop_invitations(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete one-time links that were used or expired so many days ago."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT partner_id, token_hash
            FROM invitations
            WHERE least(used_at, expires_at) < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM invitations i USING chosen c
            WHERE i.partner_id = c.partner_id AND i.token_hash = c.token_hash
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_idempotency_keys(scope: PlatformScope, limit: int) -> Swept:
    """Delete what creates answered more than a day ago."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT partner_id, key_hash
            FROM idempotency_keys
            WHERE created_at < now() - interval '1 day'
            ORDER BY created_at
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM idempotency_keys k USING chosen c
            WHERE k.partner_id = c.partner_id AND k.key_hash = c.key_hash
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
    )
    return _swept(row)


async def drop_comments(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete the comments of incidents that were closed so many days ago."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT c.site_id, c.incident_id, c.id
            FROM incident_comments c JOIN incidents i ON i.site_id = c.site_id AND i.id = c.incident_id
            WHERE greatest(i.resolved_at, i.closed_by_hand_at, i.received_at) < now() - $2::int * interval '1 day'
              AND (i.resolved_at IS NOT NULL OR i.closed_by_hand_at IS NOT NULL)
            LIMIT $1
            FOR UPDATE OF c SKIP LOCKED
        ), changed AS (
            DELETE FROM incident_comments g USING chosen c
            WHERE g.site_id = c.site_id AND g.incident_id = c.incident_id AND g.id = c.id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_incidents(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete incidents, without comments, that were closed so many days ago; an open one stays."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT i.site_id, i.id
            FROM incidents i
            WHERE greatest(i.resolved_at, i.closed_by_hand_at, i.received_at) < now() - $2::int * interval '1 day'
              AND (i.resolved_at IS NOT NULL OR i.closed_by_hand_at IS NOT NULL)
              AND NOT EXISTS (SELECT FROM incident_comments c WHERE c.site_id = i.site_id AND c.incident_id = i.id)
            LIMIT $1
            FOR UPDATE OF i SKIP LOCKED
        ), changed AS (
            DELETE FROM incidents i USING chosen c WHERE i.site_id = c.site_id AND i.id = c.id RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_snapshots(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete snapshots that are so many days old; each site keeps its newest."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT s.site_id, s.id
            FROM compliance_snapshots s
            WHERE s.snapshot_at < now() - $2::int * interval '1 day'
              AND EXISTS (SELECT FROM compliance_snapshots n
                          WHERE n.site_id = s.site_id AND n.snapshot_at > s.snapshot_at)
            LIMIT $1
            FOR UPDATE OF s SKIP LOCKED
        ), changed AS (
            DELETE FROM compliance_snapshots s USING chosen c WHERE s.site_id = c.site_id AND s.id = c.id RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def drop_check_states(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete check states that no run confirmed for so many days: they counted as unknown all that time."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT site_id, appliance_id, host_id, check_id
            FROM check_states
            WHERE seen_at < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM check_states s USING chosen c
            WHERE s.site_id = c.site_id AND s.appliance_id = c.appliance_id AND s.host_id = c.host_id
              AND s.check_id = c.check_id
            RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    return _swept(row)


async def clock_is_confirmed(scope: PlatformScope, now_s: float) -> bool:
    """Return whether the fleet agrees with this database's clock: half of those heard this hour, within a day.

    The fleet's clocks were compared with this server's, `now_s`, so that one has to agree with the database's too.
    Where nothing checked in during that hour, nobody confirms it.
    """
    confirmed = await scope.conn.fetchval(
        """
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY abs(clock_offset_ms)) < 86400000
           AND abs(extract(epoch FROM now())::float8 - $1::float8) < 86400
        FROM appliances
        WHERE last_checkin > now() - interval '1 hour' AND clock_offset_ms IS NOT NULL
        """,
        now_s,
    )
    return bool(confirmed)


async def prune_payloads(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Let go of the oldest payloads of one receipted log, in order, as far as they arrived so many days ago.

    Leaf, place, id and kind stay, so that every root can be computed; what names a log's keys and what tells of a
    redaction stays whole. The log remembers how far it came: a run that ends early is carried on by the next. `chosen`
    and `done` are places that were passed, of which some had no payload to go.
    """
    row = await scope.conn.fetchrow(
        """
        WITH log AS MATERIALIZED (
            SELECT l.site_id, l.id, l.pruned_size AS first, least(l.size, l.pruned_size + $1) AS most
            FROM evidence_logs l JOIN evidence_bundles b
              ON b.site_id = l.site_id AND b.log_id = l.id AND b.seq = l.pruned_size
            WHERE l.opened_at < now() - $2::int * interval '1 day' AND l.pruned_size < l.size
              AND l.cosigned_at IS NOT NULL AND l.held_size IS NULL
              AND b.received_at < now() - $2::int * interval '1 day'
            ORDER BY l.site_id, l.id
            LIMIT 1
            FOR UPDATE OF l SKIP LOCKED
        ), span AS MATERIALIZED (
            SELECT log.site_id, log.id, log.first,
                   coalesce((SELECT min(b.seq) FROM evidence_bundles b
                             WHERE b.site_id = log.site_id AND b.log_id = log.id AND b.seq >= log.first
                               AND b.seq < log.most AND b.received_at >= now() - $2::int * interval '1 day'),
                            log.most) AS next
            FROM log
        ), chosen AS MATERIALIZED (
            SELECT b.seq
            FROM span JOIN evidence_bundles b
              ON b.site_id = span.site_id AND b.log_id = span.id AND b.seq >= span.first AND b.seq < span.next
            WHERE b.payload IS NOT NULL
              AND coalesce(b.bundle_type, '') NOT IN ('genesis', 'key_rotation', 'redaction')
        ), pruned AS (
            UPDATE evidence_bundles b
            SET payload = NULL, missing_reason = 'pruned', host_id = NULL, check_id = NULL, hipaa_controls = NULL
            FROM span, chosen
            WHERE b.site_id = span.site_id AND b.log_id = span.id AND b.seq = chosen.seq
            RETURNING true
        ), remembered AS (
            UPDATE evidence_logs l SET pruned_size = span.next
            FROM span WHERE l.site_id = span.site_id AND l.id = span.id
            RETURNING true
        )
        SELECT coalesce((SELECT next - first FROM span), 0) AS passed, (SELECT count(*) FROM remembered) AS logs,
               (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM pruned) AS done
        """,
        limit,
        days,
    )
    assert row is not None  # noqa: S101  a select without a table
    whole = row["chosen"] == row["done"] and row["logs"] == min(row["passed"], 1)
    return Swept(row["passed"], row["passed"] if whole else -1)


@dataclass(frozen=True)
class Totals:
    """What metrics tell of all tenants together."""

    appliances: int
    online: int
    silent: int
    dead_letters: int
    equivocations: int
    logs_not_whole: int
    schema_version: int


async def totals(scope: PlatformScope) -> Totals:
    """Return what all tenants' rows come to; of what can be many, at most 10,001 are counted."""
    row = await scope.conn.fetchrow(
        """
        SELECT count(*) AS appliances, count(*) FILTER (WHERE is_online) AS online,
               count(*) FILTER (WHERE silent_since IS NOT NULL) AS silent,
               (SELECT count(*) FROM (SELECT FROM evidence_bundles WHERE flag IS NOT NULL LIMIT 10001) b)
                   AS dead_letters,
               (SELECT count(*) FROM (SELECT FROM equivocations LIMIT 10001) e) AS equivocations,
               (SELECT count(*) FROM log_verifications WHERE fault IS NOT NULL) AS logs_not_whole,
               (SELECT max(number) FROM schema_migrations) AS schema_version
        FROM appliances
        WHERE revoked_at IS NULL
        """
    )
    assert row is not None  # noqa: S101  an aggregate has a row
    return Totals(**row)


def _swept(row: "asyncpg.Record | None") -> Swept:
    assert row is not None  # noqa: S101  a select without a table has a row
    return Swept(row["chosen"], row["done"])
