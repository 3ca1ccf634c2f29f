"""Orders for many appliances of a partner: for whom, in which turn, and how far each came."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver.errors import NotPendingError
from ccserver.listing import Page
from ccserver.scope import PartnerScope, PlatformScope


@dataclass(frozen=True)
class FleetOrder:
    """An order for many; `pause_reason` is why it waits for a person, `creator` the person behind `created_by`.

    `resumed_at`: failures of before do not count, and the canary was seen by a person.
    """

    id: str
    runbook_id: str
    runbook_digest: str
    parameters: dict[str, Any]
    life_s: int
    status: str
    pause_reason: str | None
    created_by: str
    creator: str
    approved_by: str | None
    created_at: datetime
    resumed_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Draft:
    """An order for many, to be made."""

    id: str
    runbook_id: str
    runbook_digest: str
    parameters: dict[str, Any]
    life_s: int
    status: str
    created_by: str
    creator: str


@dataclass(frozen=True)
class Target:
    """For whom: appliances in service at these open sites, or at those with this tag; None is any."""

    site_ids: Sequence[str] | None
    tag: str | None
    canary_id: str | None


@dataclass(frozen=True)
class Progress:
    """How many appliances wait for their turn, have their order, and how those ended whose order is over.

    `in_service` counts all of the partner's appliances, of which a share may run the order at once.
    """

    waiting: int
    active: int
    succeeded: int
    failed: int
    rejected: int
    expired: int
    cancelled: int
    skipped: int
    in_service: int


@dataclass(frozen=True)
class Member:
    """An appliance whose turn it is."""

    site_id: str
    appliance_id: str


@dataclass(frozen=True)
class Running:
    """An order for many that goes on by itself."""

    partner_id: str
    id: str


@dataclass(frozen=True)
class MemberState:
    """How far an appliance came: `order_status` is None before its turn, `skipped` says why it has none."""

    turn: int
    site_id: str
    appliance_id: str
    order_id: str | None
    order_status: str | None
    skipped: str | None


async def insert(scope: PartnerScope, draft: Draft) -> None:
    """Make an order for many, for nobody yet; NotPendingError when the same one is being made at this moment."""
    done = await scope.conn.execute(
        """
        INSERT INTO fleet_orders (partner_id, id, runbook_id, runbook_digest, parameters, life_s, status, created_by,
                                  creator)
        VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9)
        ON CONFLICT (partner_id, id) DO NOTHING
        """,
        scope.partner_id,
        draft.id,
        draft.runbook_id,
        draft.runbook_digest,
        orjson.dumps(draft.parameters).decode(),
        draft.life_s,
        draft.status,
        draft.created_by,
        draft.creator,
    )
    if done != "INSERT 0 1":
        raise NotPendingError("This order was made already: the list of orders shows it.")


async def add_members(scope: PartnerScope, fleet_order_id: str, target: Target) -> int:
    """Put the appliances in their turns and return how many there are: the canary, then who was heard last."""
    rows = await scope.conn.fetch(
        """
        INSERT INTO fleet_order_members (site_id, partner_id, appliance_id, fleet_order_id, turn)
        SELECT a.site_id, a.partner_id, a.id, $2,
               row_number() OVER (ORDER BY a.id IS NOT DISTINCT FROM $5::text DESC, a.last_checkin DESC NULLS LAST,
                                           a.site_id, a.id) - 1
        FROM appliances a JOIN sites s ON s.id = a.site_id AND s.partner_id = $1
        WHERE a.partner_id = $1 AND a.revoked_at IS NULL AND s.closed_at IS NULL
          AND ($3::text[] IS NULL OR a.site_id = ANY ($3)) AND ($4::text IS NULL OR $4 = ANY (s.tags))
        RETURNING turn
        """,
        scope.partner_id,
        fleet_order_id,
        target.site_ids,
        target.tag,
        target.canary_id,
    )
    return len(rows)


@dataclass(frozen=True)
class Candidate:
    """An appliance for whom an order for many would be; `total` counts all of them."""

    site_id: str
    site_name: str
    appliance_id: str
    hostname: str
    last_checkin: datetime | None
    total: int


async def foresee(scope: PartnerScope, target: Target, limit: int) -> list[Candidate]:
    """Return the first appliances for whom an order for many would be, in their turns, the canary first."""
    rows = await scope.conn.fetch(
        """
        SELECT a.site_id, s.name AS site_name, a.id AS appliance_id, a.hostname, a.last_checkin,
               count(*) OVER () AS total
        FROM appliances a JOIN sites s ON s.id = a.site_id AND s.partner_id = $1
        WHERE a.partner_id = $1 AND a.revoked_at IS NULL AND s.closed_at IS NULL
          AND ($2::text[] IS NULL OR a.site_id = ANY ($2)) AND ($3::text IS NULL OR $3 = ANY (s.tags))
        ORDER BY a.id IS NOT DISTINCT FROM $4::text DESC, a.last_checkin DESC NULLS LAST, a.site_id, a.id
        LIMIT $5
        """,
        scope.partner_id,
        target.site_ids,
        target.tag,
        target.canary_id,
        limit,
    )
    return [Candidate(**row) for row in rows]


async def lock(scope: PartnerScope, fleet_order_id: str) -> FleetOrder | None:
    """Return an order for many, held until the transaction ends: one server at a time carries it on."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, runbook_id, runbook_digest, parameters, life_s, status, pause_reason, created_by, creator,
               approved_by, created_at, resumed_at, finished_at
        FROM fleet_orders
        WHERE partner_id = $1 AND id = $2
        FOR UPDATE
        """,
        scope.partner_id,
        fleet_order_id,
    )
    return FleetOrder(**{**row, "parameters": orjson.loads(row["parameters"])}) if row else None


async def find(scope: PartnerScope, fleet_order_id: str) -> FleetOrder | None:
    """Return an order for many."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, runbook_id, runbook_digest, parameters, life_s, status, pause_reason, created_by, creator,
               approved_by, created_at, resumed_at, finished_at
        FROM fleet_orders
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        fleet_order_id,
    )
    return FleetOrder(**{**row, "parameters": orjson.loads(row["parameters"])}) if row else None


