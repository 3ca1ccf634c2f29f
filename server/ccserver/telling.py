"""Telling: problems are noticed, messages written, and sent until they are delivered or given up.

Noticing and writing are one short transaction in platform scope; they look at what stands and so slow nothing that
writes it. Sending holds no connection: a sender claims a message, sends it, and records what came of it. One that
dies in between is followed by another when its claim runs out, with the same id: at least once, and a receiver can
tell.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import uniform

import orjson

from ccserver import liveness, mailing, notices, outbound, targets
from ccserver.config import Config
from ccserver.context import Context
from ccserver.errors import CentralCommandError, MailNotSetUpError, NotFoundError, ReceiverFailedError
from ccserver.notices import Notice
from ccserver.queries import notifications, problems
from ccserver.queries.notifications import Attempt, Claimed
from ccserver.retention import Swept
from ccserver.scope import Database, PartnerScope, PlatformScope
from ccserver.targets import Target
from ccshared import ids
from ccshared.vocabulary import ChannelKind, NotificationEvent

log = logging.getLogger("ccserver.telling")
LATELY = timedelta(seconds=90)  # longer than any transaction that writes incidents, and than the sweep's interval
EVER = timedelta(days=36500)
MAX_ATTEMPTS = 14  # over some six hours
LEASE = timedelta(minutes=2)  # longer than any attempt lasts
SENDERS = 8
EACH = 2  # at once to one channel, so that a slow one does not hold up the others
_FIRST_WAIT_S, _LONGEST_WAIT_S = 10.0, 3600.0
_GONE = 410  # the receiver says that it never comes back
_PAUSE_S = 2.0
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class Sender:
    """Who sends: with the keys that open targets, as the configuration says, under the server's name.

    `unseal_keys` returns the keys as they are now, because it sends for years and they are made anew meanwhile.
    """

    db: Database
    unseal_keys: Callable[[], Sequence[bytes]]
    config: Config
    server: str


def sender(ctx: Context) -> Sender:
    """Return the sender of a process that serves."""
    return Sender(ctx.db, lambda: ctx.unseal_keys, ctx.config, ctx.keys.server)


async def notice(scope: PlatformScope, rows: int, changed_within: timedelta = LATELY) -> Swept:
    """Notice what began, changed and ended, and write what each channel is to be told of it: a sweep's chunk.

    Incidents are looked at where one changed within that time: sites by the roll-up that is kept up at write time.
    """
    part = max(rows // 11, 1)
    done = await problems.notice_incidents(scope, part, changed_within)
    done += await problems.follow_incidents(scope, part, changed_within)
    done += await problems.follow_appliances(scope, part, liveness.OVERDUE_FOR)
    done += await problems.follow_evidence(scope, part)
    done += await problems.follow_server(scope, part)
    tells = (notifications.tell_opened, notifications.tell_escalated, notifications.tell_acknowledged)
    for tell in (*tells, notifications.tell_again, notifications.tell_ended, notifications.bury):
        done += await tell(scope, part)
    return Swept(min(done, rows), min(done, rows))


async def keep_sending(sender: Sender, tell: Tell) -> None:
    """Send what is due for ever, some messages at once; `tell` counts each attempt by kind and result."""
    busy: set[asyncio.Task[None]] = set()
    try:
        while True:
            for claimed in await _claim(sender, SENDERS - len(busy)):
                task = asyncio.create_task(_deliver_whatever_happens(sender, claimed, tell))
                busy.add(task)
                task.add_done_callback(busy.discard)
            pause = asyncio.create_task(asyncio.sleep(_PAUSE_S * uniform(0.5, 1.0)))  # noqa: S311  no secret
            full = len(busy) >= SENDERS
            await asyncio.wait({pause, *busy} if full else {pause}, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()
    finally:
        for task in busy:
            task.cancel()


async def send_due(sender: Sender, tell: Tell) -> int:
    """Send what is due now, once; return how many messages were tried."""
    claimed = await _claim(sender, SENDERS)
    await asyncio.gather(*(_deliver_whatever_happens(sender, each, tell) for each in claimed))
    return len(claimed)


async def write_test(scope: PartnerScope, channel_id: str) -> Claimed:
    """Write a test of a channel that is for the caller to `deliver`; NotFoundError without such a channel."""
    claimed = await notifications.insert_test(scope, ids.new_id(), channel_id, LEASE)
    if claimed is None:
        raise NotFoundError
    return claimed


async def deliver(sender: Sender, claimed: Claimed) -> Attempt:
    """Send a claimed message once, and record what came of it."""
    began = time.monotonic()
    status, error, retry_after = None, None, None
    try:
        answer = await _send(sender, claimed)
        if answer is not None:
            status, retry_after = answer.status, answer.retry_after_s
            error = None if 200 <= answer.status < 300 else f"The receiver answered {answer.status}."
    except CentralCommandError as caught:
        error = str(caught)[:500]
    except Exception as caught:  # or the message would be claimed for ever
        log.exception("a message could not be made")
        error = f"The message could not be made ({type(caught).__name__})."
    attempt = Attempt(claimed.attempts, int((time.monotonic() - began) * 1000), status, error)
    last = claimed.event == NotificationEvent.TEST or claimed.attempts >= MAX_ATTEMPTS or status == _GONE
    wait = timedelta(seconds=wait_s(claimed.attempts, retry_after))
    async with sender.db.partner(claimed.partner_id) as scope:
        await notifications.record(scope, claimed.id, attempt, wait if error else None, last)
    return attempt


def random_secret() -> bytes:
    """Return what a new webhook's messages are signed by."""
    return secrets.token_bytes(32)


