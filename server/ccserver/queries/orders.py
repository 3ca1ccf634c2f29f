"""Orders: runbooks to be run by one appliance; made, released, fetched, answered, and cancelled while pending."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver.errors import NotPendingError, OrderTakenError
from ccserver.listing import Page
from ccserver.queries import planner
from ccserver.queries.evidence_bundles import Naming
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope


@dataclass(frozen=True)
class Order:
    """An order as lists show it; times are None until they came, `issued_at` until it was released.

    `creator` is the person behind `created_by`, `fleet_order_id` the order for many that it is a part of.
    """

    id: str
    site_id: str
    appliance_id: str
    runbook_id: str
    runbook_digest: str | None
    fleet_order_id: str | None
    status: str
    created_by: str
    creator: str | None
    created_at: datetime
    approved_by: str | None
    cancelled_by: str | None
    issued_at: datetime | None
    expires_at: datetime
    acknowledged_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class OrderDetail:
    """An order with its typed parameters and what its appliance answered; None while it did not."""

    order: Order
    parameters: dict[str, Any]
    result: dict[str, Any] | None


@dataclass(frozen=True)
class Filter:
    """Which orders a list shows; None is any."""

    appliance_id: str | None
    status: str | None


@dataclass(frozen=True)
class Draft:
    """An order to be made: it expires `life_s` seconds after its release, or unreleased after `wait_s`."""

    id: str
    site_id: str
    appliance_id: str
    runbook_id: str
    runbook_digest: str
    parameters: dict[str, Any]
    life_s: int
    wait_s: int
    created_by: str
    creator: str
    approved_by: str | None = None
    fleet_order_id: str | None = None


@dataclass(frozen=True)
class Release:
    """What an order is by its signed envelope (DSSE JSON); times are ms UTC."""

    envelope: bytes
    issued_ms: int
    expires_ms: int


@dataclass(frozen=True)
class Answer:
    """What an order's appliance says of it: `result` is canonical in shape, and None while it runs."""

    status: str
    result: dict[str, Any] | None


async def insert(scope: PartnerScope | SiteScope, draft: Draft) -> None:
    """Make an order, not yet released; NotPendingError when the same one is being made at this moment."""
    done = await scope.conn.execute(
        """
        INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, runbook_digest, parameters, life_s,
                            created_by, creator, approved_by, fleet_order_id, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $12, now() + $13::int * interval '1 second')
        ON CONFLICT (site_id, id) DO NOTHING
        """,
        draft.site_id,
        scope.partner_id,
        draft.appliance_id,
        draft.id,
        draft.runbook_id,
        draft.runbook_digest,
        orjson.dumps(draft.parameters).decode(),
        draft.life_s,
        draft.created_by,
        draft.creator,
        draft.approved_by,
        draft.fleet_order_id,
        draft.wait_s,
    )
    if done != "INSERT 0 1":
        raise NotPendingError("This order was made already: the list of orders shows it.")


async def lock_unreleased(scope: SiteScope, order_id: str) -> Draft | None:
    """Return an order that waits for its approval, held until the transaction ends; None when it does not."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, site_id, appliance_id, runbook_id, runbook_digest, parameters, life_s, 0 AS wait_s, created_by,
               coalesce(creator, created_by) AS creator, approved_by, fleet_order_id
        FROM orders
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND status = 'pending' AND envelope IS NULL
          AND runbook_digest IS NOT NULL AND life_s IS NOT NULL AND expires_at > now()
        FOR UPDATE
        """,
        scope.site_id,
        scope.partner_id,
        order_id,
    )
    return Draft(**{**row, "parameters": orjson.loads(row["parameters"])}) if row else None


async def release(scope: PartnerScope | SiteScope, draft: Draft, made: Release, approved_by: str | None) -> bool:
    """Let an order's appliance have it: what it is stays so from now on. False when it does not wait for that."""
    done = await scope.conn.fetchval(
        """
        UPDATE orders
        SET envelope = $4, issued_at = to_timestamp($5::bigint / 1000.0),
            expires_at = to_timestamp($6::bigint / 1000.0), approved_by = $7
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND status = 'pending' AND envelope IS NULL
        RETURNING true
        """,
        draft.site_id,
        scope.partner_id,
        draft.id,
        made.envelope,
        made.issued_ms,
        made.expires_ms,
        approved_by,
    )
    return bool(done)


