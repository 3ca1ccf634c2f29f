"""Appliances: list, show, rename, revoke, and those whose evidence gets no receipts."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, liveness, naming, revoking
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import MAX_LIMIT, Listing, ListQuery, Page
from ccserver.liveness import Liveness
from ccserver.queries import appliances
from ccserver.queries.appliances import ApplianceDetail, Silent
from ccserver.routes.api import lists
from ccshared.messages import Message, Name


@dataclass(frozen=True)
class ApplianceView:
    """An appliance and whether it is online, by its last check-in."""

    appliance: ApplianceDetail
    state: Liveness


class ApplianceChange(Message):
    """An appliance's new name; null, and its own hostname is all that it is called by."""

    name: Annotated[Name, StringConstraints(max_length=200)] | None


class SilentQuery(Message):
    """How many are shown, the longest silent first."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50


async def list_of_partner(request: Request) -> Response:
    """List the partner's appliances, the newest first."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:

        async def fetch(page: Page) -> list[ApplianceView]:
            return _views(await appliances.newest(scope, page))

        name = f"appliances:{scope.partner_id}"
        count = functools.partial(appliances.count, scope, None)
        return await lists.answer(request, asked, lists.Source(name, ApplianceView, fetch, count, _place))


async def list_of_site(request: Request) -> Response:
    """List a site's appliances, the newest first."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:

        async def fetch(page: Page) -> list[ApplianceView]:
            return _views(await appliances.newest_of_site(scope, page))

        name = f"appliances:{scope.partner_id}:{scope.site_id}"
        count = functools.partial(appliances.count, scope, scope.site_id)
        return await lists.answer(request, asked, lists.Source(name, ApplianceView, fetch, count, _place))


async def show(request: Request) -> Response:
    """Show an appliance."""
    async with auth.site_scope(request) as scope:
        found = await appliances.find(scope, path_id(request, "appliance"))
    if found is None:
        raise NotFoundError
    return reply_value(ApplianceView, _views([found])[0], revision=found.revision)


async def rename(request: Request) -> Response:
    """Give an appliance a name; If-Match says which one was read. Its hostname is its own to say."""
    revision, asked, appliance_id = (
        if_match(request),
        await read(request, ApplianceChange),
        path_id(request, "appliance"),
    )
    async with auth.site_scope(request) as scope:
        actor = request.state.principal.actor
        found = await naming.rename_appliance(scope, actor, revision, appliance_id, asked.name)
    return reply_value(ApplianceView, _views([found])[0], revision=found.revision)


async def list_silent(request: Request) -> Response:
    """List appliances that check in while nothing of theirs was receipted for 48 h, the longest first."""
    asked = read_query(request, SilentQuery)
    async with auth.partner_scope(request) as scope:
        found = await appliances.list_silent(scope, datetime.now(UTC), asked.limit)
    return reply_value(list[Silent], found)


async def revoke(request: Request) -> Response:
    """Refuse an appliance from now on, at its very next call; what it proved stays. Again changes nothing."""
    appliance_id = path_id(request, "appliance")
    async with auth.site_scope(request) as scope:
        found = await revoking.revoke_appliance(scope, request.state.principal.actor, appliance_id)
    return reply_value(ApplianceView, _views([found])[0])


def _views(rows: list[ApplianceDetail]) -> list[ApplianceView]:
    now = datetime.now(UTC)
    return [ApplianceView(row, liveness.of(row.last_checkin, now)) for row in rows]


def _place(view: ApplianceView) -> tuple[datetime, str]:
    return view.appliance.enrolled_at, view.appliance.id


_SITE = "/api/v1/sites/{site}/appliances"
_ONE = _SITE + "/{appliance}"
_PAGE = {200: Listing[ApplianceView]}
ENDPOINTS = [
    Endpoint("GET", "/api/v1/appliances", list_of_partner, Caller.READ, None, _PAGE, ListQuery),
    Endpoint("GET", "/api/v1/appliances/silent", list_silent, Caller.READ, None, {200: list[Silent]}, SilentQuery),
    Endpoint("GET", _SITE, list_of_site, Caller.READ, None, _PAGE, ListQuery),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: ApplianceView}),
    Endpoint("PATCH", _ONE, rename, Caller.OPERATE, ApplianceChange, {200: ApplianceView}, headers=("If-Match",)),
    Endpoint("POST", _ONE + "/revoke", revoke, Caller.OPERATE, None, {200: ApplianceView}),
]
