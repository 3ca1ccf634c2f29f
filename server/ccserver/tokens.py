"""Nonces and access tokens for appliances: HMACs that any process of this server can check without a database.

A token is `v1.<site>.<appliance>.<expiry>.<HMAC>`. Every call reads the appliance's row all the same, so that
revocation is immediate.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

TOKEN_SECONDS = 15 * 60
NONCE_SECONDS = 60

_TOKEN = re.compile(r"(v1\.([0-9a-z-]{1,64})\.([0-9a-z-]{1,64})\.([0-9]{1,12}))\.([0-9A-Za-z_-]{43})")
_NONCE = re.compile(r"(v1\.([0-9]{1,12})\.[0-9a-f]{32})\.([0-9A-Za-z_-]{43})")


@dataclass(frozen=True)
class Device:
    """The appliance that a verified token names."""

    site_id: str
    appliance_id: str


def issue(key: bytes, device: Device, now: float) -> str:
    """Return an access token for `TOKEN_SECONDS` from `now` (seconds since 1970)."""
    text = f"v1.{device.site_id}.{device.appliance_id}.{int(now) + TOKEN_SECONDS}"
    return f"{text}.{_seal(key, text)}"


def verify(key: bytes, token: str, now: float) -> Device | None:
    """Return the device of a good and unexpired token, else None."""
    match = _TOKEN.fullmatch(token)
    if match is None or not hmac.compare_digest(match[5], _seal(key, match[1])) or int(match[4]) <= now:
        return None
    return Device(match[2], match[3])


def new_nonce(key: bytes, now: float) -> str:
    """Return a nonce that is good for `NONCE_SECONDS` from `now`."""
    text = f"v1.{int(now) + NONCE_SECONDS}.{secrets.token_hex(16)}"
    return f"{text}.{_seal(key, text)}"


def nonce_is_good(key: bytes, nonce: str, now: float) -> bool:
    """Return whether this server made the nonce less than a minute ago."""
    match = _NONCE.fullmatch(nonce)
    return match is not None and hmac.compare_digest(match[3], _seal(key, match[1])) and int(match[2]) > now


def _seal(key: bytes, text: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode().rstrip("=")