async def deliverable(scope: ApplianceScope, limit: int) -> list[bytes]:
    """Return the envelopes of the appliance's released orders that are not over, the oldest first."""
    rows = await scope.conn.fetch(
        """
        SELECT envelope
        FROM orders
        WHERE site_id = $1 AND appliance_id = $2 AND envelope IS NOT NULL
          AND status IN ('pending', 'acknowledged', 'running') AND expires_at > now()
        ORDER BY issued_at, id
        LIMIT $3
        """,
        scope.site_id,
        scope.appliance_id,
        limit,
    )
    return [row["envelope"] for row in rows]


async def acknowledge(scope: ApplianceScope, order_id: str, taker: str | None = None) -> str | None:
    """Write that the appliance has the order, and which copy of it, once; return its status, None without the order.

    OrderTakenError when it was taken by another name and is not over.
    """
    row = await scope.conn.fetchrow(
        """
        UPDATE orders
        SET status = CASE status WHEN 'pending' THEN 'acknowledged' ELSE status END,
            acknowledged_at = CASE status WHEN 'pending' THEN now() ELSE acknowledged_at END,
            taker = CASE status WHEN 'pending' THEN $4 ELSE taker END
        WHERE site_id = $1 AND appliance_id = $2 AND id = $3 AND envelope IS NOT NULL
        RETURNING status, taker
        """,
        scope.site_id,
        scope.appliance_id,
        order_id,
        taker,
    )
    if row is None:
        return None
    if row["status"] in ("acknowledged", "running") and row["taker"] not in (None, taker):
        raise OrderTakenError("Another copy of this appliance took this order.")
    return str(row["status"])


async def answer(scope: ApplianceScope, order_id: str, said: Answer) -> str | None:
    """Write how the order goes or ended; a result wins over having given it up, and stays when another comes.

    Return the order's fleet order ('' where it is of none) when something changed, None when nothing did.
    """
    fleet_order_id: str | None = await scope.conn.fetchval(
        """
        UPDATE orders
        SET status = $4, result = $5::jsonb, acknowledged_at = coalesce(acknowledged_at, now()),
            started_at = coalesce(started_at, now()), finished_at = CASE WHEN $4 <> 'running' THEN now() END
        WHERE site_id = $1 AND appliance_id = $2 AND id = $3 AND envelope IS NOT NULL
          AND status NOT IN ('succeeded', 'failed', 'rejected') AND status <> $4
        RETURNING coalesce(fleet_order_id, '')
        """,
        scope.site_id,
        scope.appliance_id,
        order_id,
        said.status,
        None if said.result is None else orjson.dumps(said.result).decode(),
    )
    return fleet_order_id


async def status_of(scope: ApplianceScope, order_id: str) -> str | None:
    """Return the status of a released order of the appliance."""
    status: str | None = await scope.conn.fetchval(
        "SELECT status FROM orders WHERE site_id = $1 AND appliance_id = $2 AND id = $3 AND envelope IS NOT NULL",
        scope.site_id,
        scope.appliance_id,
        order_id,
    )
    return status


async def newest(scope: PartnerScope, wanted: Filter, page: Page) -> list[Order]:
    """Return a page of the partner's orders, newest first."""
    await planner.read_in_order(scope)
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, appliance_id, runbook_id, runbook_digest, fleet_order_id, status, created_by, creator,
               created_at, approved_by, cancelled_by, issued_at, expires_at, acknowledged_at, started_at, finished_at
        FROM orders
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3)
          AND ($4::text IS NULL OR appliance_id = $4) AND ($5::text IS NULL OR status = $5)
        ORDER BY created_at DESC, id DESC
        LIMIT $6 OFFSET $7
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        wanted.appliance_id,
        wanted.status,
        page.fetched,
        page.offset,
    )
    return [Order(**row) for row in rows]


async def newest_of_site(scope: SiteScope, wanted: Filter, page: Page) -> list[Order]:
    """Return a page of the site's orders, newest first."""
    await planner.read_in_order(scope)
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, appliance_id, runbook_id, runbook_digest, fleet_order_id, status, created_by, creator,
               created_at, approved_by, cancelled_by, issued_at, expires_at, acknowledged_at, started_at, finished_at
        FROM orders
        WHERE site_id = $1 AND partner_id = $2 AND (created_at, id) < ($3, $4)
          AND ($5::text IS NULL OR appliance_id = $5) AND ($6::text IS NULL OR status = $6)
        ORDER BY created_at DESC, id DESC
        LIMIT $7 OFFSET $8
        """,
        scope.site_id,
        scope.partner_id,
        page.before,
        page.before_id,
        wanted.appliance_id,
        wanted.status,
        page.fetched,
        page.offset,
    )
    return [Order(**row) for row in rows]


async def count(scope: PartnerScope | SiteScope, site_id: str | None, wanted: Filter) -> int:
    """Return how many of the partner's or the site's orders are wanted, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM orders
              WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2)
                AND ($3::text IS NULL OR appliance_id = $3) AND ($4::text IS NULL OR status = $4)
              LIMIT 10001) AS counted
        """,
        scope.partner_id,
        site_id,
        wanted.appliance_id,
        wanted.status,
    )
    return found


async def find(scope: SiteScope, order_id: str) -> OrderDetail | None:
    """Return an order of the site."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, site_id, appliance_id, runbook_id, runbook_digest, fleet_order_id, status, created_by, creator,
               created_at, approved_by, cancelled_by, issued_at, expires_at, acknowledged_at, started_at,
               finished_at, parameters, result
        FROM orders
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        order_id,
    )
    if row is None:
        return None
    values = dict(row)
    parameters, result = values.pop("parameters"), values.pop("result")
    return OrderDetail(Order(**values), orjson.loads(parameters), orjson.loads(result) if result else None)


