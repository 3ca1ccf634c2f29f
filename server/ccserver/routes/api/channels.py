"""Channels by which people are told: made, changed, tried, snoozed; and what was told by them.

Where a channel leads and its secret are sealed and never answered; a webhook's secret is shown when it is made. The
platform's own channels, which tell of the server itself, stand under /api/v1/platform.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, channel_handling, context, telling
from ccserver.channel_handling import ChannelChange, NewChannel, Read
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Moment
from ccserver.queries import notification_channels as channels
from ccserver.queries import notifications
from ccserver.queries.notification_channels import Channel
from ccserver.queries.notifications import Delivery, Tried
from ccserver.routes.api import creating, lists
from ccserver.scope import PLATFORM, PartnerScope
from ccshared.messages import Id, Message


class ChannelMade(Message):
    """The new channel, and this once the secret by which a webhook's messages are signed; null for other kinds."""

    channel: Channel
    secret: str | None


class Snooze(Message):
    """Until when nothing is told; null ends it now."""

    until: Moment | None


class Tested(Message):
    """What came of a test: whether it was delivered, the status where there is one, and why not."""

    delivered: bool
    status: int | None
    error: str | None
    took_ms: int


class DeliveryQuery(ListQuery):
    """A page of what was told, by one channel or by all."""

    channel: Id | None = None


async def create(request: Request) -> Response:
    """Make a channel, which tells of what is noticed from now on; a webhook's secret is shown this once."""
    asked, ctx = await read(request, NewChannel), context.of(request)
    channel_handling.check(ctx, asked)
    creation = creating.Creation(request, asked, Channel, None)
    async with told_scope(request) as scope:
        secret = channel_handling.secret_of(asked, creating.repeatable(ctx.keys, creation, scope.partner_id))

        async def insert() -> tuple[str, Channel]:
            made = await channel_handling.make(ctx, scope, request.state.principal.actor, asked, secret)
            return made.id, made

        made = await creating.once(scope, creation, insert)
    answer = ChannelMade(channel=made, secret=secret if asked.secret is None else None)
    return reply_value(ChannelMade, answer, 201, revision=made.revision)


async def list_channels(request: Request) -> Response:
    """List the channels, newest first, those that are disabled too."""
    asked = read_query(request, ListQuery)
    async with told_scope(request) as scope:
        source = lists.Source(
            name=f"channels:{scope.partner_id}",
            kind=Channel,
            fetch=lambda page: channels.newest(scope, page),
            count=lambda: channels.count(scope),
            place=lambda channel: (channel.created_at, channel.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a channel."""
    async with told_scope(request) as scope:
        found = await channel_handling.find(scope, path_id(request, "channel"))
    return reply_value(Channel, found, revision=found.revision)


async def change(request: Request) -> Response:
    """Change a channel; a disabled one tells nothing, and enabled again tells of what is noticed from then on."""
    as_read, asked = _as_read(request), await read(request, ChannelChange)
    async with told_scope(request) as scope:
        made = await channel_handling.change(context.of(request), scope, as_read, asked)
    return reply_value(Channel, made, revision=made.revision)


async def renew_secret(request: Request) -> Response:
    """Make a new secret for a webhook and show it this once; for a day messages are signed by the old one too."""
    as_read = _as_read(request)
    async with told_scope(request) as scope:
        made, secret = await channel_handling.renew_secret(context.of(request), scope, as_read)
    return reply_value(ChannelMade, ChannelMade(channel=made, secret=secret), revision=made.revision)


async def try_out(request: Request) -> Response:
    """Send a test message now, and say what came of it; it is tried once."""
    async with told_scope(request) as scope:
        actor, channel_id = request.state.principal.actor, path_id(request, "channel")
        claimed = await channel_handling.write_test(scope, actor, channel_id)
    tried = await telling.deliver(telling.sender(context.of(request)), claimed)
    said = Tested(delivered=tried.error is None, status=tried.status, error=tried.error, took_ms=tried.took_ms)
    return reply_value(Tested, said)


async def snooze(request: Request) -> Response:
    """Tell nothing by a channel until then; what stands then is told, and ends of what was told are meanwhile too."""
    until = channel_handling.snoozed_until((await read(request, Snooze)).until)
    async with told_scope(request) as scope:
        actor, channel_id = request.state.principal.actor, path_id(request, "channel")
        made = await channel_handling.snooze(scope, actor, channel_id, until)
    return reply_value(Channel, made, revision=made.revision)


def _as_read(request: Request) -> Read:
    return Read(path_id(request, "channel"), if_match(request), request.state.principal.actor)


async def list_deliveries(request: Request) -> Response:
    """List what was told, newest first: delivered, waiting, or given up with the reason."""
    asked = read_query(request, DeliveryQuery)
    async with told_scope(request) as scope:
        source = lists.Source(
            name=f"deliveries:{scope.partner_id}:{asked.channel}",
            kind=Delivery,
            fetch=lambda page: notifications.newest(scope, asked.channel, page),
            count=lambda: notifications.count(scope, asked.channel),
            place=lambda row: (row.created_at, row.id),
        )
        return await lists.answer(request, asked, source)


async def list_attempts(request: Request) -> Response:
    """List every attempt to send one message, oldest first."""
    async with told_scope(request) as scope:
        found = await notifications.attempts(scope, path_id(request, "delivery"))
    if found is None:
        raise NotFoundError
    return reply_value(list[Tried], list(found))


@asynccontextmanager
async def told_scope(request: Request) -> AsyncIterator[PartnerScope]:
    """Open the scope of the caller's partner, or the platform's own where the path says so."""
    if request.url.path.startswith("/api/v1/platform/"):
        async with context.of(request).db.partner(PLATFORM) as scope:
            yield scope
    else:
        async with auth.partner_scope(request) as scope:
            yield scope


_IF_MATCH = ("If-Match",)
_PREFIXES = {
    "/api/v1": (Caller.READ, Caller.OPERATE, Caller.OWN),
    "/api/v1/platform": (Caller.PLATFORM, Caller.PLATFORM, Caller.PLATFORM),
}


def _endpoints(prefix: str, reads: Caller, operates: Caller, owns: Caller) -> list[Endpoint]:
    every, one = f"{prefix}/channels", f"{prefix}/channels/{{channel}}"
    made, sent = {201: ChannelMade}, f"{prefix}/deliveries"
    return [
        Endpoint("GET", every, list_channels, reads, None, {200: Listing[Channel]}, ListQuery),
        Endpoint("POST", every, create, owns, NewChannel, made, headers=("Idempotency-Key",)),
        Endpoint("GET", one, show, reads, None, {200: Channel}),
        Endpoint("PATCH", one, change, owns, ChannelChange, {200: Channel}, headers=_IF_MATCH),
        Endpoint("POST", f"{one}/secret", renew_secret, owns, None, {200: ChannelMade}, headers=_IF_MATCH),
        Endpoint("POST", f"{one}/test", try_out, operates, None, {200: Tested}),
        Endpoint("POST", f"{one}/snooze", snooze, operates, Snooze, {200: Channel}),
        Endpoint("GET", sent, list_deliveries, reads, None, {200: Listing[Delivery]}, DeliveryQuery),
        Endpoint("GET", f"{sent}/{{delivery}}/attempts", list_attempts, reads, None, {200: list[Tried]}),
    ]


ENDPOINTS = [row for prefix, callers in _PREFIXES.items() for row in _endpoints(prefix, *callers)]