def wait_s(attempts: int, retry_after_s: int | None) -> float:
    """Return how long to wait after so many attempts: doubled each time up to an hour, of which half is chance."""
    longest = min(_FIRST_WAIT_S * 2 ** (attempts - 1), _LONGEST_WAIT_S)
    return max(uniform(longest / 2, longest), float(retry_after_s or 0))  # noqa: S311  no secret: senders drift apart


async def _claim(sender: Sender, room: int) -> list[Claimed]:
    if room <= 0:
        return []
    try:
        async with sender.db.platform() as scope:
            return await notifications.claim(scope, room, EACH, LEASE)
    except CentralCommandError as error:
        log.warning("nothing is sent this time: %s", error)
    except Exception:
        log.exception("the outbox could not be read")
    return []


async def _deliver_whatever_happens(sender: Sender, claimed: Claimed, tell: Tell) -> None:
    """Deliver; whatever goes wrong, the claim runs out and the message is tried again."""
    try:
        attempt = await deliver(sender, claimed)
        tell(claimed.kind, "failed" if attempt.error else "delivered")
    except CentralCommandError as error:
        log.warning("what came of a message was not recorded: %s", error)
        tell(claimed.kind, "unrecorded")
    except Exception:
        log.exception("a message could not be sent")
        tell(claimed.kind, "broken")


async def _send(sender: Sender, claimed: Claimed) -> outbound.Answer | None:
    """Send a message; None for mail, which has no status."""
    target = targets.unseal(sender.unseal_keys(), claimed.partner_id, claimed.channel_id, claimed.target_sealed)
    notice = Notice(claimed.id, claimed.event, orjson.loads(claimed.body), sender.server, sender.config.public_url)
    if claimed.kind == ChannelKind.EMAIL:
        if sender.config.smtp is None:
            raise MailNotSetUpError
        await mailing.send(sender.config.smtp, notices.mail(notice, sender.config.smtp.sender, target.to))
        return None
    body, headers = _written(claimed.kind, notice, target)
    if target.url is None:
        raise ReceiverFailedError("The channel has no address.")
    return await outbound.post(target.url, body, headers, sender.config.notify_allow)


def _written(kind: str, notice: Notice, target: Target) -> tuple[bytes, dict[str, str]]:
    if kind == ChannelKind.SLACK:
        return notices.slack(notice), {}
    if kind == ChannelKind.PAGERDUTY:
        return notices.pagerduty(notice, target.routing_key or ""), {}
    body, now = notices.webhook(notice), datetime.now(UTC)
    return body, notices.signed(notice.id, int(now.timestamp()), body, target.secrets(now))
