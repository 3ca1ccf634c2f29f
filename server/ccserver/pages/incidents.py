"""Incidents: the list, one with what was seen and done, and what people do about it by hand."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, incident_handling, listing
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import EVER, Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import incident_page, sites
from ccserver.queries.incidents import Filter, IncidentDetail
from ccserver.scope import SiteScope
from ccshared.messages import Id, Message, Prose
from ccshared.vocabulary import Level, Severity

_COMMENTS = 100
_SEEN_LETTERS = 20_000
_CHANGED = "Somebody did something about it since you opened this page. What stands here is new: look, then go on."
_Change = Callable[[SiteScope, str, str, int], Awaitable[IncidentDetail]]


class State(StrEnum):
    """Open until its appliance or a person closed it."""

    OPEN = "open"
    CLOSED = "closed"


class IncidentsQuery(Message):
    """Which incidents are listed, and where the page begins."""

    site: Id | None = None
    severity: Severity | None = None
    level: Level | None = None
    state: State | None = None
    cursor: Cursor | None = None


class NewComment(Message):
    """A comment to be added."""

    body: Annotated[Prose, StringConstraints(min_length=1)]


async def show_list(request: Request) -> Response:
    """List the partner's incidents, or one site's, newest first, fifty to a page."""
    asked = read_query(request, IncidentsQuery, of_form=True)
    key = context.of(request).cursor_key
    is_open = None if asked.state is None else asked.state is State.OPEN
    wanted = Filter(asked.severity, asked.level, is_open, *EVER)
    async with auth.scope_asked(request, asked.site) as scope:
        name = f"incidents:{scope.partner_id}:{asked.site or ''}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await incident_handling.page(scope, wanted, page)
        names = await sites.names(scope, [*{row.site_id for row in rows}, *filter(None, [asked.site])])
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    query = {"site": asked.site, "severity": asked.severity, "level": asked.level, "state": asked.state}
    values = {
        "incidents": found.items,
        "next": found.next,
        "names": names,
        "asked": asked,
        "query": query,
        "filters": {"state": list(State), "severity": list(reversed(Severity)), "level": list(Level)},
    }
    return render.page(request, "incidents.html", values)


async def show(request: Request) -> Response:
    """Show an incident: what was seen, what was done, what people said."""
    return await _page(request)


async def acknowledge(request: Request) -> Response:
    """Say that somebody looks after it."""
    return await _change(request, incident_handling.acknowledge)


async def resolve(request: Request) -> Response:
    """Close it by hand."""
    return await _change(request, incident_handling.resolve)


async def comment(request: Request) -> Response:
    """Add a comment."""
    asked = forms.message_of(await forms.read_form(request, forms.LONG_BYTES), NewComment)
    incident_id = path_id(request, "incident")
    async with auth.site_scope(request) as scope:
        await incident_handling.comment(scope, request.state.principal.actor, incident_id, asked.body)
    return render.redirect(_address(request) + "#comments")


async def _change(request: Request, change: _Change) -> Response:
    revision, incident_id = forms.revision_of(await forms.read_form(request)), path_id(request, "incident")
    try:
        async with auth.site_scope(request) as scope:
            await change(scope, request.state.principal.actor, incident_id, revision)
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    return render.redirect(_address(request))


async def _page(request: Request, refused: str | None = None) -> Response:
    async with auth.site_scope(request) as scope:
        story = await incident_page.read(scope, path_id(request, "incident"), _SEEN_LETTERS, _COMMENTS)
    if story is None:
        raise NotFoundError
    return render.page(request, "incident.html", {"story": story, "refused": refused}, 412 if refused else 200)


def _address(request: Request) -> str:
    place = f"/sites/{path_id(request, 'site')}/incidents/{path_id(request, 'incident')}"
    return render.addresses(request)(place)


_ONE = "/sites/{site}/incidents/{incident}"
ENDPOINTS = [
    Endpoint("GET", "/incidents", show_list, Caller.READ),
    Endpoint("GET", _ONE, show, Caller.READ),
    Endpoint("POST", _ONE + "/acknowledge", acknowledge, Caller.OPERATE),
    Endpoint("POST", _ONE + "/resolve", resolve, Caller.OPERATE),
    Endpoint("POST", _ONE + "/comments", comment, Caller.OPERATE),
]
