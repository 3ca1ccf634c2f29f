"""Secrets that must be read back: sealed with AES-256-GCM, bound to the place they stand in.

The key is outside the database. A sealed value that is copied to another row, column or table does not open there.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ccserver.errors import SealBrokenError

_VERSION = b"\x01"
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Place:
    """Where a sealed value stands: table, column and the row's id."""

    table: str
    column: str
    row_id: str

    @property
    def bound(self) -> bytes:
        """What the seal authenticates beside the value."""
        return f"{self.table}\n{self.column}\n{self.row_id}".encode()


def seal(key: bytes, place: Place, plain: bytes) -> bytes:
    """Return the version byte, a 12-byte random nonce, and what AES-GCM made of `plain` under the 32-byte key."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, plain, place.bound)


def unseal(keys: bytes | Sequence[bytes], place: Place, sealed: bytes) -> bytes:
    """Return what was sealed by the key, or one of the keys.

    SealBrokenError for another key, another place, or bytes that were changed.
    """
    if isinstance(keys, bytes):
        return _unseal(keys, place, sealed)
    for key in keys:
        with contextlib.suppress(SealBrokenError):
            return _unseal(key, place, sealed)
    raise SealBrokenError


def _unseal(key: bytes, place: Place, sealed: bytes) -> bytes:
    if sealed[:1] != _VERSION or len(sealed) < 1 + _NONCE_BYTES:
        raise SealBrokenError
    nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, body, place.bound)
    except InvalidTag as error:
        raise SealBrokenError from error
