"""What people and programs read when they are told: the same facts as mail, for Slack, as a webhook, for PagerDuty.

It names what kind of problem, where and since when, and links to the rest: reasons and findings stay behind the
sign-in.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

import orjson

from ccserver.errors import BadBodyError

_SECRET_PREFIX = "whsec_"  # noqa: S105  how Standard Webhooks marks one
_WORDS = {
    "opened": "",
    "escalated": "Needs a person: ",
    "acknowledged": "Somebody is at it: ",
    "reminder": "Still open: ",
    "ended": "Over: ",
    "test": "Test: ",
}
_PAGER = {"low": "info", "medium": "warning", "high": "error", "critical": "critical"}
_PAGER_ACTIONS = {"acknowledged": "acknowledge", "ended": "resolve"}


@dataclass(frozen=True)
class Notice:
    """A message: its id, the event, what is said of the problem (as it was stored), and the server it comes from."""

    id: str
    event: str
    said: dict[str, Any]
    server: str
    public_url: str

    @property
    def link(self) -> str:
        """Where a person reads more."""
        site = self.said.get("site")
        return f"{self.public_url}/sites/{site}" if site else f"{self.public_url}/"

    @property
    def thread(self) -> str:
        """What all messages of one problem have in common."""
        return str(self.said.get("problem") or self.id)

    @property
    def line(self) -> str:
        """The message in one line without control characters."""
        severity = f"[{self.said['severity']}] " if "severity" in self.said else ""
        where = f" at {self.said['site_name']}" if self.said.get("site_name") else ""
        says = self.said.get("says", "this channel of Central Command works")
        return _plain(f"{severity}{_WORDS[self.event]}{says}{where}", 300)


def webhook(notice: Notice) -> bytes:
    """Return the body of a generic webhook."""
    return orjson.dumps(
        {"type": f"problem.{notice.event}", "id": notice.id, "data": notice.said | {"url": notice.link}}
    )


def signed(notice_id: str, at: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers by which Standard Webhooks signs a body at `at` (seconds since 1970), by every secret."""
    content = f"{notice_id}.{at}.".encode() + body
    made = [base64.b64encode(hmac.digest(secret_bytes(each), content, hashlib.sha256)).decode() for each in secrets]
    signature = " ".join(f"v1,{each}" for each in made)
    return {"webhook-id": notice_id, "webhook-timestamp": str(at), "webhook-signature": signature}


def secret_bytes(secret: str) -> bytes:
    """Return what `whsec_…` holds; BadBodyError unless it is base64 of 24 to 64 bytes."""
    try:
        found = base64.b64decode(secret.removeprefix(_SECRET_PREFIX).encode(), validate=True)
    except ValueError as error:
        raise BadBodyError("secret: whsec_ and base64 is needed.") from error
    if not secret.startswith(_SECRET_PREFIX) or not 24 <= len(found) <= 64:
        raise BadBodyError("secret: whsec_ and the base64 of 24 to 64 bytes is needed.")
    return found


def secret_of(random: bytes) -> str:
    """Return 24 to 64 random bytes as the secret of a webhook."""
    return _SECRET_PREFIX + base64.b64encode(random).decode()


def slack(notice: Notice) -> bytes:
    """Return the body of a Slack-compatible webhook."""
    said = notice.line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return orjson.dumps({"text": f"{said}\n{notice.link}"})


def pagerduty(notice: Notice, routing_key: str) -> bytes:
    """Return an event of PagerDuty's Events API v2; one dedup_key a problem."""
    action = _PAGER_ACTIONS.get(notice.event, "trigger")
    event: dict[str, Any] = {"routing_key": routing_key, "event_action": action, "dedup_key": notice.thread}
    if action == "trigger":
        source = _plain(str(notice.said.get("site_name") or notice.server), 200)
        severity = _PAGER[notice.said.get("severity", "low")]
        event["payload"] = {"summary": notice.line, "source": source, "severity": severity}
        event["payload"]["custom_details"] = {
            name: notice.said.get(name) for name in ("kind", "site", "appliance", "incident", "began_at")
        }
        event |= {"client": "Central Command", "client_url": notice.link}
    return orjson.dumps(event)


def mail(notice: Notice, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Return a mail; messages of one problem are one thread, and the same message again has the same Message-ID."""
    message = EmailMessage()
    message["From"] = Address("Central Command", addr_spec=sender)
    message["To"] = ", ".join(recipients)
    message["Subject"] = notice.line
    message["Message-ID"] = f"<{notice.id}@{notice.server}>"
    message["References"] = f"<{notice.thread}@{notice.server}>"
    message["Auto-Submitted"] = "auto-generated"
    since = f"Since {notice.said['began_at']}\n" if notice.said.get("began_at") else ""
    by = notice.said.get("acknowledged_by")
    acknowledged = f"Acknowledged by {_plain(str(by), 300)}\n" if by else ""
    message.set_content(f"{notice.line}\n\n{since}{acknowledged}{notice.link}\n")
    return message


def _plain(text: str, length: int) -> str:
    """Return text in one line of at most so many letters."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:length]
