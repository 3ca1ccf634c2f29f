"""Channels by which people are told. Addresses that hold a secret are asked for, or read from a file: never typed."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from ccserver import keys, notices, targets, telling
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, a_name, current, show, with_database
from ccserver.commands.reaching import NEWEST, Consent
from ccserver.config import Config
from ccserver.errors import BadConfigError, ChangedMeanwhileError, MailNotSetUpError, NotFoundError
from ccserver.queries import notification_channels as channels
from ccserver.queries import notifications
from ccserver.queries.notification_channels import Channel, Draft
from ccserver.queries.notifications import Attempt, Delivery
from ccserver.scope import PLATFORM, Database, PartnerScope
from ccserver.targets import Target
from ccshared import ids
from ccshared.vocabulary import ChannelKind, Severity

SECRET = "CC_CHANNEL_SECRET"  # noqa: S105  the variable's name
Of = click.option(
    "--partner",
    "partner_id",
    default=PLATFORM,
    help="Whose; without it the platform's, which tell of the server itself.",
)
SecretFile = click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help=f"Where the address stands, or PagerDuty's routing key; - for standard input. Else {SECRET}, or a question.",
)


@dataclass(frozen=True)
class _Given:
    """A channel as it was typed."""

    kind: ChannelKind
    name: str
    min_severity: str
    site_ids: list[str] | None
    grace_s: int
    resend_s: int
    resend_max: int


@click.group("channel")
def command() -> None:
    """Channels by which people are told: mail, webhook, Slack, PagerDuty."""


@command.command("list")
@Of
@AsJson
def list_channels(partner_id: str, as_json: bool) -> None:
    """List the channels, newest first, those that are disabled too."""

    async def act(db: Database) -> list[Channel]:
        async with db.partner(partner_id) as scope:
            return await channels.newest(scope, NEWEST)

    found: list[Channel] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_line(row) for row in found) or "no channels")


@command.command("create")
@click.argument("name")
@Of
@click.option("--kind", required=True, type=click.Choice([str(kind) for kind in ChannelKind]))
@click.option("--to", multiple=True, help="A mail address; may be there again.")
@SecretFile
@click.option("--min-severity", default="medium", type=click.Choice([str(each) for each in Severity]))
@click.option("--site", "site_ids", multiple=True, help="Only this site; may be there again.")
@click.option(
    "--grace", "grace_s", default=120, type=click.IntRange(0, 86400), help="Seconds that a problem lasts first."
)
@click.option(
    "--resend", "resend_s", default=3600, type=click.IntRange(0, 604800), help="Seconds between; 0 for never."
)
@click.option("--resend-max", default=3, type=click.IntRange(0, 100))
@AsJson
def create(name: str, partner_id: str, secret_file: Path | None, as_json: bool, **given: Any) -> None:
    """Make a channel; a webhook's secret is printed this once."""
    if 0 < given["resend_s"] < 60:
        raise click.BadParameter("0, or 60 and more", param_hint="--resend")
    kind, sites = ChannelKind(given["kind"]), list(given["site_ids"]) or None
    rest = (given["grace_s"], given["resend_s"], given["resend_max"])
    asked = _Given(kind, a_name(name), given["min_severity"], sites, *rest)
    settings = current()
    target = _target(settings, kind, tuple(given["to"]), secret_file)
    seal_key = keys.load(settings.key_file).derive(keys.SEAL_PURPOSE)

    async def act(db: Database) -> Channel:
        async with db.partner(partner_id) as scope:
            return await _insert(scope, asked, target, seal_key, settings)

    made: Channel = with_database(act)
    shown = {"secret": target.secret} if target.secret else {}
    secret = f"\nsecret, shown this once: {target.secret}" if target.secret else ""
    show(asdict(made) | shown, as_json, _line(made) + secret)