async def newest(scope: PartnerScope, page: Page) -> list[FleetOrder]:
    """Return a page of the partner's orders for many, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, runbook_id, runbook_digest, parameters, life_s, status, pause_reason, created_by, creator,
               approved_by, created_at, resumed_at, finished_at
        FROM fleet_orders
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC
        LIMIT $4 OFFSET $5
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [FleetOrder(**{**row, "parameters": orjson.loads(row["parameters"])}) for row in rows]


async def count(scope: PartnerScope) -> int:
    """Return how many orders for many the partner has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM fleet_orders WHERE partner_id = $1 LIMIT 10001) AS counted",
        scope.partner_id,
    )
    return found


async def members(scope: PartnerScope, fleet_order_id: str, limit: int, offset: int) -> list[MemberState]:
    """Return some of the appliances that it is for, in their turns."""
    rows = await scope.conn.fetch(
        """
        SELECT m.turn, m.site_id, m.appliance_id, m.order_id, o.status AS order_status, m.skipped
        FROM fleet_order_members m LEFT JOIN orders o ON o.site_id = m.site_id AND o.id = m.order_id
        WHERE m.partner_id = $1 AND m.fleet_order_id = $2
        ORDER BY m.turn
        LIMIT $3 OFFSET $4
        """,
        scope.partner_id,
        fleet_order_id,
        limit,
        offset,
    )
    return [MemberState(**row) for row in rows]


async def progress(scope: PartnerScope, fleet_order_id: str) -> Progress:
    """Return how far an order for many came."""
    row = await scope.conn.fetchrow(
        """
        SELECT count(*) FILTER (WHERE m.order_id IS NULL AND m.skipped IS NULL) AS waiting,
               count(*) FILTER (WHERE o.status IN ('pending', 'acknowledged', 'running')) AS active,
               count(*) FILTER (WHERE o.status = 'succeeded') AS succeeded,
               count(*) FILTER (WHERE o.status = 'failed') AS failed,
               count(*) FILTER (WHERE o.status = 'rejected') AS rejected,
               count(*) FILTER (WHERE o.status = 'expired') AS expired,
               count(*) FILTER (WHERE o.status = 'cancelled') AS cancelled,
               count(*) FILTER (WHERE m.skipped IS NOT NULL) AS skipped,
               (SELECT count(*) FROM appliances a WHERE a.partner_id = $1 AND a.revoked_at IS NULL) AS in_service
        FROM fleet_order_members m LEFT JOIN orders o ON o.site_id = m.site_id AND o.id = m.order_id
        WHERE m.partner_id = $1 AND m.fleet_order_id = $2
        """,
        scope.partner_id,
        fleet_order_id,
    )
    assert row is not None  # noqa: S101  an aggregate has a row
    return Progress(**row)


async def last_ends(scope: PartnerScope, fleet_order_id: str, since: datetime | None, limit: int) -> list[str]:
    """Return how the last orders of it ended that an appliance took, the newest first, since a moment.

    One that was taken and of which nothing was heard until it expired is among them: it may be why.
    """
    rows = await scope.conn.fetch(
        """
        SELECT o.status
        FROM orders o
        WHERE o.partner_id = $1 AND o.fleet_order_id = $2
          AND (o.status IN ('succeeded', 'failed', 'rejected')
               OR o.status = 'expired' AND o.acknowledged_at IS NOT NULL)
          AND ($3::timestamptz IS NULL OR o.finished_at > $3)
        ORDER BY o.finished_at DESC, o.id DESC
        LIMIT $4
        """,
        scope.partner_id,
        fleet_order_id,
        since,
        limit,
    )
    return [row["status"] for row in rows]


