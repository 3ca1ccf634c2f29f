"""Incidents: list with filters, show, and what people do by hand; an appliance's own columns are never written here."""

import functools
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, incident_handling
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import EVER, Listing, ListQuery, Moment
from ccserver.queries import incident_comments, incidents
from ccserver.queries.incident_comments import Comment
from ccserver.queries.incidents import Filter, IncidentDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import SiteScope
from ccshared.messages import Id, Message, Prose
from ccshared.vocabulary import Level, Severity

Change = Callable[[SiteScope, str, str, int], Awaitable[IncidentDetail]]


class State(StrEnum):
    """Open until its appliance or a person closed it."""

    OPEN = "open"
    CLOSED = "closed"


class IncidentQuery(ListQuery):
    """Which incidents: those that began from `since` up to `until`, and of one site, severity, level or state."""

    site: Id | None = None
    severity: Severity | None = None
    level: Level | None = None
    state: State | None = None
    since: Moment | None = None
    until: Moment | None = None


class NewComment(Message):
    """A comment to be added."""

    body: Annotated[Prose, StringConstraints(min_length=1)]


async def list_incidents(request: Request) -> Response:
    """List the partner's incidents, or one site's, newest first."""
    asked = read_query(request, IncidentQuery)
    wanted = _filter(asked)
    async with auth.scope_asked(request, asked.site) as scope:
        source = lists.Source(
            name=f"incidents:{scope.partner_id}:{asked.site or ''}",
            kind=IncidentDetail,
            fetch=functools.partial(incident_handling.page, scope, wanted),
            count=functools.partial(incidents.count, scope, asked.site, wanted),
            place=lambda incident: (incident.created_at, incident.id),
        )
        return await lists.answer(request, asked, source)


def _filter(asked: IncidentQuery) -> Filter:
    is_open = None if asked.state is None else asked.state is State.OPEN
    return Filter(asked.severity, asked.level, is_open, asked.since or EVER[0], asked.until or EVER[1])


async def show(request: Request) -> Response:
    """Show an incident; its ETag counts what people did."""
    async with auth.site_scope(request) as scope:
        found = await incidents.find(scope, path_id(request, "incident"))
    if found is None:
        raise NotFoundError
    return reply_value(IncidentDetail, found, revision=found.hand_revision)


async def acknowledge(request: Request) -> Response:
    """Say that somebody looks after it; the first who said so stays."""
    return await _change(request, incident_handling.acknowledge)


async def resolve(request: Request) -> Response:
    """Close it by hand; what its appliance says of it stays as it is."""
    return await _change(request, incident_handling.resolve)


async def _change(request: Request, change: Change) -> Response:
    revision, incident_id = if_match(request), path_id(request, "incident")
    async with auth.site_scope(request) as scope:
        changed = await change(scope, request.state.principal.actor, incident_id, revision)
    return reply_value(IncidentDetail, changed, revision=changed.hand_revision)


async def comment(request: Request) -> Response:
    """Add a comment."""
    asked, incident_id = await read(request, NewComment), path_id(request, "incident")
    creation = creating.Creation(request, asked, Comment, None)
    async with auth.site_scope(request) as scope:

        async def insert() -> tuple[str, Comment]:
            actor = request.state.principal.actor
            return incident_id, await incident_handling.comment(scope, actor, incident_id, asked.body)

        made = await creating.once(scope, creation, insert)
    return reply_value(Comment, made, 201)


async def list_comments(request: Request) -> Response:
    """List an incident's comments, newest first."""
    asked, incident_id = read_query(request, ListQuery), path_id(request, "incident")
    async with auth.site_scope(request) as scope:
        if await incidents.find(scope, incident_id) is None:
            raise NotFoundError
        source = lists.Source(
            name=f"comments:{scope.partner_id}:{scope.site_id}:{incident_id}",
            kind=Comment,
            fetch=lambda page: incident_comments.newest(scope, incident_id, page),
            count=lambda: incident_comments.count(scope, incident_id),
            place=lambda row: (row.created_at, row.id),
        )
        return await lists.answer(request, asked, source)


_ONE = "/api/v1/sites/{site}/incidents/{incident}"
_DONE = {200: IncidentDetail}
_KEYED = ("Idempotency-Key",)
ENDPOINTS = [
    Endpoint(
        "GET", "/api/v1/incidents", list_incidents, Caller.READ, None, {200: Listing[IncidentDetail]}, IncidentQuery
    ),
    Endpoint("GET", _ONE, show, Caller.READ, None, _DONE),
    Endpoint("POST", _ONE + "/acknowledge", acknowledge, Caller.OPERATE, None, _DONE, headers=("If-Match",)),
    Endpoint("POST", _ONE + "/resolve", resolve, Caller.OPERATE, None, _DONE, headers=("If-Match",)),
    Endpoint("GET", _ONE + "/comments", list_comments, Caller.READ, None, {200: Listing[Comment]}, ListQuery),
    Endpoint("POST", _ONE + "/comments", comment, Caller.OPERATE, NewComment, {201: Comment}, headers=_KEYED),
]
