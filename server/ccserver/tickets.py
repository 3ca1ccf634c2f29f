"""Half signed in: a short-lived ticket says that somebody gave the right password and still owes the second factor.

It is no session: nothing but the page that asks for the code takes it, and a changed password voids it.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

TICKET_SECONDS = 5 * 60
_TICKET = re.compile(r"(v1\.([0-9a-z-]{1,64})\.([0-9a-z-]{1,64})\.([0-9a-f]{32})\.([0-9]{1,12}))\.([0-9A-Za-z_-]{43})")


@dataclass(frozen=True)
class Ticket:
    """Whose password was right; `password_mark` names that password's hash without showing it."""

    partner_id: str
    user_id: str
    password_mark: str


def mark(password_hash: str) -> str:
    """Return the 32 hex by which a ticket names the password it was given for."""
    return hashlib.sha256(password_hash.encode()).hexdigest()[:32]


def issue(key: bytes, ticket: Ticket, now: float) -> str:
    """Return a ticket for `TICKET_SECONDS` from `now` (seconds since 1970)."""
    text = f"v1.{ticket.partner_id}.{ticket.user_id}.{ticket.password_mark}.{int(now) + TICKET_SECONDS}"
    return f"{text}.{_mac(key, text)}"


def verify(key: bytes, text: str, now: float) -> Ticket | None:
    """Return what a good and unexpired ticket says, else None."""
    match = _TICKET.fullmatch(text)
    if match is None or not hmac.compare_digest(match[6], _mac(key, match[1])) or int(match[5]) <= now:
        return None
    return Ticket(match[2], match[3], match[4])


def _mac(key: bytes, text: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode().rstrip("=")
