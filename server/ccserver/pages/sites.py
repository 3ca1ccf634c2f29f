"""One site on a page: what stands how, since when, and what proves it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint
from ccserver.listing import START, Page
from ccserver.pages import calendar, render, site_view
from ccserver.pages.calendar import Calendar
from ccserver.pages.site_view import Rows
from ccserver.queries import (
    appliances,
    check_states,
    compliance_snapshots,
    equivocations,
    evidence_bundles,
    evidence_logs,
    incidents,
    log_verifications,
    orders,
    sites,
    waivers,
)
from ccserver.queries.orders import Filter, Order
from ccserver.scope import SiteScope

_CHECKS = 1000
_INCIDENTS = 20
_EVIDENCE = 10
_FLAGGED = 200
_ORDERS = Page(10, 0, *START)


@dataclass(frozen=True)
class History:
    """What was of a site: its days, and the newest orders with whether there are more."""

    calendar: Calendar
    orders: list[Order]
    more_orders: bool


async def show(request: Request) -> Response:
    """Show a site."""
    now = datetime.now(UTC)
    async with auth.site_scope(request) as scope:
        rows = await read(scope, now)
        history = await _history(scope, now)
    ctx = context.of(request)
    values = {
        "site": site_view.build(ctx, rows, now),
        "history": history,
        "now": now,
        "public_url": ctx.config.public_url,
    }
    return render.page(request, "site.html", values)


async def read(scope: SiteScope, now: datetime) -> Rows:
    """Read what the page shows of a site as it stands: ten statements, whatever its history."""
    site = await sites.find(scope, scope.site_id)
    if site is None:
        raise NotFoundError
    only = [site.id]
    logs = await evidence_logs.newest_of_sites(scope, only, _EVIDENCE)
    return Rows(
        site=site,
        check_limit=_CHECKS,
        appliances=(await appliances.list_of_sites(scope, only)).get(site.id, []),
        states=(await check_states.list_of_sites(scope, only, now, _CHECKS)).get(site.id, []),
        incidents=(await incidents.list_open_of_sites(scope, only, _INCIDENTS)).get(site.id, (0, [])),
        bundles=(await evidence_bundles.newest_of_logs(scope, logs, _EVIDENCE)).get(site.id, []),
        logs=logs,
        waivers=(await waivers.in_force(scope, only, now)).get(site.id, []),
        flagged=(await evidence_bundles.flagged_of_sites(scope, only, _FLAGGED)).get(site.id, []),
        forks=(await equivocations.count_of_sites(scope, only)).get(site.id, 0),
        faults=await log_verifications.faults_of_sites(scope, only, _FLAGGED),
    )


async def _history(scope: SiteScope, now: datetime) -> History:
    today = now.date()
    days = await compliance_snapshots.days(scope, calendar.first_day(today))
    found = await orders.newest_of_site(scope, Filter(None, None), _ORDERS)
    return History(calendar.build(days, today), found[: _ORDERS.limit], len(found) > _ORDERS.limit)


ENDPOINTS = [Endpoint("GET", "/sites/{site}", show, Caller.AUDIT)]
