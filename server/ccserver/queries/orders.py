"""Orders: runbooks to be run by one appliance. Healing makes them; here they are read, and cancelled while pending."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver.listing import Page
from ccserver.scope import PartnerScope, SiteScope


@dataclass(frozen=True)
class Order:
    """An order as lists show it; times are None until they came."""

    id: str
    site_id: str
    appliance_id: str
    runbook_id: str
    status: str
    created_by: str
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


async def newest(scope: PartnerScope, wanted: Filter, page: Page) -> list[Order]:
    """Return a page of the partner's orders, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, appliance_id, runbook_id, status, created_by, created_at, approved_by, cancelled_by,
               issued_at, expires_at, acknowledged_at, started_at, finished_at
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
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, appliance_id, runbook_id, status, created_by, created_at, approved_by, cancelled_by,
               issued_at, expires_at, acknowledged_at, started_at, finished_at
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
        SELECT id, site_id, appliance_id, runbook_id, status, created_by, created_at, approved_by, cancelled_by,
               issued_at, expires_at, acknowledged_at, started_at, finished_at, parameters, result
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