@dataclass(frozen=True)
class Story:
    """An order with what its site and its appliance are called, and the signed envelope (None before its release)."""

    detail: OrderDetail
    site_name: str
    hostname: str
    envelope: bytes | None
    evidence: Sequence[Naming]


async def story(scope: SiteScope, order_id: str, most: int) -> Story | None:
    """Return an order of the site with all that is told of it.

    Its evidence is sought among the `most` newest entries of the site that came after its release.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT o.id, o.site_id, o.appliance_id, o.runbook_id, o.runbook_digest, o.fleet_order_id, o.status,
               o.created_by, o.creator, o.created_at, o.approved_by, o.cancelled_by, o.issued_at, o.expires_at,
               o.acknowledged_at, o.started_at, o.finished_at, o.parameters, o.result, o.envelope,
               s.name AS site_name, a.hostname,
               ARRAY(SELECT ROW(b.bundle_type, b.log_id, l.origin, b.seq, b.bundle_hash, b.received_at)
                     FROM (SELECT bundle_type, log_id, site_id, appliance_id, seq, bundle_hash, received_at, payload
                           FROM evidence_bundles
                           WHERE site_id = $1 AND partner_id = $2
                           ORDER BY id DESC
                           LIMIT $4) b
                     JOIN evidence_logs l ON l.site_id = b.site_id AND l.id = b.log_id
                     WHERE b.appliance_id = o.appliance_id AND b.bundle_type = 'order_result'
                       AND b.received_at >= o.issued_at
                       AND position(convert_to('"order":"' || o.id || '"', 'UTF8') IN b.payload) > 0
                     ORDER BY b.received_at
                     LIMIT 20) AS evidence
        FROM orders o
        JOIN sites s ON s.id = o.site_id
        JOIN appliances a ON a.site_id = o.site_id AND a.id = o.appliance_id
        WHERE o.site_id = $1 AND o.partner_id = $2 AND o.id = $3
        """,
        scope.site_id,
        scope.partner_id,
        order_id,
        most,
    )
    if row is None:
        return None
    values = dict(row)
    parameters, result = orjson.loads(values.pop("parameters")), values.pop("result")
    evidence = [Naming(*each) for each in values.pop("evidence")]
    told = {name: values.pop(name) for name in ("site_name", "hostname", "envelope")}
    return Story(
        OrderDetail(Order(**values), parameters, orjson.loads(result) if result else None), **told, evidence=evidence
    )


async def cancel(scope: SiteScope, order_id: str, actor: str) -> bool:
    """Cancel an order that no appliance has taken yet; False when it is not there or not pending."""
    done = await scope.conn.fetchval(
        """
        UPDATE orders SET status = 'cancelled', cancelled_by = $4, finished_at = now()
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND status = 'pending'
        RETURNING true
        """,
        scope.site_id,
        scope.partner_id,
        order_id,
        actor,
    )
    return bool(done)


async def count_pending(scope: SiteScope) -> int:
    """Return how many orders of the site no appliance has taken yet."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM orders WHERE site_id = $1 AND partner_id = $2 AND status = 'pending'",
        scope.site_id,
        scope.partner_id,
    )
    return found


async def cancel_all(scope: SiteScope, actor: str) -> int:
    """Cancel every order of the site that no appliance has taken yet; return how many there were."""
    rows = await scope.conn.fetch(
        """
        UPDATE orders SET status = 'cancelled', cancelled_by = $3, finished_at = now()
        WHERE site_id = $1 AND partner_id = $2 AND status = 'pending'
        RETURNING id
        """,
        scope.site_id,
        scope.partner_id,
        actor,
    )
    return len(rows)
