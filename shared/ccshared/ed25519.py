"""Ed25519 as this system accepts it: cofactorless, with the encodings that libraries disagree on refused beforehand.

A public key A and a signature's R must be canonical (y < p, and no sign bit where x is 0) and not of small order;
S < L and [S]B = R + [k]A, with R compared as bytes, is what OpenSSL checks (RFC 8032, 5.1.7 without the cofactor).
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_P = 2**255 - 19
_SIGN = 1 << 255
# The eight points whose order divides 8, by y; each with both signs where x is not 0.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
    }
)


class BadKeyError(ValueError):
    """The Ed25519 public key is not 32 bytes, not canonical, or of small order."""


class BadSignatureError(ValueError):
    """The Ed25519 signature does not verify."""


def new_seed() -> bytes:
    """Return 32 fresh random bytes, the form in which private keys are kept."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key(seed: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64-byte signature; the same seed and message always give the same bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def check_key(key: bytes) -> None:
    """Refuse a public key that verifiers could disagree on: BadKeyError."""
    if len(key) != 32 or not _sound_point(key):
        raise BadKeyError


def verify(key: bytes, message: bytes, signature: bytes) -> None:
    """Return when the signature is good; BadKeyError or BadSignatureError when not."""
    check_key(key)
    if len(signature) != 64 or not _sound_point(signature[:32]):
        raise BadSignatureError
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError from error


def _sound_point(encoded: bytes) -> bool:
    y = int.from_bytes(encoded, "little") & (_SIGN - 1)
    return y < _P and y not in _SMALL_ORDER_Y