@command.command("disable")
@click.argument("channel_id")
@Of
@reaching.destroys
@AsJson
def disable(channel_id: str, partner_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Tell nothing by a channel any more; what waits is given up."""
    consent = Consent(yes, dry_run)
    consent.ask(f"tell nothing by channel {channel_id} any more")
    _switch(partner_id, channel_id, consent, is_disabled=True)
    show({"id": channel_id, "dry_run": dry_run}, as_json, consent.say(f"channel {channel_id} is disabled"))


@command.command("enable")
@click.argument("channel_id")
@Of
@AsJson
def enable(channel_id: str, partner_id: str, as_json: bool) -> None:
    """Tell by a channel again, of what is noticed from now on."""
    _switch(partner_id, channel_id, Consent(yes=True, dry_run=False), is_disabled=False)
    show({"id": channel_id}, as_json, f"channel {channel_id} is enabled")


@command.command("test")
@click.argument("channel_id")
@Of
@AsJson
def test(channel_id: str, partner_id: str, as_json: bool) -> None:
    """Send a test message now; exit 1 when it was not delivered."""
    settings = current()
    loaded = keys.load(settings.key_file)

    async def act(db: Database) -> Attempt:
        async with db.partner(partner_id) as scope:
            claimed = await telling.write_test(scope, channel_id)
            await reaching.note(scope, "channel.test", channel_id)
        sender = telling.Sender(db, lambda: loaded.derive_all(keys.SEAL_PURPOSE), settings, loaded.server)
        return await telling.deliver(sender, claimed)

    tried: Attempt = with_database(act)
    show(asdict(tried), as_json, tried.error or f"delivered within {tried.took_ms} ms")
    if tried.error:
        sys.exit(1)


@command.command("deliveries")
@Of
@click.option("--channel", "channel_id", help="Only by this channel.")
@AsJson
def deliveries(partner_id: str, channel_id: str | None, as_json: bool) -> None:
    """List what was told, newest first: delivered, waiting, or given up with the reason."""

    async def act(db: Database) -> list[Delivery]:
        async with db.partner(partner_id) as scope:
            return await notifications.newest(scope, channel_id, NEWEST)

    found: list[Delivery] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_told(row) for row in found) or "nothing was told")


def _target(settings: Config, kind: ChannelKind, to: tuple[str, ...], secret_file: Path | None) -> Target:
    """Return where a channel is to lead; MailNotSetUpError for mail on a server that has nobody to hand it to."""
    if kind is ChannelKind.EMAIL:
        if settings.smtp is None:
            raise MailNotSetUpError
        return targets.checked(kind, Target(to=to), settings.notify_allow)
    if to:
        raise click.BadParameter("only mail has recipients", param_hint="--to")
    given = _secret("Routing key" if kind is ChannelKind.PAGERDUTY else "Address", secret_file)
    if kind is ChannelKind.PAGERDUTY:
        return targets.checked(kind, Target(routing_key=given), settings.notify_allow)
    made = notices.secret_of(telling.random_secret()) if kind is ChannelKind.WEBHOOK else None
    return targets.checked(kind, Target(url=given, secret=made), settings.notify_allow)


def _secret(what: str, path: Path | None) -> str:
    """Return what must not stand on a command line, where every user of the host could see it."""
    if path is None:
        return os.environ.get(SECRET) or str(click.prompt(what, hide_input=True, err=True))
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")).strip()
    except (OSError, ValueError) as error:
        raise BadConfigError(f"The file {path} cannot be read: {type(error).__name__}.") from error


async def _insert(scope: PartnerScope, asked: _Given, target: Target, seal_key: bytes, settings: Config) -> Channel:
    foreign = await channels.foreign_sites(scope, asked.site_ids or [])
    if foreign:
        raise NotFoundError(f"There is no site {foreign[0]} of {scope.partner_id}.")
    channel_id = ids.new_id()
    sealed = targets.seal(seal_key, scope.partner_id, channel_id, target)
    hint = targets.hint(target, settings.notify_allow)
    made = await channels.insert(scope, channel_id, Draft(target=hint, target_sealed=sealed, **asdict(asked)))
    await reaching.note(scope, "channel.create", channel_id)
    return made


def _switch(partner_id: str, channel_id: str, consent: Consent, *, is_disabled: bool) -> None:
    async def act(db: Database) -> None:
        async with reaching.keeping(db.partner(partner_id), consent) as scope:
            found = await channels.find(scope, channel_id)
            if found is None:
                raise NotFoundError(f"There is no channel {channel_id}: `ccserver channel list` shows them.")
            sealed = await channels.sealed_target(scope, channel_id)
            draft = channels.draft_of(found, found.target, sealed, is_disabled=is_disabled)
            if await channels.update(scope, channel_id, found.revision, draft) is None:
                raise ChangedMeanwhileError
            await reaching.note(scope, "channel.change", channel_id, disabled=is_disabled)

    with_database(act)


def _line(row: Channel) -> str:
    sites = "every site" if row.site_ids is None else f"{len(row.site_ids)} sites"
    state = "disabled" if row.disabled_at else f"from {row.min_severity} on"
    return f"{row.id}  {row.kind}  {row.name}  {row.target}  {sites}  {state}"


def _told(row: Delivery) -> str:
    state = "delivered" if row.delivered_at else f"given up: {row.last_error}" if row.dead_at else "waiting"
    return f"{row.created_at:%Y-%m-%d %H:%M}  {row.id}  {row.event}  by {row.channel_id}  {row.attempts} tries  {state}"
