"""Orders, as appliances fetch and answer them; each sees its own, and only released ones."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, fleets
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read, reply
from ccserver.queries import orders
from ccserver.queries.orders import Answer
from ccshared.messages import MAX_ORDERS, OrderKept, OrderResult, OrdersWaiting, OrderTaking
from ccshared.vocabulary import OrderStatus


async def show_waiting(request: Request) -> Response:
    """Return the appliance's released orders that are not over, the oldest first, at most 20: the rest comes later."""
    device = auth.device(request)
    async with context.of(request).db.appliance(device.site_id, device.appliance_id) as scope:
        found = await orders.deliverable(scope, MAX_ORDERS)
    return reply(OrdersWaiting(orders=[orjson.loads(envelope) for envelope in found]))


async def acknowledge(request: Request) -> Response:
    """Write that the appliance has an order; the answer says what it is now: one that was given up need not begin."""
    device, order_id = auth.device(request), path_id(request, "order")
    said = await read(request, OrderTaking)
    async with context.of(request).db.appliance(device.site_id, device.appliance_id) as scope:
        status = await orders.acknowledge(scope, order_id, said.taker)
    if status is None:
        raise NotFoundError
    return reply(OrderKept(status=OrderStatus(status)))


async def report(request: Request) -> Response:
    """Write how an order goes or ended. The first result stays; it wins over having given the order up."""
    device, order_id, said = auth.device(request), path_id(request, "order"), await read(request, OrderResult)
    ctx = context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        result = None if said.status is OrderStatus.RUNNING else said.model_dump(mode="json")
        fleet_order_id = await orders.answer(scope, order_id, Answer(str(said.status), result))
        status = await orders.status_of(scope, order_id)
        partner_id = scope.partner_id
    if status is None:
        raise NotFoundError
    if fleet_order_id and result is not None:
        await fleets.after_result(ctx, partner_id, fleet_order_id)
    return reply(OrderKept(status=OrderStatus(status)))


_ONE = "/agent/v1/orders/{order}"
ENDPOINTS = [
    Endpoint("GET", "/agent/v1/orders", show_waiting, Caller.DEVICE, None, {200: OrdersWaiting}),
    Endpoint("POST", _ONE + "/ack", acknowledge, Caller.DEVICE, OrderTaking, {200: OrderKept}),
    Endpoint("POST", _ONE + "/result", report, Caller.DEVICE, OrderResult, {200: OrderKept}),
]
