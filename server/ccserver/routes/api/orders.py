"""Orders: list with filters, show, and cancel while they wait."""

import functools
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth
from ccserver.errors import NotFoundError, NotPendingError
from ccserver.http import Caller, Endpoint, path_id, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Page
from ccserver.queries import orders
from ccserver.queries.orders import Filter, Order, OrderDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import PartnerScope, SiteScope
from ccshared.messages import Id
from ccshared.vocabulary import OrderStatus


class OrderQuery(ListQuery):
    """Which orders: of one site, appliance or status."""

    site: Id | None = None
    appliance: Id | None = None
    status: OrderStatus | None = None


async def list_orders(request: Request) -> Response:
    """List the partner's orders, or one site's, newest first."""
    asked = read_query(request, OrderQuery)
    wanted = Filter(asked.appliance, asked.status)
    async with auth.scope_asked(request, asked.site) as scope:
        source = lists.Source(
            name=f"orders:{scope.partner_id}:{asked.site or ''}",
            kind=Order,
            fetch=_fetch(scope, wanted),
            count=functools.partial(orders.count, scope, asked.site, wanted),
            place=lambda order: (order.created_at, order.id),
        )
        return await lists.answer(request, asked, source)


def _fetch(scope: PartnerScope | SiteScope, wanted: Filter) -> Callable[[Page], Awaitable[list[Order]]]:
    if isinstance(scope, SiteScope):
        return functools.partial(orders.newest_of_site, scope, wanted)
    return functools.partial(orders.newest, scope, wanted)


async def show(request: Request) -> Response:
    """Show an order with its parameters and its appliance's answer."""
    async with auth.site_scope(request) as scope:
        found = await orders.find(scope, path_id(request, "order"))
    if found is None:
        raise NotFoundError
    return reply_value(OrderDetail, found)


async def cancel(request: Request) -> Response:
    """Cancel an order that no appliance has taken yet; one that was taken, or ended, is a conflict."""
    order_id = path_id(request, "order")
    async with auth.site_scope(request) as scope:
        changed = await orders.cancel(scope, order_id, request.state.principal.actor)
        found = await orders.find(scope, order_id)
        if found is None:
            raise NotFoundError
        if not changed:
            raise NotPendingError(f"The order is {found.order.status} already.")
        await creating.note(scope, request, "order.cancel", order_id, site=scope.site_id)
    return reply_value(OrderDetail, found)


_ONE = "/api/v1/sites/{site}/orders/{order}"
ENDPOINTS = [
    Endpoint("GET", "/api/v1/orders", list_orders, Caller.READ, None, {200: Listing[Order]}, OrderQuery),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: OrderDetail}),
    Endpoint("POST", _ONE + "/cancel", cancel, Caller.OPERATE, None, {200: OrderDetail}),
]