async def is_unheard(scope: PartnerScope, fleet_order_id: str, after_s: int) -> bool:
    """Return whether an order of it was begun longer ago than that, and nothing was heard of its end."""
    found: bool = await scope.conn.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM orders o
            WHERE o.partner_id = $1 AND o.fleet_order_id = $2 AND o.status = 'running'
              AND o.started_at < now() - make_interval(secs => $3)
        )
        """,
        scope.partner_id,
        fleet_order_id,
        after_s,
    )
    return found


async def skip_gone(scope: PartnerScope, fleet_order_id: str) -> None:
    """Pass over appliances that left service, or whose site was closed, before their turn came."""
    await scope.conn.execute(
        """
        UPDATE fleet_order_members m SET skipped = 'it is not in service any more'
        FROM appliances a JOIN sites s ON s.id = a.site_id
        WHERE m.partner_id = $1 AND m.fleet_order_id = $2 AND m.order_id IS NULL AND m.skipped IS NULL
          AND a.site_id = m.site_id AND a.id = m.appliance_id
          AND (a.revoked_at IS NOT NULL OR s.closed_at IS NOT NULL)
        """,
        scope.partner_id,
        fleet_order_id,
    )


async def next_members(scope: PartnerScope, fleet_order_id: str, stopped: Sequence[str], limit: int) -> list[Member]:
    """Return the appliances whose turn is next, but none at a site of `stopped`."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, appliance_id
        FROM fleet_order_members
        WHERE partner_id = $1 AND fleet_order_id = $2 AND order_id IS NULL AND skipped IS NULL
          AND NOT site_id = ANY ($3::text[])
        ORDER BY turn
        LIMIT $4
        """,
        scope.partner_id,
        fleet_order_id,
        stopped,
        limit,
    )
    return [Member(**row) for row in rows]


async def assign(scope: PartnerScope, fleet_order_id: str, member: Member, order_id: str) -> None:
    """Write which order an appliance got."""
    await scope.conn.execute(
        """
        UPDATE fleet_order_members SET order_id = $5
        WHERE partner_id = $1 AND site_id = $2 AND fleet_order_id = $3 AND appliance_id = $4
        """,
        scope.partner_id,
        member.site_id,
        fleet_order_id,
        member.appliance_id,
        order_id,
    )


async def withdraw(scope: PartnerScope, fleet_order_id: str, actor: str, site_ids: Sequence[str] | None = None) -> int:
    """Cancel the orders of it that no appliance has taken yet, and give these their turn back; return how many.

    `site_ids`: at these sites alone.
    """
    rows = await scope.conn.fetch(
        """
        WITH ended AS (
            UPDATE orders SET status = 'cancelled', cancelled_by = $3, finished_at = now()
            WHERE partner_id = $1 AND fleet_order_id = $2 AND status = 'pending'
              AND ($4::text[] IS NULL OR site_id = ANY ($4))
            RETURNING site_id, id
        )
        UPDATE fleet_order_members m SET order_id = NULL
        FROM ended
        WHERE m.partner_id = $1 AND m.fleet_order_id = $2 AND m.site_id = ended.site_id AND m.order_id = ended.id
        RETURNING m.turn
        """,
        scope.partner_id,
        fleet_order_id,
        actor,
        site_ids,
    )
    return len(rows)


async def start(scope: PartnerScope, fleet_order_id: str, approved_by: str) -> None:
    """Let an order for many go on that waited for its approval."""
    await scope.conn.execute(
        "UPDATE fleet_orders SET status = 'running', approved_by = $3 WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        fleet_order_id,
        approved_by,
    )


async def pause(scope: PartnerScope, fleet_order_id: str, reason: str) -> None:
    """Let it wait for a person."""
    await scope.conn.execute(
        "UPDATE fleet_orders SET status = 'paused', pause_reason = $3 WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        fleet_order_id,
        reason[:300],
    )


async def resume(scope: PartnerScope, fleet_order_id: str) -> None:
    """Let it go on after a person looked at it."""
    await scope.conn.execute(
        """
        UPDATE fleet_orders SET status = 'running', pause_reason = NULL, resumed_at = now()
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        fleet_order_id,
    )


async def finish(scope: PartnerScope, fleet_order_id: str, status: str) -> None:
    """End it."""
    await scope.conn.execute(
        "UPDATE fleet_orders SET status = $3, finished_at = now() WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        fleet_order_id,
        status,
    )


async def list_running(scope: PlatformScope, limit: int) -> list[Running]:
    """Return what goes on by itself: the oldest of each partner, then the next of each, so that none is left out."""
    rows = await scope.conn.fetch(
        """
        SELECT partner_id, id
        FROM (SELECT partner_id, id, created_at,
                     row_number() OVER (PARTITION BY partner_id ORDER BY created_at, id) AS place
              FROM fleet_orders WHERE status = 'running') AS placed
        ORDER BY place, created_at, id
        LIMIT $1
        """,
        limit,
    )
    return [Running(**row) for row in rows]
