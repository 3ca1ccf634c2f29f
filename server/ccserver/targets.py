"""Where a channel leads, and with what secret: checked when it is given, sealed in its row, opened only to send."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from ccserver import notices, outbound, sealing
from ccserver.errors import BadBodyError
from ccserver.limits import Network
from ccserver.sealing import Place
from ccshared.vocabulary import ChannelKind

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
MAX_RECIPIENTS = 20
_MAILBOX = re.compile(r"[0-9A-Za-z.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[0-9A-Za-z-]{1,63}\.)+[0-9A-Za-z-]{2,63}")
_ROUTING_KEY = re.compile(r"[0-9A-Za-z]{32}")
_NEEDED = {
    ChannelKind.EMAIL: ("to",),
    ChannelKind.WEBHOOK: ("url", "secret"),
    ChannelKind.SLACK: ("url",),
    ChannelKind.PAGERDUTY: ("url", "routing_key"),
}


@dataclass(frozen=True)
class Target:
    """Where a channel leads; each kind has its own members. `previous` is the secret that gave way, good until then."""

    to: tuple[str, ...] = ()
    url: str | None = None
    secret: str | None = None
    routing_key: str | None = None
    previous: str | None = None
    previous_until: str | None = None

    def __repr__(self) -> str:
        """Return nothing of it: a target ends in no log."""
        return "Target(…)"

    def secrets(self, now: datetime) -> list[str]:
        """Return the secrets that a webhook is signed by, the newest first."""
        before = self.previous if self.previous_until and datetime.fromisoformat(self.previous_until) > now else None
        return [each for each in (self.secret, before) if each]


def checked(kind: ChannelKind, target: Target, allow: Sequence[Network]) -> Target:
    """Return a target that has all that its kind needs, and nothing else; BadBodyError says what is wrong with it."""
    if kind is ChannelKind.PAGERDUTY and target.url is None:
        target = replace(target, url=PAGERDUTY_URL)
    given = {name for name in ("to", "url", "secret", "routing_key") if getattr(target, name)}
    if given != set(_NEEDED[kind]):
        raise BadBodyError(f"A channel of this kind takes {' and '.join(_NEEDED[kind])}, and nothing else.")
    if target.url is not None:
        outbound.checked(target.url, allow)
    if target.secret is not None:
        notices.secret_bytes(target.secret)
    if target.routing_key is not None and not _ROUTING_KEY.fullmatch(target.routing_key):
        raise BadBodyError("routing_key: the 32 letters and digits of a PagerDuty integration are needed.")
    if len(target.to) > MAX_RECIPIENTS or not all(_MAILBOX.fullmatch(each) for each in target.to):
        raise BadBodyError(f"to: 1 to {MAX_RECIPIENTS} mail addresses are needed, as in ops@example.org.")
    return target


def hint(target: Target, allow: Sequence[Network]) -> str:
    """Return what people know a target by: its host, or the domains of its recipients. No path, no name, no secret."""
    if target.url is not None:
        return outbound.checked(target.url, allow)
    return ", ".join(dict.fromkeys(each.rpartition("@")[2].lower() for each in target.to))[:300]


def seal(key: bytes, partner_id: str, channel_id: str, target: Target) -> bytes:
    """Return the target sealed for its row."""
    return sealing.seal(key, _place(partner_id, channel_id), orjson.dumps(asdict(target)))


def unseal(keys: bytes | Sequence[bytes], partner_id: str, channel_id: str, sealed: bytes) -> Target:
    """Return the target of a row; SealBrokenError for another row's, or with another key file."""
    found: dict[str, Any] = orjson.loads(sealing.unseal(keys, _place(partner_id, channel_id), sealed))
    return Target(**found | {"to": tuple(found["to"])})


def _place(partner_id: str, channel_id: str) -> Place:
    return Place("notification_channels", "target_sealed", f"{partner_id}/{channel_id}")
