"""What a device key signs besides checkpoints: lines that begin with their purpose, so none passes for another."""

import hashlib
import re
import secrets
from dataclasses import dataclass

_CODE = re.compile(r"([0-9a-z](?:[0-9a-z.-]{0,126}[0-9a-z])?)/([0-9a-f]{64})/([0-9a-zA-Z_-]{22,128})")


class BadCodeError(ValueError):
    """The enrolment code is not <server name>/<fingerprint>/<secret>; copy it whole."""


@dataclass(frozen=True)
class EnrolmentCode:
    """A one-time code in its parts: the server's name, its order key's fingerprint (hex SHA-256), the secret."""

    server: str
    fingerprint: str
    secret: str

    def __str__(self) -> str:
        return f"{self.server}/{self.fingerprint}/{self.secret}"

    @property
    def secret_hash(self) -> str:
        """The hex SHA-256 of the secret: all that is stored of it."""
        return secret_hash(self.secret)


def parse_code(text: str) -> EnrolmentCode:
    """Return a code's parts; BadCodeError when it has another form."""
    match = _CODE.fullmatch(text.strip())
    if match is None:
        raise BadCodeError(BadCodeError.__doc__)
    return EnrolmentCode(*match.groups())


def new_secret() -> str:
    """Return a code's secret: 192 random bits, base64url."""
    return secrets.token_urlsafe(24)


def secret_hash(secret: str) -> str:
    """Return the hex SHA-256 of a secret of at least 128 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def fingerprint(public_key: bytes) -> str:
    """Return the hex SHA-256 of a raw 32-byte public key, as people compare it."""
    return hashlib.sha256(public_key).hexdigest()


def enrolment(server: str, code_hash: str, public_key: bytes) -> bytes:
    """Return what a new device signs to prove that it holds the key it enrols with."""
    return _lines("cc-enroll-v1", server, code_hash, public_key.hex())


def token(server: str, appliance: str, nonce: str) -> bytes:
    """Return what a device signs to get an access token."""
    return _lines("cc-token-v1", server, appliance, nonce)


def new_key(server: str, appliance: str, public_key: bytes) -> bytes:
    """Return what a new device key signs when its predecessor names it."""
    return _lines("cc-key-v1", server, appliance, public_key.hex())


def _lines(*lines: str) -> bytes:
    if any("\n" in line for line in lines):
        raise ValueError("a signed line cannot hold a line break")
    return "".join(line + "\n" for line in lines).encode()
