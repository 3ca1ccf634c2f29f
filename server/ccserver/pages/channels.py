"""Channels by which people are told, on pages: made, changed, tried, snoozed; what was told by them; and problems.

The platform's own stand under /platform. Where a channel leads is given anew or stays unseen; a secret is shown once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, channel_handling, context, listing, problem_handling, telling
from ccserver.channel_handling import ChannelChange, NewChannel, Read
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import notification_channels as channels
from ccserver.queries import notifications, problems, sites
from ccserver.queries.notifications import Attempt
from ccserver.scope import PLATFORM, PartnerScope
from ccshared.messages import Id, Message, Prose
from ccshared.vocabulary import ChannelKind, Severity

_CHANGED = "Somebody changed it since you opened this page. What stands here is new: look, then go on."
_FIELDS = 16
_PLATFORM = "/platform"
_Minutes = Annotated[int, Field(ge=0, le=31 * 24 * 60)]


class State(StrEnum):
    """Open until it ended."""

    OPEN = "open"
    ENDED = "ended"


class ListedQuery(Message):
    """Where the page of a list begins."""

    cursor: Cursor | None = None


class DeliveriesQuery(ListedQuery):
    """What was told by which channel."""

    channel: Id | None = None


class ProblemsQuery(ListedQuery):
    """Which problems."""

    state: State | None = None


class Snoozing(Message):
    """For how many minutes nothing is told; 0 ends it."""

    minutes: _Minutes


class Form(Message):
    """What the form of a channel holds, all of it optional: a field that is empty is not given."""

    kind: ChannelKind | None = None
    name: Annotated[Prose, StringConstraints(max_length=200)] = ""
    to: Prose = ""
    url: Prose = ""
    routing_key: Prose = ""
    secret: Prose = ""
    min_severity: Severity | None = None
    sites: Prose = ""
    grace_s: int | None = None
    resend_s: int | None = None
    resend_max: int | None = None

    def given(self) -> dict[str, Any]:
        """Return what was given, as the API's messages name and type it."""
        said = {name: value for name, value in self.model_dump().items() if value not in (None, "")}
        if self.to:
            said["to"] = self.to.split()
        if site_ids := [*dict.fromkeys(said.pop("sites", "").split())]:
            said["site_ids"] = site_ids
        return said


async def show_list(request: Request) -> Response:
    """List the channels, those that are disabled too, and show the form that makes one."""
    asked, key = read_query(request, ListedQuery), context.of(request).cursor_key
    async with _told(request) as scope:
        name = f"channels:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await channels.newest(scope, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {
        "channels": found.items,
        "next": found.next,
        "kinds": list(ChannelKind),
        "severities": list(Severity),
        "mails": context.of(request).config.smtp is not None,
    }
    return _page(request, "channels.html", values)


async def create(request: Request) -> Response:
    """Make a channel; a webhook's secret is shown this once."""
    said = forms.message_of(await forms.read_form(request, forms.LONG_BYTES, _FIELDS), Form).given()
    asked, ctx = forms.checked(NewChannel, said), context.of(request)
    channel_handling.check(ctx, asked)
    secret = channel_handling.secret_of(asked)
    async with _told(request) as scope:
        made = await channel_handling.make(ctx, scope, request.state.principal.actor, asked, secret)
    if secret is not None and asked.secret is None:
        return _page(request, "channel_secret.html", {"channel": made, "secret": secret})
    return _to(request, f"/channels/{made.id}")


async def show(request: Request) -> Response:
    """Show a channel, and what was told by it last."""
    return await _show(request)


async def change(request: Request) -> Response:
    """Change a channel; where it leads stays when the form does not say it anew."""
    fields = await forms.read_form(request, forms.LONG_BYTES, _FIELDS)
    said = forms.message_of(fields, Form).given()
    said.pop("kind", None)
    said.setdefault("site_ids", None)  # an empty field means every site
    return await _change(request, forms.revision_of(fields), said)


