"""Partners: list, show, create, by the platform's admins only."""

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import closing, context
from ccserver.closing import OffBoarding
from ccserver.errors import BadBodyError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.queries import partners
from ccserver.queries.partners import Partner
from ccserver.routes.api import creating, lists
from ccserver.scope import PlatformScope
from ccshared import ids
from ccshared.messages import Id, Message, Name


class NewPartner(Message):
    """A partner to be made; without an id it gets one."""

    id: Id | None = None
    name: Annotated[Name, StringConstraints(max_length=200)]


async def list_partners(request: Request) -> Response:
    """List all partners, newest first."""
    asked = read_query(request, ListQuery)
    async with context.of(request).db.platform() as scope:
        source = lists.Source(
            name="partners:platform",
            kind=Partner,
            fetch=lambda page: partners.newest(scope, page),
            count=lambda: partners.count(scope),
            place=lambda partner: (partner.created_at, partner.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a partner."""
    async with context.of(request).db.platform() as scope:
        found = await partners.find_anywhere(scope, path_id(request, "partner_id"))
    if found is None:
        raise NotFoundError
    return reply_value(Partner, found)


async def create(request: Request) -> Response:
    """Make a partner."""
    asked = await read(request, NewPartner)
    creation = creating.Creation(request, asked, Partner, "partner.create")
    async with context.of(request).db.platform() as scope:
        made = await creating.once(scope, creation, lambda: _insert(scope, asked))
    return reply_value(Partner, made, 201)


async def _insert(scope: PlatformScope, asked: NewPartner) -> tuple[str, Partner]:
    partner_id = asked.id or ids.new_id()
    await partners.insert(scope, partner_id, asked.name)
    made = await partners.find_anywhere(scope, partner_id)
    assert made is not None  # noqa: S101  inserted just above
    return partner_id, made


class OffBoard(Message):
    """Says once more which partner is meant: it cannot be undone, so export all that is its first."""

    confirm: Id


async def off_board(request: Request) -> Response:
    """Off-board a partner: every site is closed; people, sessions and keys end. Evidence stays, and can be exported."""
    asked, partner_id = await read(request, OffBoard), path_id(request, "partner_id")
    db, actor = context.of(request).db, request.state.principal.actor
    async with db.platform() as scope:
        if await partners.find_anywhere(scope, partner_id) is None:
            raise NotFoundError
    if asked.confirm != partner_id:
        raise BadBodyError("confirm: must be the id of the partner that is to be off-boarded.")
    closed = await closing.close_sites(db, partner_id, actor)
    return reply_value(OffBoarding, await closing.off_board(db, partner_id, actor, closed))


_ALL = "/api/v1/partners"
ENDPOINTS = [
    Endpoint("GET", _ALL, list_partners, Caller.PLATFORM, None, {200: Listing[Partner]}, ListQuery),
    Endpoint("POST", _ALL, create, Caller.PLATFORM, NewPartner, {201: Partner}, headers=("Idempotency-Key",)),
    Endpoint("GET", _ALL + "/{partner_id}", show, Caller.PLATFORM, None, {200: Partner}),
    Endpoint("POST", _ALL + "/{partner_id}/off-board", off_board, Caller.PLATFORM, OffBoard, {200: OffBoarding}),
]
