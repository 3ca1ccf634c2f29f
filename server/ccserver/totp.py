"""One-time codes by time (RFC 6238 over RFC 4226): HMAC-SHA1, six digits, steps of 30 seconds, one step either way."""

import base64
import hashlib
import hmac
import secrets
from urllib.parse import quote, urlencode

STEP_SECONDS = 30
DIGITS = 6
RECOVERY_CODES = 10
_SECRET_BYTES = 20  # RFC 4226, section 4: 160 bits recommended
_ISSUER = "Central Command"


def new_secret() -> bytes:
    """Return a new shared secret of 20 bytes."""
    return secrets.token_bytes(_SECRET_BYTES)


def step_at(now: float) -> int:
    """Return the number of the step that `now` (seconds since 1970) falls in."""
    return int(now) // STEP_SECONDS


def code(secret: bytes, step: int) -> str:
    """Return the six digits of a step (RFC 4226, section 5.3)."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def matching_step(secret: bytes, given: str, now: float, last_step: int | None) -> int | None:
    """Return the step whose code was given, of this one and its two neighbours.

    None for any other code, and for a step up to `last_step`, the last one used.
    """
    typed = given.replace(" ", "")
    if len(typed) != DIGITS or not typed.isascii():
        return None
    current = step_at(now)
    for step in (current, current - 1, current + 1):
        if (last_step is None or step > last_step) and hmac.compare_digest(code(secret, step), typed):
            return step
    return None


def shown(secret: bytes) -> str:
    """Return the secret as people type it: base32 without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def uri(secret: bytes, login: str) -> str:
    """Return the otpauth URI that authenticator apps read."""
    query = {"secret": shown(secret), "issuer": _ISSUER, "digits": str(DIGITS), "period": str(STEP_SECONDS)}
    return f"otpauth://totp/{quote(_ISSUER)}:{quote(login, safe='')}?{urlencode(query, quote_via=quote)}"


def new_recovery_codes() -> list[str]:
    """Return ten codes of 80 bits each, as `xxxx-xxxx-xxxx-xxxx`: too many to search for from their hashes."""
    texts = [base64.b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)]
    return ["-".join(text[at : at + 4] for at in range(0, 16, 4)) for text in texts]


def recovery_hash(user_id: str, given: str) -> str:
    """Return the hash by which a person's recovery code is stored; spaces, dashes and case do not matter."""
    typed = "".join(given.split()).replace("-", "").lower()
    return hashlib.sha256(f"{user_id}\n{typed}".encode()).hexdigest()