async def switch(request: Request) -> Response:
    """Disable a channel, or enable it again."""
    fields = await forms.read_form(request)
    return await _change(request, forms.revision_of(fields), {"disabled": fields.get("disabled") == "yes"})


async def _change(request: Request, revision: int, said: dict[str, Any]) -> Response:
    asked, as_read = forms.checked(ChannelChange, said), _as_read(request, revision)
    try:
        async with _told(request) as scope:
            await channel_handling.change(context.of(request), scope, as_read, asked)
    except ChangedMeanwhileError:
        return await _show(request, refused=_CHANGED)
    return _to(request, f"/channels/{as_read.channel_id}")


async def renew_secret(request: Request) -> Response:
    """Make a new secret for a webhook and show it this once."""
    as_read = _as_read(request, forms.revision_of(await forms.read_form(request)))
    try:
        async with _told(request) as scope:
            made, secret = await channel_handling.renew_secret(context.of(request), scope, as_read)
    except ChangedMeanwhileError:
        return await _show(request, refused=_CHANGED)
    return _page(request, "channel_secret.html", {"channel": made, "secret": secret})


async def try_out(request: Request) -> Response:
    """Send a test message now, and say what came of it."""
    async with _told(request) as scope:
        actor, channel_id = request.state.principal.actor, path_id(request, "channel")
        claimed = await channel_handling.write_test(scope, actor, channel_id)
    tried = await telling.deliver(telling.sender(context.of(request)), claimed)
    return await _show(request, tried=tried)


async def snooze(request: Request) -> Response:
    """Tell nothing by a channel for a while, or tell again."""
    until = _until(forms.message_of(await forms.read_form(request), Snoozing))
    async with _told(request) as scope:
        channel_id = path_id(request, "channel")
        await channel_handling.snooze(scope, request.state.principal.actor, channel_id, until)
    return _to(request, f"/channels/{channel_id}")


async def show_deliveries(request: Request) -> Response:
    """List what was told, newest first: delivered, waiting, or given up with the reason."""
    asked, key = read_query(request, DeliveriesQuery, of_form=True), context.of(request).cursor_key
    async with _told(request) as scope:
        name = f"deliveries:{scope.partner_id}:{asked.channel}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await notifications.newest(scope, asked.channel, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    return _page(request, "deliveries.html", {"deliveries": found.items, "next": found.next, "asked": asked})


async def show_attempts(request: Request) -> Response:
    """Show every attempt to send one message."""
    async with _told(request) as scope:
        found = await notifications.attempts(scope, path_id(request, "delivery"))
    if found is None:
        raise NotFoundError
    return _page(request, "attempts.html", {"attempts": found})


async def show_problems(request: Request) -> Response:
    """List what people are told of, newest first."""
    return await _problems(request)


async def acknowledge(request: Request) -> Response:
    """Say that somebody looks after a problem: nobody is reminded of it any more."""
    revision = forms.revision_of(await forms.read_form(request))
    try:
        async with _told(request) as scope:
            actor = request.state.principal.actor
            await problem_handling.acknowledge(scope, actor, path_id(request, "problem"), revision)
    except ChangedMeanwhileError:
        return await _problems(request, refused=_CHANGED)
    return _to(request, "/problems")


async def snooze_problem(request: Request) -> Response:
    """Tell nobody of a problem for a while, or tell again."""
    fields = await forms.read_form(request)
    until, revision = _until(forms.message_of(fields, Snoozing)), forms.revision_of(fields)
    try:
        async with _told(request) as scope:
            actor = request.state.principal.actor
            await problem_handling.snooze(scope, actor, path_id(request, "problem"), revision, until)
    except ChangedMeanwhileError:
        return await _problems(request, refused=_CHANGED)
    return _to(request, "/problems")


