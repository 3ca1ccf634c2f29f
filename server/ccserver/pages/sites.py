"""One site on a page: what stands how, since when, and what proves it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint
from ccserver.pages import calendar, render, site_view
from ccserver.pages.calendar import Calendar
from ccserver.queries import site_page
from ccserver.queries.orders import Order
from ccserver.queries.site_page import Limits, Rows
from ccserver.scope import SiteScope

_ORDERS = 10
_AT_MOST = Limits(checks=1000, incidents=20, evidence=10, flagged=200, orders=_ORDERS + 1)


@dataclass(frozen=True)
class History:
    """What was of a site: its days, and the newest orders with whether there are more."""

    calendar: Calendar
    orders: Sequence[Order]
    more_orders: bool


async def show(request: Request) -> Response:
    """Show a site."""
    now = datetime.now(UTC)
    async with auth.site_scope(request) as scope:
        rows = await read(scope, now)
    ctx = context.of(request)
    values = {
        "site": site_view.build(ctx, rows, now),
        "history": _history(rows, now),
        "now": now,
        "public_url": ctx.config.public_url,
    }
    return render.page(request, "site.html", values)


async def read(scope: SiteScope, now: datetime) -> Rows:
    """Read what the page shows of a site as it stands: two statements, whatever its history."""
    rows = await site_page.read(scope, now, calendar.first_day(now.date()), _AT_MOST)
    if rows is None:
        raise NotFoundError
    return rows


def _history(rows: Rows, now: datetime) -> History:
    return History(calendar.build(rows.days, now.date()), rows.orders[:_ORDERS], len(rows.orders) > _ORDERS)


ENDPOINTS = [Endpoint("GET", "/sites/{site}", show, Caller.AUDIT)]
