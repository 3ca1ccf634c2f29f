"""The outbox: what each channel is to be told, claimed by whoever sends it, and what became of every attempt.

The `tell_…` statements look at the problems that stand, which know what was told of them to whom; the unique dedupe key
makes each message once for each channel all the same. They return how many rows they changed, at most `limit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ccserver.listing import Page
from ccserver.queries import planner
from ccserver.retention import Swept
from ccserver.scope import PartnerScope, PlatformScope


@dataclass(frozen=True)
class Claimed:
    """A message that is this sender's to send until its claim runs out; `body` is JSON, `attempts` counts this one."""

    partner_id: str
    id: str
    channel_id: str
    kind: str
    target_sealed: bytes
    event: str
    body: str
    attempts: int
    created_at: datetime


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt: the receiver's status where it answered, and why it counts as failed."""

    number: int
    took_ms: int
    status: int | None
    error: str | None


@dataclass(frozen=True)
class Delivery:
    """A message as the API lists it, with its last attempt."""

    id: str
    channel_id: str
    problem_id: str | None
    event: str
    created_at: datetime
    attempts: int
    next_try_at: datetime | None
    delivered_at: datetime | None
    dead_at: datetime | None
    last_status: int | None
    last_error: str | None


async def tell_opened(scope: PlatformScope, limit: int) -> int:
    """Tell of problems that lasted a channel's grace, unless somebody looks after them already."""
    rows = await scope.conn.fetch(
        """
        WITH said AS (
            INSERT INTO notifications (partner_id, id, channel_id, problem_id, event, dedupe_key, body, remind_at)
            SELECT p.partner_id, gen_random_uuid()::text, c.id, p.id, 'opened', p.id || ':opened', cc_said(p),
                   CASE WHEN c.resend_s > 0 AND c.resend_max > 0 THEN now() + c.resend_s * interval '1 second' END
            FROM problems p JOIN notification_channels c ON c.partner_id = p.partner_id AND cc_concerns(c, p)
            WHERE p.ended_at IS NULL AND p.acknowledged_at IS NULL AND 'opened:' || c.id <> ALL (p.told)
              AND p.noticed_at <= now() - c.grace_s * interval '1 second'
              AND coalesce(greatest(p.snoozed_until, c.snoozed_until), '-infinity') <= now()
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING partner_id, problem_id, channel_id
        )
        UPDATE problems p
        SET told = p.told || s.opened || CASE WHEN p.escalated_at IS NULL THEN '{}' ELSE s.escalated END
        FROM (SELECT partner_id, problem_id, array_agg('opened:' || channel_id) AS opened,
                     array_agg('escalated:' || channel_id) AS escalated
              FROM said GROUP BY partner_id, problem_id) s
        WHERE p.partner_id = s.partner_id AND p.id = s.problem_id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def tell_escalated(scope: PlatformScope, limit: int) -> int:
    """Tell that a problem was escalated to people, after it was told."""
    rows = await scope.conn.fetch(
        """
        WITH said AS (
            INSERT INTO notifications (partner_id, id, channel_id, problem_id, event, dedupe_key, body)
            SELECT p.partner_id, gen_random_uuid()::text, c.id, p.id, 'escalated', p.id || ':escalated', cc_said(p)
            FROM problems p JOIN notification_channels c ON c.partner_id = p.partner_id AND c.disabled_at IS NULL
            WHERE p.ended_at IS NULL AND p.acknowledged_at IS NULL AND p.escalated_at IS NOT NULL
              AND coalesce(greatest(p.snoozed_until, c.snoozed_until), '-infinity') <= now()
              AND 'opened:' || c.id = ANY (p.told) AND 'escalated:' || c.id <> ALL (p.told)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING partner_id, problem_id, channel_id
        )
        UPDATE problems p SET told = p.told || s.told
        FROM (SELECT partner_id, problem_id, array_agg('escalated:' || channel_id) AS told
              FROM said GROUP BY partner_id, problem_id) s
        WHERE p.partner_id = s.partner_id AND p.id = s.problem_id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def tell_acknowledged(scope: PlatformScope, limit: int) -> int:
    """Tell programs (PagerDuty, webhooks) that somebody looks after what they were told of; people need no message."""
    rows = await scope.conn.fetch(
        """
        WITH said AS (
            INSERT INTO notifications (partner_id, id, channel_id, problem_id, event, dedupe_key, body)
            SELECT p.partner_id, gen_random_uuid()::text, c.id, p.id, 'acknowledged', p.id || ':acknowledged',
                   cc_said(p)
            FROM problems p JOIN notification_channels c ON c.partner_id = p.partner_id AND c.disabled_at IS NULL
            WHERE p.ended_at IS NULL AND p.acknowledged_at IS NOT NULL AND c.kind IN ('pagerduty', 'webhook')
              AND 'opened:' || c.id = ANY (p.told) AND 'acknowledged:' || c.id <> ALL (p.told)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING partner_id, problem_id, channel_id
        )
        UPDATE problems p SET told = p.told || s.told
        FROM (SELECT partner_id, problem_id, array_agg('acknowledged:' || channel_id) AS told
              FROM said GROUP BY partner_id, problem_id) s
        WHERE p.partner_id = s.partner_id AND p.id = s.problem_id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def tell_again(scope: PlatformScope, limit: int) -> int:
    """Remind of what was told and nobody acknowledged, as often as the channel says; not while the last one waits."""
    rows = await scope.conn.fetch(
        """
        WITH due AS MATERIALIZED (
            SELECT n.partner_id, n.id, n.channel_id, n.problem_id, n.reminders
            FROM notifications n
            JOIN problems p ON p.partner_id = n.partner_id AND p.id = n.problem_id
            JOIN notification_channels c ON c.partner_id = n.partner_id AND c.id = n.channel_id
            WHERE n.remind_at <= now() AND coalesce(n.delivered_at, n.dead_at) IS NOT NULL
              AND (p.ended_at IS NOT NULL OR p.acknowledged_at IS NOT NULL OR c.disabled_at IS NOT NULL
                   OR coalesce(greatest(p.snoozed_until, c.snoozed_until), '-infinity') <= now())
            LIMIT $1
            FOR UPDATE OF n SKIP LOCKED
        ), said AS (
            INSERT INTO notifications (partner_id, id, channel_id, problem_id, event, dedupe_key, body, reminders,
                                       remind_at)
            SELECT d.partner_id, gen_random_uuid()::text, c.id, p.id, 'reminder',
                   p.id || ':reminder:' || d.reminders + 1,
                   cc_said(p) || jsonb_build_object('reminder', d.reminders + 1), d.reminders + 1,
                   CASE WHEN d.reminders + 1 < c.resend_max THEN now() + c.resend_s * interval '1 second' END
            FROM due d
            JOIN problems p ON p.partner_id = d.partner_id AND p.id = d.problem_id
            JOIN notification_channels c ON c.partner_id = d.partner_id AND c.id = d.channel_id
            WHERE p.ended_at IS NULL AND p.acknowledged_at IS NULL AND c.disabled_at IS NULL AND c.resend_s > 0
              AND d.reminders < c.resend_max
            ON CONFLICT DO NOTHING
        )
        UPDATE notifications n SET remind_at = NULL FROM due d WHERE n.partner_id = d.partner_id AND n.id = d.id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def tell_ended(scope: PlatformScope, limit: int) -> int:
    """Tell the end of what was told, snoozed or not, to every channel that heard of it and is not disabled."""
    rows = await scope.conn.fetch(
        """
        WITH said AS (
            INSERT INTO notifications (partner_id, id, channel_id, problem_id, event, dedupe_key, body)
            SELECT p.partner_id, gen_random_uuid()::text, c.id, p.id, 'ended', p.id || ':ended', cc_said(p)
            FROM problems p JOIN notification_channels c ON c.partner_id = p.partner_id AND c.disabled_at IS NULL
            WHERE p.ended_at > now() - interval '1 day'
              AND 'opened:' || c.id = ANY (p.told) AND 'ended:' || c.id <> ALL (p.told)
            LIMIT $1
            ON CONFLICT DO NOTHING
            RETURNING partner_id, problem_id, channel_id
        )
        UPDATE problems p SET told = p.told || s.told
        FROM (SELECT partner_id, problem_id, array_agg('ended:' || channel_id) AS told
              FROM said GROUP BY partner_id, problem_id) s
        WHERE p.partner_id = s.partner_id AND p.id = s.problem_id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def bury(scope: PlatformScope, limit: int) -> int:
    """Give up what waits for a channel that was disabled, so that it is not sent when that is old news."""
    rows = await scope.conn.fetch(
        """
        UPDATE notifications n SET dead_at = now(), last_error = 'The channel was disabled.'
        FROM (SELECT w.partner_id, w.id
              FROM notifications w JOIN notification_channels c ON c.partner_id = w.partner_id AND c.id = w.channel_id
              WHERE w.delivered_at IS NULL AND w.dead_at IS NULL AND c.disabled_at IS NOT NULL
              LIMIT $1 FOR UPDATE OF w SKIP LOCKED) w
        WHERE n.partner_id = w.partner_id AND n.id = w.id
        RETURNING true
        """,
        limit,
    )
    return len(rows)


async def insert_test(scope: PartnerScope, notification_id: str, channel_id: str, lease: timedelta) -> Claimed | None:
    """Write a test of a channel that is claimed already: who asked for it sends it. None without such a channel."""
    row = await scope.conn.fetchrow(
        """
        WITH channel AS (
            SELECT partner_id, id, kind, target_sealed FROM notification_channels WHERE partner_id = $1 AND id = $3
        ), made AS (
            INSERT INTO notifications (partner_id, id, channel_id, event, dedupe_key, body, attempts, claimed_until)
            SELECT partner_id, $2, id, 'test', 'test:' || $2, '{}', 1, now() + $4::interval FROM channel
            RETURNING partner_id, id, channel_id, event, body, attempts, created_at
        )
        SELECT m.partner_id, m.id, m.channel_id, c.kind, c.target_sealed, m.event, m.body::text AS body, m.attempts,
               m.created_at
        FROM made m JOIN channel c ON c.id = m.channel_id
        """,
        scope.partner_id,
        notification_id,
        channel_id,
        lease,
    )
    return Claimed(**row) if row else None


async def claim(scope: PlatformScope, limit: int, each: int, lease: timedelta) -> list[Claimed]:
    """Take messages that are due, at most `each` at once of a channel, and of a problem the earliest first.

    Whoever claims sends; another sender skips what is locked, and finds it claimed afterwards. A claim that ran out was
    of a sender that died: it is taken again, under the same id.
    """
    rows = await scope.conn.fetch(
        """
        WITH placed AS (
            SELECT n.partner_id, n.id, row_number() OVER (PARTITION BY n.partner_id, n.channel_id
                                                          ORDER BY n.claimed_until > now() DESC NULLS LAST,
                                                                   n.created_at, n.id) AS place
            FROM notifications n
            WHERE n.delivered_at IS NULL AND n.dead_at IS NULL AND n.event <> 'test'
              AND (n.claimed_until > now() OR n.next_try_at <= now())
        ), chosen AS MATERIALIZED (
            SELECT n.partner_id, n.id
            FROM placed k
            JOIN notifications n ON n.partner_id = k.partner_id AND n.id = k.id
            JOIN notification_channels c ON c.partner_id = n.partner_id AND c.id = n.channel_id
            JOIN partners r ON r.id = n.partner_id
            WHERE k.place <= $2 AND c.disabled_at IS NULL AND r.closed_at IS NULL
              AND n.delivered_at IS NULL AND n.dead_at IS NULL AND n.next_try_at <= now()
              AND coalesce(n.claimed_until, '-infinity') <= now()
              AND NOT EXISTS (
                  SELECT FROM notifications e
                  WHERE e.partner_id = n.partner_id AND e.channel_id = n.channel_id AND e.problem_id = n.problem_id
                    AND e.delivered_at IS NULL AND e.dead_at IS NULL AND e.created_at < n.created_at)
            ORDER BY n.next_try_at
            LIMIT $1
            FOR UPDATE OF n SKIP LOCKED
        )
        UPDATE notifications n SET claimed_until = now() + $3::interval, attempts = n.attempts + 1
        FROM chosen k JOIN notification_channels c ON c.partner_id = k.partner_id
        WHERE n.partner_id = k.partner_id AND n.id = k.id AND c.id = n.channel_id
        RETURNING n.partner_id, n.id, n.channel_id, c.kind, c.target_sealed, n.event, n.body::text AS body, n.attempts,
                  n.created_at
        """,
        limit,
        each,
        lease,
    )
    return [Claimed(**row) for row in rows]


async def record(
    scope: PartnerScope, notification_id: str, attempt: Attempt, wait: timedelta | None, is_last: bool
) -> None:
    """Keep what came of an attempt: delivered, to be tried again after `wait`, or dead when it was the last."""
    await scope.conn.execute(
        """
        WITH tried AS (
            INSERT INTO notification_attempts (partner_id, notification_id, number, took_ms, status, error)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT DO NOTHING
        )
        UPDATE notifications
        SET claimed_until = NULL, last_error = $6,
            delivered_at = CASE WHEN $6::text IS NULL THEN now() END,
            dead_at = CASE WHEN $6 IS NOT NULL AND $8 THEN now() END,
            next_try_at = now() + coalesce($7::interval, interval '0')
        WHERE partner_id = $1 AND id = $2 AND (attempts = $3 OR $6 IS NULL) AND delivered_at IS NULL
        """,
        scope.partner_id,
        notification_id,
        attempt.number,
        attempt.took_ms,
        attempt.status,
        attempt.error,
        wait,
        is_last,
    )


async def newest(scope: PartnerScope, channel_id: str | None, page: Page) -> list[Delivery]:
    """Return a page of what was told, by one channel or by all of the partner's, newest first."""
    await planner.read_in_order(scope)
    rows = await scope.conn.fetch(
        """
        SELECT n.id, n.channel_id, n.problem_id, n.event, n.created_at, n.attempts,
               CASE WHEN n.delivered_at IS NULL AND n.dead_at IS NULL AND n.event <> 'test' THEN n.next_try_at END
                   AS next_try_at,
               n.delivered_at, n.dead_at, a.status AS last_status, n.last_error
        FROM notifications n
        LEFT JOIN LATERAL (SELECT status FROM notification_attempts a
                           WHERE a.partner_id = n.partner_id AND a.notification_id = n.id
                           ORDER BY a.number DESC LIMIT 1) a ON true
        WHERE n.partner_id = $1 AND (n.created_at, n.id) < ($2, $3) AND ($4::text IS NULL OR n.channel_id = $4)
        ORDER BY n.created_at DESC, n.id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        channel_id,
        page.fetched,
        page.offset,
    )
    return [Delivery(**row) for row in rows]


async def count(scope: PartnerScope, channel_id: str | None) -> int:
    """Return how many messages there are, of one channel or of all the partner's, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM notifications WHERE partner_id = $1 AND ($2::text IS NULL OR channel_id = $2) LIMIT 10001)
             AS counted
        """,
        scope.partner_id,
        channel_id,
    )
    return found


@dataclass(frozen=True)
class Tried:
    """An attempt as the API lists it."""

    number: int
    at: datetime
    took_ms: int
    status: int | None
    error: str | None


async def attempts(scope: PartnerScope, notification_id: str) -> Sequence[Tried] | None:
    """Return every attempt to send a message, oldest first; None when the partner has no such message."""
    rows = await scope.conn.fetch(
        """
        SELECT a.number, a.at, a.took_ms, a.status, a.error
        FROM notifications n
        LEFT JOIN notification_attempts a ON a.partner_id = n.partner_id AND a.notification_id = n.id
        WHERE n.partner_id = $1 AND n.id = $2
        ORDER BY a.number
        """,
        scope.partner_id,
        notification_id,
    )
    return [Tried(**row) for row in rows if row["number"] is not None] if rows else None


@dataclass(frozen=True)
class Queue:
    """How the outbox stands over all tenants: waiting, how old the oldest is, and dead within a day."""

    waiting: int
    oldest_s: float
    dead: int


async def queue(scope: PlatformScope) -> Queue:
    """Return how the outbox stands; of what can be many, at most 10,001 are counted."""
    row = await scope.conn.fetchrow(
        """
        SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s,
               (SELECT count(*) FROM (SELECT FROM notifications WHERE dead_at > now() - interval '1 day' LIMIT 10001) d)
                   AS dead
        FROM (SELECT created_at FROM notifications
              WHERE delivered_at IS NULL AND dead_at IS NULL AND event <> 'test' LIMIT 10001) w
        """
    )
    assert row is not None  # noqa: S101  an aggregate has a row
    return Queue(**row)


async def drop_tests(scope: PlatformScope, limit: int, days: int) -> Swept:
    """Delete tests of channels that are so many days old."""
    row = await scope.conn.fetchrow(
        """
        WITH chosen AS MATERIALIZED (
            SELECT partner_id, id FROM notifications
            WHERE event = 'test' AND created_at < now() - $2::int * interval '1 day'
            LIMIT $1
            FOR UPDATE SKIP LOCKED
        ), changed AS (
            DELETE FROM notifications n USING chosen c WHERE n.partner_id = c.partner_id AND n.id = c.id RETURNING true
        )
        SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM changed) AS done
        """,
        limit,
        days,
    )
    assert row is not None  # noqa: S101  a select without a table has a row
    return Swept(row["chosen"], row["done"])
