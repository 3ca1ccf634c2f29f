"""Orders: make, approve by a second person, list with filters, show, and cancel while they wait."""

import functools
from collections.abc import Awaitable, Callable
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, ordering
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Page
from ccserver.ordering import LIFE_S, MAX_LIFE_S, Wanted
from ccserver.queries import orders
from ccserver.queries.orders import Filter, Order, OrderDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import PartnerScope, SiteScope
from ccshared.messages import Id, Message, Prose, Word
from ccshared.vocabulary import OrderStatus

Parameter = (
    Annotated[int, Field(ge=-(2**53) + 1, lt=2**53, strict=True)]
    | Annotated[Prose, StringConstraints(max_length=200, strict=True)]
)
Parameters = Annotated[dict[Word, Parameter], Field(max_length=50, default_factory=dict)]
Life = Annotated[int, Field(ge=60, le=MAX_LIFE_S, strict=True)]


class NewOrder(Message):
    """A runbook of the catalogue for one appliance; `life_s` seconds after its release it is over, if not begun."""

    appliance_id: Id
    runbook_id: Word
    parameters: Parameters
    life_s: Life = LIFE_S


class OrderQuery(ListQuery):
    """Which orders: of one site, appliance or status."""

    site: Id | None = None
    appliance: Id | None = None
    status: OrderStatus | None = None


async def create(request: Request) -> Response:
    """Order a runbook; one of high risk waits for a second person's approval, any other is released at once."""
    asked, ctx = await read(request, NewOrder), context.of(request)
    checked = ordering.check(ctx.catalogue, Wanted(asked.runbook_id, dict(asked.parameters), asked.life_s))
    async with auth.site_scope(request) as scope:

        async def push() -> tuple[str, OrderDetail]:
            made = await ordering.push(
                scope, ctx.keys, asked.appliance_id, checked, ordering.who(request.state.principal)
            )
            return made, await _found(scope, made)

        order = await creating.once(scope, creating.Creation(request, asked, OrderDetail, None), push)
    return reply_value(OrderDetail, order, 201)


async def approve(request: Request) -> Response:
    """Release an order of high risk as its second person: not who ordered it, and no API key."""
    order_id, ctx = path_id(request, "order"), context.of(request)
    async with auth.site_scope(request) as scope:
        await _found(scope, order_id)
        await ordering.approve(scope, ctx.keys, ctx.catalogue, order_id, ordering.second(request.state.principal))
        found = await _found(scope, order_id)
    return reply_value(OrderDetail, found)


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
        found = await _found(scope, path_id(request, "order"))
    return reply_value(OrderDetail, found)


async def cancel(request: Request) -> Response:
    """Cancel an order that no appliance has taken yet; one that was taken, or ended, is a conflict."""
    order_id = path_id(request, "order")
    async with auth.site_scope(request) as scope:
        await ordering.cancel(scope, order_id, request.state.principal.actor)
        found = await _found(scope, order_id)
    return reply_value(OrderDetail, found)


async def _found(scope: SiteScope, order_id: str) -> OrderDetail:
    found = await orders.find(scope, order_id)
    if found is None:
        raise NotFoundError
    return found


_ALL = "/api/v1/sites/{site}/orders"
_ONE = _ALL + "/{order}"
ENDPOINTS = [
    Endpoint("GET", "/api/v1/orders", list_orders, Caller.READ, None, {200: Listing[Order]}, OrderQuery),
    Endpoint("POST", _ALL, create, Caller.OPERATE, NewOrder, {201: OrderDetail}, headers=("Idempotency-Key",)),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: OrderDetail}),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE, None, {200: OrderDetail}),
    Endpoint("POST", _ONE + "/cancel", cancel, Caller.OPERATE, None, {200: OrderDetail}),
]
