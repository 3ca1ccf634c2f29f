"""Ids made by whoever sends a thing: UUIDv7 as text, and 32 hex for evidence bundles."""

import re
import secrets
import time
import uuid

_ID = re.compile(r"[0-9a-z-]{1,64}")


def new_id(now_ms: int | None = None) -> str:
    """Return a UUIDv7 (RFC 9562, 5.7) as text; `now_ms` is ms since 1970, by default the wall clock's."""
    milliseconds = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def new_bundle_id() -> str:
    """Return 32 random hex digits."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Return whether the text may be an id: 1 to 64 of 0-9, a-z and -."""
    return _ID.fullmatch(text) is not None
