"""What people do about channels, by the API and on pages alike: each act is written down where it is done."""

import base64
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

from ccserver import notices, targets, telling
from ccserver.context import Context
from ccserver.errors import BadBodyError, ChangedMeanwhileError, MailNotSetUpError, NotFoundError
from ccserver.queries import audit_log
from ccserver.queries import notification_channels as channels
from ccserver.queries.audit_log import Act
from ccserver.queries.notification_channels import Channel, Draft
from ccserver.queries.notifications import Claimed
from ccserver.scope import PartnerScope
from ccserver.targets import Target
from ccshared import ids
from ccshared.canonical import Json
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


def check(ctx: Context, asked: NewChannel) -> None:
    """Refuse what no channel can be: BadBodyError, or MailNotSetUpError where this server sends no mail."""
    _resend(asked.resend_s)
    if asked.kind is ChannelKind.EMAIL and ctx.config.smtp is None:
        raise MailNotSetUpError


def secret_of(asked: NewChannel, repeated: str | None = None) -> str | None:
    """Return a webhook's secret: given, or made of `repeated` (43 characters of base64url), or of chance."""
    if asked.secret is not None or asked.kind is not ChannelKind.WEBHOOK:
        return asked.secret
    random = base64.urlsafe_b64decode(repeated + "=") if repeated else telling.random_secret()
    return notices.secret_of(random)


async def make(ctx: Context, scope: PartnerScope, actor: str, asked: NewChannel, secret: str | None) -> Channel:
    """Make a channel, which tells of what is noticed from now on; `secret` is what `secret_of` returned."""
    given = Target(tuple(asked.to or ()), asked.url, secret, asked.routing_key)
    target = targets.checked(asked.kind, given, ctx.config.notify_allow)
    await _own_sites(scope, asked.site_ids)
    channel_id = ids.new_id()
    draft = Draft(
        asked.kind,
        asked.name,
        targets.hint(target, ctx.config.notify_allow),
        targets.seal(ctx.seal_key, scope.partner_id, channel_id, target),
        asked.min_severity,
        asked.site_ids,
        asked.grace_s,
        asked.resend_s,
        asked.resend_max,
    )
    made = await channels.insert(scope, channel_id, draft)
    await _note(scope, actor, "create", channel_id)
    return made


@dataclass(frozen=True)
class Read:
    """A channel as it was read by whoever changes it now."""

    channel_id: str
    revision: int
    actor: str


async def change(ctx: Context, scope: PartnerScope, read: Read, asked: ChannelChange) -> Channel:
    """Change a channel; NotFoundError, ChangedMeanwhileError, BadBodyError."""
    before = await find(scope, read.channel_id)
    draft = await _changed(ctx, scope, before, asked)
    made = await _update(scope, read, draft)
    names = ",".join(sorted(asked.model_fields_set))
    await _note(scope, read.actor, "change", made.id, changed=names, disabled=draft.is_disabled)
    return made


async def renew_secret(ctx: Context, scope: PartnerScope, read: Read) -> tuple[Channel, str]:
    """Make a new secret for a webhook and return it; for a day messages are signed by the old one too."""
    before = await find(scope, read.channel_id)
    if before.kind != ChannelKind.WEBHOOK:
        raise BadBodyError("Only a webhook has a secret of this server.")
    old, secret = await _target(ctx, scope, before.id), notices.secret_of(telling.random_secret())
    until = (datetime.now(UTC) + _OLD_SECRET_FOR).isoformat()
    target = replace(old, secret=secret, previous=old.secret, previous_until=until)
    sealed = targets.seal(ctx.seal_key, scope.partner_id, before.id, target)
    made = await _update(scope, read, channels.draft_of(before, before.target, sealed))
    await _note(scope, read.actor, "renew_secret", made.id)
    return made, secret


async def write_test(scope: PartnerScope, actor: str, channel_id: str) -> Claimed:
    """Write a test of a channel, to be delivered once the scope has ended; NotFoundError."""
    claimed = await telling.write_test(scope, channel_id)
    await _note(scope, actor, "test", claimed.channel_id)
    return claimed


async def snooze(scope: PartnerScope, actor: str, channel_id: str, until: datetime | None) -> Channel:
    """Tell nothing by a channel until then, or (None) tell again; NotFoundError."""
    made = await channels.snooze(scope, channel_id, until)
    if made is None:
        raise NotFoundError
    await _note(scope, actor, "snooze", made.id, until=until.isoformat() if until else None)
    return made


def snoozed_until(until: datetime | None) -> datetime | None:
    """Return the end of a snooze; BadBodyError unless it is within 31 days from now."""
    now = datetime.now(UTC)
    if until is not None and not now < until <= now + LONGEST_SNOOZE:
        raise BadBodyError("until: in the future, and within 31 days; or null.")
    return until


async def find(scope: PartnerScope, channel_id: str) -> Channel:
    """Return a channel; NotFoundError without it."""
    found = await channels.find(scope, channel_id)
    if found is None:
        raise NotFoundError
    return found


async def _update(scope: PartnerScope, read: Read, draft: Draft) -> Channel:
    made = await channels.update(scope, read.channel_id, read.revision, draft)
    if made is None:
        raise ChangedMeanwhileError
    return made


async def _note(scope: PartnerScope, actor: str, action: str, channel_id: str, **detail: Json) -> None:
    await audit_log.append(scope, Act(actor, f"channel.{action}", channel_id, detail))


async def _target(ctx: Context, scope: PartnerScope, channel_id: str) -> Target:
    sealed = await channels.sealed_target(scope, channel_id)
    return targets.unseal(ctx.unseal_keys, scope.partner_id, channel_id, sealed)


async def _changed(ctx: Context, scope: PartnerScope, before: Channel, asked: ChannelChange) -> Draft:
    """Return the channel as it is to be; its target is opened only when a part of it is given anew."""
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
