"""Channels by which people are told: made, changed, tried, snoozed; and what was told by them.

Where a channel leads and its secret are sealed and never answered; a webhook's secret is shown when it is made. The
platform's own channels, which tell of the server itself, stand under /api/v1/platform.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, notices, targets, telling
from ccserver.errors import BadBodyError, ChangedMeanwhileError, MailNotSetUpError, NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Moment
from ccserver.queries import notification_channels as channels
from ccserver.queries import notifications
from ccserver.queries.notification_channels import Channel, Draft
from ccserver.queries.notifications import Delivery, Tried
from ccserver.routes.api import creating, lists
from ccserver.scope import PLATFORM, PartnerScope
from ccserver.targets import Target
from ccshared import ids
from ccshared.messages import Id, Message, Name
from ccshared.vocabulary import ChannelKind, Severity

LONGEST_SNOOZE = timedelta(days=31)
_OLD_SECRET_FOR = timedelta(hours=24)
_GIVEN = ("to", "url", "secret", "routing_key")
Title = Annotated[Name, StringConstraints(max_length=200)]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[\x21-\x7e]+$")]
Recipient = Annotated[str, StringConstraints(max_length=320)]
Recipients = Annotated[list[Recipient], Field(min_length=1, max_length=targets.MAX_RECIPIENTS)]
SiteIds = Annotated[list[Id], Field(min_length=1, max_length=200)]
Grace = Annotated[int, Field(ge=0, le=86400, strict=True)]
Resend = Annotated[int, Field(ge=0, le=604800, strict=True)]
Times = Annotated[int, Field(ge=0, le=100, strict=True)]


class NewChannel(Message):
    """A channel to be made. Mail takes `to`; a webhook `url`, and a `secret` unless one is to be made; Slack `url`;
    PagerDuty `routing_key`, and `url` for another region. `site_ids` null is every site; `resend_s` 0 is never.
    """

    kind: ChannelKind
    name: Title
    to: Recipients | None = None
    url: Secret | None = None
    secret: Secret | None = None
    routing_key: Secret | None = None
    min_severity: Severity = Severity.MEDIUM
    site_ids: SiteIds | None = None
    grace_s: Grace = 120
    resend_s: Resend = 3600
    resend_max: Times = 3


class ChannelChange(Message):
    """What of a channel is to change; what is not there stays. Where it leads is given anew, or stays unseen."""

    name: Title | None = None
    to: Recipients | None = None
    url: Secret | None = None
    secret: Secret | None = None
    routing_key: Secret | None = None
    min_severity: Severity | None = None
    site_ids: SiteIds | None = None
    grace_s: Grace | None = None
    resend_s: Resend | None = None
    resend_max: Times | None = None
    disabled: bool | None = None


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
    _resend(asked.resend_s)
    if asked.kind is ChannelKind.EMAIL and ctx.config.smtp is None:
        raise MailNotSetUpError
    creation = creating.Creation(request, asked, Channel, "channel.create")
    async with told_scope(request) as scope:
        secret = _secret(asked, creating.repeatable(ctx.keys, creation, scope.partner_id))
        given = Target(tuple(asked.to or ()), asked.url, secret, asked.routing_key)
        target = targets.checked(asked.kind, given, ctx.config.notify_allow)
        await _own_sites(scope, asked.site_ids)

        async def insert() -> tuple[str, Channel]:
            channel_id = ids.new_id()
            sealed = targets.seal(ctx.seal_key, scope.partner_id, channel_id, target)
            draft = Draft(
                asked.kind,
                asked.name,
                targets.hint(target, ctx.config.notify_allow),
                sealed,
                asked.min_severity,
                asked.site_ids,
                asked.grace_s,
                asked.resend_s,
                asked.resend_max,
            )
            return channel_id, await channels.insert(scope, channel_id, draft)

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
        found = await _found(scope, request)
    return reply_value(Channel, found, revision=found.revision)


async def change(request: Request) -> Response:
    """Change a channel; a disabled one tells nothing, and enabled again tells of what is noticed from then on."""
    revision, asked = if_match(request), await read(request, ChannelChange)
    async with told_scope(request) as scope:
        before = await _found(scope, request)
        draft = await _changed(request, scope, before, asked)
        made = await channels.update(scope, before.id, revision, draft)
        if made is None:
            raise ChangedMeanwhileError
        names = ",".join(sorted(asked.model_fields_set))
        await creating.note(scope, request, "channel.change", made.id, changed=names, disabled=draft.is_disabled)
    return reply_value(Channel, made, revision=made.revision)


async def renew_secret(request: Request) -> Response:
    """Make a new secret for a webhook and show it this once; for a day messages are signed by the old one too."""
    revision, ctx = if_match(request), context.of(request)
    async with told_scope(request) as scope:
        before = await _found(scope, request)
        if before.kind != ChannelKind.WEBHOOK:
            raise BadBodyError("Only a webhook has a secret of this server.")
        old, secret = await _target(request, scope, before.id), notices.secret_of(telling.random_secret())
        until = (datetime.now(UTC) + _OLD_SECRET_FOR).isoformat()
        target = replace(old, secret=secret, previous=old.secret, previous_until=until)
        sealed = targets.seal(ctx.seal_key, scope.partner_id, before.id, target)
        made = await channels.update(scope, before.id, revision, channels.draft_of(before, before.target, sealed))
        if made is None:
            raise ChangedMeanwhileError
        await creating.note(scope, request, "channel.renew_secret", made.id)
    return reply_value(ChannelMade, ChannelMade(channel=made, secret=secret), revision=made.revision)


async def try_out(request: Request) -> Response:
    """Send a test message now, and say what came of it; it is tried once."""
    async with told_scope(request) as scope:
        claimed = await telling.write_test(scope, path_id(request, "channel"))
        await creating.note(scope, request, "channel.test", claimed.channel_id)
    tried = await telling.deliver(telling.sender(context.of(request)), claimed)
    said = Tested(delivered=tried.error is None, status=tried.status, error=tried.error, took_ms=tried.took_ms)
    return reply_value(Tested, said)


async def snooze(request: Request) -> Response:
    """Tell nothing by a channel until then; what stands then is told, and ends of what was told are meanwhile too."""
    until = snoozed_until(await read(request, Snooze))
    async with told_scope(request) as scope:
        made = await channels.snooze(scope, path_id(request, "channel"), until)
        if made is None:
            raise NotFoundError
        await creating.note(scope, request, "channel.snooze", made.id, until=until.isoformat() if until else None)
    return reply_value(Channel, made, revision=made.revision)


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


def snoozed_until(asked: Snooze) -> datetime | None:
    """Return the end of a snooze; BadBodyError unless it is within 31 days from now."""
    now = datetime.now(UTC)
    if asked.until is not None and not now < asked.until <= now + LONGEST_SNOOZE:
        raise BadBodyError("until: in the future, and within 31 days; or null.")
    return asked.until


@asynccontextmanager
async def told_scope(request: Request) -> AsyncIterator[PartnerScope]:
    """Open the scope of the caller's partner, or the platform's own where the path says so."""
    if request.url.path.startswith("/api/v1/platform/"):
        async with context.of(request).db.partner(PLATFORM) as scope:
            yield scope
    else:
        async with auth.partner_scope(request) as scope:
            yield scope


async def _found(scope: PartnerScope, request: Request) -> Channel:
    found = await channels.find(scope, path_id(request, "channel"))
    if found is None:
        raise NotFoundError
    return found


async def _target(request: Request, scope: PartnerScope, channel_id: str) -> Target:
    sealed = await channels.sealed_target(scope, channel_id)
    return targets.unseal(context.of(request).unseal_keys, scope.partner_id, channel_id, sealed)


async def _changed(request: Request, scope: PartnerScope, before: Channel, asked: ChannelChange) -> Draft:
    """Return the channel as it is to be; its target is opened only when a part of it is given anew."""
    ctx = context.of(request)
    changes = {name: getattr(asked, name) for name in asked.model_fields_set - {*_GIVEN, "disabled"}}
    missing = [name for name, value in changes.items() if value is None and name != "site_ids"]
    if missing:
        raise BadBodyError(f"{missing[0]}: null is no value; leave it out.")
    _resend(changes.get("resend_s", before.resend_s))
    await _own_sites(scope, asked.site_ids)
    if asked.disabled is not None:
        changes["is_disabled"] = asked.disabled
    given = {name: getattr(asked, name) for name in _GIVEN if getattr(asked, name) is not None}
    hint, sealed = before.target, await channels.sealed_target(scope, before.id)
    if given:
        old = targets.unseal(ctx.unseal_keys, scope.partner_id, before.id, sealed)
        whole = replace(old, **given | ({"to": tuple(asked.to)} if asked.to is not None else {}))
        target = targets.checked(ChannelKind(before.kind), whole, ctx.config.notify_allow)
        hint = targets.hint(target, ctx.config.notify_allow)
        sealed = targets.seal(ctx.seal_key, scope.partner_id, before.id, target)
    return channels.draft_of(before, hint, sealed, **changes)


async def _own_sites(scope: PartnerScope, site_ids: list[str] | None) -> None:
    foreign = await channels.foreign_sites(scope, site_ids or [])
    if foreign:
        raise BadBodyError(f"site_ids: there is no site {foreign[0]}.")


def _resend(seconds: int) -> None:
    if 0 < seconds < 60:
        raise BadBodyError("resend_s: 0, or 60 and more.")


def _secret(asked: NewChannel, repeated: str | None) -> str | None:
    """Return a webhook's secret: given, or made; the same again for the same Idempotency-Key."""
    if asked.secret is not None or asked.kind is not ChannelKind.WEBHOOK:
        return asked.secret
    random = base64.urlsafe_b64decode(repeated + "=") if repeated else telling.random_secret()
    return notices.secret_of(random)


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