async def _problems(request: Request, refused: str | None = None) -> Response:
    asked = ProblemsQuery() if refused else read_query(request, ProblemsQuery, of_form=True)
    key = context.of(request).cursor_key
    is_open = None if asked.state is None else asked.state is State.OPEN
    async with _told(request) as scope:
        name = f"problems:{scope.partner_id}:{is_open}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await problems.newest(scope, is_open, page)
        names = await sites.names(scope, [*{row.site_id for row in rows if row.site_id}])
    found = listing.listing(rows, page, lambda row: (row.noticed_at, row.id), key, name)
    values = {"problems": found.items, "next": found.next, "names": names, "asked": asked, "refused": refused}
    return _page(request, "problems.html", values | {"states": list(State)}, 412 if refused else 200)


async def _show(request: Request, refused: str | None = None, tried: Attempt | None = None) -> Response:
    page = listing.page_of(ListQuery(limit=10), context.of(request).cursor_key, "newest")
    async with _told(request) as scope:
        found = await channel_handling.find(scope, path_id(request, "channel"))
        sent = await notifications.newest(scope, found.id, page)
    values = {"channel": found, "sent": sent[:10], "refused": refused, "tried": tried, "severities": list(Severity)}
    return _page(request, "channel.html", values, 412 if refused else 200)


def _until(asked: Snoozing) -> datetime | None:
    if not asked.minutes:
        return None
    return channel_handling.snoozed_until(datetime.now(UTC) + timedelta(minutes=asked.minutes) - timedelta(seconds=1))


def _as_read(request: Request, revision: int) -> Read:
    return Read(path_id(request, "channel"), revision, request.state.principal.actor)


def _is_platform(request: Request) -> bool:
    return request.url.path.startswith(_PLATFORM + "/")


def _page(request: Request, template: str, values: dict[str, Any], status: int = 200) -> Response:
    """Return a page whose links stay among the platform's own, or the partner's."""
    own = _is_platform(request)
    may = {
        "operates": auth.may(request.state.principal, Caller.PLATFORM if own else Caller.OPERATE),
        "owns": auth.may(request.state.principal, Caller.PLATFORM if own else Caller.OWN),
    }
    return render.page(request, template, values | may | {"base": _PLATFORM if own else ""}, status)


def _to(request: Request, path: str) -> Response:
    return render.redirect(render.addresses(request)((_PLATFORM if _is_platform(request) else "") + path))


@asynccontextmanager
async def _told(request: Request) -> AsyncIterator[PartnerScope]:
    """Open the scope of the caller's partner, or the platform's own where the path says so."""
    if _is_platform(request):
        async with context.of(request).db.partner(PLATFORM) as scope:
            yield scope
    else:
        async with auth.partner_scope(request) as scope:
            yield scope


def _endpoints(base: str, reads: Caller, operates: Caller, owns: Caller) -> list[Endpoint]:
    every, problem = f"{base}/channels", f"{base}/problems/{{problem}}"
    one = every + "/{channel}"
    return [
        Endpoint("GET", every, show_list, reads),
        Endpoint("POST", every, create, owns),
        Endpoint("GET", one, show, reads),
        Endpoint("POST", one, change, owns),
        Endpoint("POST", one + "/switch", switch, owns),
        Endpoint("POST", one + "/secret", renew_secret, owns),
        Endpoint("POST", one + "/test", try_out, operates),
        Endpoint("POST", one + "/snooze", snooze, operates),
        Endpoint("GET", f"{base}/deliveries", show_deliveries, reads),
        Endpoint("GET", f"{base}/deliveries/{{delivery}}", show_attempts, reads),
        Endpoint("GET", f"{base}/problems", show_problems, reads),
        Endpoint("POST", problem + "/acknowledge", acknowledge, operates),
        Endpoint("POST", problem + "/snooze", snooze_problem, operates),
    ]


ENDPOINTS = [
    *_endpoints("", Caller.READ, Caller.OPERATE, Caller.OWN),
    *_endpoints(_PLATFORM, Caller.PLATFORM, Caller.PLATFORM, Caller.PLATFORM),
]
