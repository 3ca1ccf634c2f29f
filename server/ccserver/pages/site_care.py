"""What is changed about a site on pages: its name and tags, its waivers, redactions of its evidence, and its end."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, closing, context, listing, naming, ordering, redacting, waiving
from ccserver.errors import BadBodyError, ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import appliances, redactions, sites, waivers
from ccserver.queries.redactions import Copy
from ccserver.queries.waivers import Draft
from ccshared.messages import Hex32, Line, Message, Name, Prose, Word

_CHANGED = "Somebody changed it since you opened this page. What stands here is new: look, then go on."
_NOT_CONFIRMED = "Nothing was closed: the id that you typed is not this site's."
_REDACTIONS = 200


class ListedQuery(Message):
    """Where the page of a list begins."""

    cursor: Cursor | None = None


class Naming(Message):
    """A site's name, and its tags with spaces in between."""

    name: Annotated[Name, StringConstraints(max_length=200)]
    tags: Line = ""


class NewName(Message):
    """An appliance's name; without one its hostname stands."""

    name: Annotated[Name, StringConstraints(max_length=200)] | None = None


class Tags(Message):
    """Tags by which orders for many name a site."""

    tags: Annotated[list[Word], Field(max_length=naming.MAX_TAGS)]


class Closing(Message):
    """Says once more which site is meant, and the SHA-256 of the export that was kept."""

    confirm: Line = ""
    export_sha256: Hex32 | None = None


class NewWaiver(Message):
    """A check that shall not count for some days, and why; without a host on every host of the site."""

    check_id: Word
    host_id: Name | None = None
    reason: Annotated[Prose, StringConstraints(min_length=1, max_length=2000)]
    days: Annotated[int, Field(ge=1, le=waiving.LONGEST.days)]


class NewRedaction(Message):
    """An entry whose payload should never have been sealed, and why."""

    origin: Annotated[Line, StringConstraints(min_length=1)]
    seq: Annotated[int, Field(ge=0, lt=2**53)]
    reason: Annotated[Prose, StringConstraints(min_length=1, max_length=2000)]


async def show(request: Request) -> Response:
    """Show a site's name and tags to be changed, and its end."""
    return await _page(request)


async def change(request: Request) -> Response:
    """Give the site another name and other tags."""
    fields = await forms.read_form(request, forms.LONG_BYTES)
    asked, revision = forms.message_of(fields, Naming), forms.revision_of(fields)
    tags = forms.checked(Tags, {"tags": asked.tags.split()}).tags
    try:
        async with auth.site_scope(request) as scope:
            await naming.change_site(scope, request.state.principal.actor, revision, asked.name, tags)
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    return _to(request, "/manage")


async def close(request: Request) -> Response:
    """Close the site for good, when its id was typed."""
    asked = forms.message_of(await forms.read_form(request), Closing)
    if asked.confirm != path_id(request, "site"):
        return await _page(request, refused=_NOT_CONFIRMED)
    async with auth.site_scope(request) as scope:
        await closing.close(scope, request.state.principal.actor, asked.export_sha256)
    return _to(request, "")


async def _page(request: Request, refused: str | None = None) -> Response:
    async with auth.site_scope(request) as scope:
        site = await sites.find(scope, scope.site_id)
    if site is None:
        raise NotFoundError
    return render.page(request, "manage.html", {"site": site, "refused": refused}, 412 if refused else 200)


async def show_name(request: Request) -> Response:
    """Show an appliance's name to be changed."""
    return await _name(request)


async def rename(request: Request) -> Response:
    """Give an appliance a name, or take it away; its hostname is its own to say."""
    fields = await forms.read_form(request)
    asked, revision = forms.message_of(fields, NewName), forms.revision_of(fields)
    try:
        async with auth.site_scope(request) as scope:
            actor, appliance_id = request.state.principal.actor, path_id(request, "appliance")
            await naming.rename_appliance(scope, actor, revision, appliance_id, asked.name)
    except ChangedMeanwhileError:
        return await _name(request, refused=_CHANGED)
    return _to(request, f"/appliances/{appliance_id}")


async def _name(request: Request, refused: str | None = None) -> Response:
    async with auth.site_scope(request) as scope:
        found = await appliances.find(scope, path_id(request, "appliance"))
    if found is None:
        raise NotFoundError
    values = {"appliance": found, "site_id": scope.site_id, "refused": refused}
    return render.page(request, "appliance_name.html", values, 412 if refused else 200)


async def show_waivers(request: Request) -> Response:
    """List a site's waivers, those that ended too, and show the form that makes one."""
    return await _waivers(request)


