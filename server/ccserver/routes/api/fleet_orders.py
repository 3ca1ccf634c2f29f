"""Orders for many appliances at once: make, approve, list, show with its progress, pause, resume, cancel."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, fleets, ordering
from ccserver.errors import BadBodyError, NotFoundError
from ccserver.fleets import Means
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.listing import MAX_LIMIT, MAX_OFFSET, Listing, ListQuery
from ccserver.ordering import LIFE_S, Wanted
from ccserver.queries import fleet_orders
from ccserver.queries.fleet_orders import FleetOrder, MemberState, Progress, Target
from ccserver.routes.api import creating, lists
from ccserver.routes.api.orders import Life, Parameters
from ccserver.scope import PartnerScope
from ccshared.messages import Id, Message, Word


class NewFleetOrder(Message):
    """A runbook for the appliances of some sites, of those with a tag, or of all: say one of `sites`, `tag`, `all`.

    `canary` is the appliance that tries it first; by default the one that was heard last.
    """

    runbook_id: Word
    parameters: Parameters
    life_s: Life = LIFE_S
    sites: Annotated[list[Id], Field(min_length=1, max_length=1000)] | None = None
    tag: Word | None = None
    all: bool = False
    canary: Id | None = None


class MemberQuery(Message):
    """Which of the appliances, in their turns."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0


@dataclass(frozen=True)
class FleetDetail:
    """An order for many and how far it came."""

    fleet_order: FleetOrder
    progress: Progress


async def create(request: Request) -> Response:
    """Order a runbook for many: the canary begins, then at most 5 % of the partner's appliances run it at once."""
    asked, means = await read(request, NewFleetOrder), _means(request)
    checked = ordering.check(means.catalogue, Wanted(asked.runbook_id, dict(asked.parameters), asked.life_s))
    target = _target(asked)
    async with auth.partner_scope(request) as scope:

        async def begin() -> tuple[str, FleetDetail]:
            made = await fleets.begin(scope, means, checked, target, ordering.who(request.state.principal))
            return made, await _found(scope, made)

        creation = creating.Creation(request, asked, FleetDetail, None)
        found = await creating.once(scope, creation, begin)
    return reply_value(FleetDetail, found, 201)


def _target(asked: NewFleetOrder) -> Target:
    if sum((asked.sites is not None, asked.tag is not None, asked.all)) != 1:
        raise BadBodyError("Say one of sites, tag, and all as true.")
    return Target(asked.sites, asked.tag, asked.canary)


async def list_all(request: Request) -> Response:
    """List the partner's orders for many, newest first."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        source = lists.Source(
            name=f"fleet-orders:{scope.partner_id}",
            kind=FleetOrder,
            fetch=functools.partial(fleet_orders.newest, scope),
            count=functools.partial(fleet_orders.count, scope),
            place=lambda fleet: (fleet.created_at, fleet.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show an order for many, and how many appliances wait, run it, and ended it how."""
    async with auth.partner_scope(request) as scope:
        found = await _found(scope, path_id(request, "fleet_order"))
    return reply_value(FleetDetail, found)


async def list_members(request: Request) -> Response:
    """List the appliances that an order for many is for, in their turns, with what became of each."""
    asked, fleet_order_id = read_query(request, MemberQuery), path_id(request, "fleet_order")
    async with auth.partner_scope(request) as scope:
        await _found(scope, fleet_order_id)
        found = await fleet_orders.members(scope, fleet_order_id, asked.limit, asked.offset)
    return reply_value(list[MemberState], found)


async def approve(request: Request) -> Response:
    """Let an order for many of high risk begin, as its second person: not who ordered it, and no API key."""

    async def act(scope: PartnerScope, fleet_order_id: str) -> None:
        await fleets.approve(scope, _means(request), fleet_order_id, ordering.second(request.state.principal))

    return await _done(request, act)


async def pause(request: Request) -> Response:
    """Stop an order for many until it is resumed; what no appliance has taken yet is taken back."""

    async def act(scope: PartnerScope, fleet_order_id: str) -> None:
        await fleets.pause(scope, fleet_order_id, request.state.principal.actor)

    return await _done(request, act)


async def resume(request: Request) -> Response:
    """Let an order for many go on that was paused: failures of before do not count any more."""

    async def act(scope: PartnerScope, fleet_order_id: str) -> None:
        await fleets.resume(scope, _means(request), fleet_order_id, request.state.principal.actor)

    return await _done(request, act)


async def cancel(request: Request) -> Response:
    """End an order for many; what no appliance has taken yet is taken back."""

    async def act(scope: PartnerScope, fleet_order_id: str) -> None:
        await fleets.cancel(scope, fleet_order_id, request.state.principal.actor)

    return await _done(request, act)


async def _done(request: Request, act: Callable[[PartnerScope, str], Awaitable[None]]) -> Response:
    """Do something with an order for many, and show it."""
    fleet_order_id = path_id(request, "fleet_order")
    async with auth.partner_scope(request) as scope:
        await _found(scope, fleet_order_id)
        await act(scope, fleet_order_id)
        found = await _found(scope, fleet_order_id)
    return reply_value(FleetDetail, found)


async def _found(scope: PartnerScope, fleet_order_id: str) -> FleetDetail:
    found = await fleet_orders.find(scope, fleet_order_id)
    if found is None:
        raise NotFoundError
    return FleetDetail(found, await fleet_orders.progress(scope, fleet_order_id))


def _means(request: Request) -> Means:
    ctx = context.of(request)
    return Means(ctx.keys, ctx.catalogue)


_ALL = "/api/v1/fleet-orders"
_ONE = _ALL + "/{fleet_order}"
_CREATED = {201: FleetDetail}
_MEMBERS = {200: list[MemberState]}
ENDPOINTS = [
    Endpoint("GET", _ALL, list_all, Caller.READ, None, {200: Listing[FleetOrder]}, ListQuery),
    Endpoint("POST", _ALL, create, Caller.OPERATE, NewFleetOrder, _CREATED, headers=("Idempotency-Key",)),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: FleetDetail}),
    Endpoint("GET", _ONE + "/appliances", list_members, Caller.READ, None, _MEMBERS, MemberQuery),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE, None, {200: FleetDetail}),
    Endpoint("POST", _ONE + "/pause", pause, Caller.OPERATE, None, {200: FleetDetail}),
    Endpoint("POST", _ONE + "/resume", resume, Caller.OPERATE, None, {200: FleetDetail}),
    Endpoint("POST", _ONE + "/cancel", cancel, Caller.OPERATE, None, {200: FleetDetail}),
]
