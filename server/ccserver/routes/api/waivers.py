"""Waivers: create with a reason and an end, list, show, revoke."""

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, waiving
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Moment
from ccserver.queries import waivers
from ccserver.queries.waivers import Draft, Waiver
from ccserver.routes.api import creating, lists
from ccshared.messages import Message, Name, Prose, Word


class NewWaiver(Message):
    """A waiver to be made; without `host_id` it is for every host of the site. It ends within 366 days."""

    check_id: Word
    host_id: Name | None = None
    reason: Annotated[Prose, StringConstraints(min_length=1, max_length=2000)]
    expires_at: Moment


async def create(request: Request) -> Response:
    """Let a check not count for a while."""
    asked = await read(request, NewWaiver)
    creation = creating.Creation(request, asked, Waiver, None)
    async with auth.site_scope(request) as scope:

        async def insert() -> tuple[str, Waiver]:
            draft = Draft(asked.check_id, asked.host_id, asked.reason, asked.expires_at)
            made = await waiving.make(scope, request.state.principal.actor, draft)
            return made.id, made

        waiver = await creating.once(scope, creation, insert)
    return reply_value(Waiver, waiver, 201, revision=waiver.revision)


async def list_waivers(request: Request) -> Response:
    """List a site's waivers, newest first, those that ended too."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:
        source = lists.Source(
            name=f"waivers:{scope.partner_id}:{scope.site_id}",
            kind=Waiver,
            fetch=lambda page: waivers.newest(scope, page),
            count=lambda: waivers.count(scope, scope.site_id),
            place=lambda waiver: (waiver.created_at, waiver.id),
        )
        return await lists.answer(request, asked, source)


async def list_of_partner(request: Request) -> Response:
    """List the waivers of all the partner's sites, newest first, those that ended too."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        source = lists.Source(
            name=f"waivers:{scope.partner_id}",
            kind=Waiver,
            fetch=lambda page: waivers.newest_of_partner(scope, page),
            count=lambda: waivers.count(scope, None),
            place=lambda waiver: (waiver.created_at, waiver.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a waiver."""
    async with auth.site_scope(request) as scope:
        found = await waivers.find(scope, path_id(request, "waiver"))
    if found is None:
        raise NotFoundError
    return reply_value(Waiver, found, revision=found.revision)


async def revoke(request: Request) -> Response:
    """End a waiver now: its check counts again."""
    revision, waiver_id = if_match(request), path_id(request, "waiver")
    async with auth.site_scope(request) as scope:
        waiver = await waiving.revoke(scope, request.state.principal.actor, waiver_id, revision)
    return reply_value(Waiver, waiver, revision=waiver.revision)


_ALL = "/api/v1/sites/{site}/waivers"
_ONE = _ALL + "/{waiver}"
ENDPOINTS = [
    Endpoint("GET", "/api/v1/waivers", list_of_partner, Caller.READ, None, {200: Listing[Waiver]}, ListQuery),
    Endpoint("GET", _ALL, list_waivers, Caller.AUDIT, None, {200: Listing[Waiver]}, ListQuery),
    Endpoint("POST", _ALL, create, Caller.OPERATE, NewWaiver, {201: Waiver}, headers=("Idempotency-Key",)),
    Endpoint("GET", _ONE, show, Caller.AUDIT, None, {200: Waiver}),
    Endpoint("POST", _ONE + "/revoke", revoke, Caller.OPERATE, None, {200: Waiver}, headers=("If-Match",)),
]