async def waive(request: Request) -> Response:
    """Let a check not count for a while."""
    asked = forms.message_of(await forms.read_form(request, forms.LONG_BYTES), NewWaiver)
    until = datetime.now(UTC) + timedelta(days=asked.days)
    async with auth.site_scope(request) as scope:
        draft = Draft(asked.check_id, asked.host_id, asked.reason, until)
        await waiving.make(scope, request.state.principal.actor, draft)
    return _to(request, "/waivers")


async def end_waiver(request: Request) -> Response:
    """End a waiver now: its check counts again."""
    revision = forms.revision_of(await forms.read_form(request))
    try:
        async with auth.site_scope(request) as scope:
            await waiving.revoke(scope, request.state.principal.actor, path_id(request, "waiver"), revision)
    except ChangedMeanwhileError:
        return await _waivers(request, refused=_CHANGED)
    return _to(request, "/waivers")


async def _waivers(request: Request, refused: str | None = None) -> Response:
    asked, key = read_query(request, ListedQuery), context.of(request).cursor_key
    async with auth.site_scope(request) as scope:
        name = f"waivers:{scope.partner_id}:{scope.site_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await waivers.newest(scope, page)
        names = await sites.names(scope, [scope.site_id])
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {
        "site_id": scope.site_id,
        "site_name": names.get(scope.site_id, scope.site_id),
        "waivers": found.items,
        "next": found.next,
        "most_days": waiving.LONGEST.days,
        "refused": refused,
    }
    return render.page(request, "waivers.html", values, 412 if refused else 200)


async def show_redactions(request: Request) -> Response:
    """List the site's redactions, and show the form that asks for one."""
    return await _redactions(request, None)


async def ask_redaction(request: Request) -> Response:
    """Ask that an entry's payload be erased; another person approves it."""
    asked = forms.message_of(await forms.read_form(request, forms.LONG_BYTES), NewRedaction)
    who = ordering.second(request.state.principal)  # persons only: two of them must agree
    async with auth.site_scope(request) as scope:
        _, copies = await redacting.request(scope, asked.origin, asked.seq, asked.reason, who.actor)
    return await _redactions(request, copies)


async def approve_redaction(request: Request) -> Response:
    """Erase the payload, as the second person; the form says which leaf was seen."""
    fields, who = await forms.read_form(request), ordering.second(request.state.principal)
    async with auth.site_scope(request) as scope:
        redaction_id = path_id(request, "redaction")
        found = await redactions.find(scope, redaction_id)
        if found is None:
            raise NotFoundError
        if fields.get("leaf") != found.leaf:
            raise BadBodyError("Nothing was erased: tick the box that names the entry.")
        await redacting.approve(scope, redaction_id, who.actor)
    return _to(request, "/redactions")


async def _redactions(request: Request, copies: list[Copy] | None) -> Response:
    async with auth.site_scope(request) as scope:
        found = await redactions.newest(scope, _REDACTIONS)
        names = await sites.names(scope, [scope.site_id])
    values = {
        "site_id": scope.site_id,
        "site_name": names.get(scope.site_id, scope.site_id),
        "redactions": found,
        "copies": copies,
        "actor": request.state.principal.actor,
    }
    return render.page(request, "redactions.html", values)


def _to(request: Request, path: str) -> Response:
    return render.redirect(render.addresses(request)(f"/sites/{path_id(request, 'site')}{path}"))


_SITE = "/sites/{site}"
_NAME = _SITE + "/appliances/{appliance}/name"
_WAIVERS = _SITE + "/waivers"
_REDACTED = _SITE + "/redactions"
ENDPOINTS = [
    Endpoint("GET", _SITE + "/manage", show, Caller.OPERATE),
    Endpoint("POST", _SITE + "/manage", change, Caller.OPERATE),
    Endpoint("POST", _SITE + "/close", close, Caller.OWN),
    Endpoint("GET", _NAME, show_name, Caller.OPERATE),
    Endpoint("POST", _NAME, rename, Caller.OPERATE),
    Endpoint("GET", _WAIVERS, show_waivers, Caller.AUDIT),
    Endpoint("POST", _WAIVERS, waive, Caller.OPERATE),
    Endpoint("POST", _WAIVERS + "/{waiver}/end", end_waiver, Caller.OPERATE),
    Endpoint("GET", _REDACTED, show_redactions, Caller.OPERATE),
    Endpoint("POST", _REDACTED, ask_redaction, Caller.OPERATE),
    Endpoint("POST", _REDACTED + "/{redaction}/approve", approve_redaction, Caller.OWN),
]
