"""DSSE envelopes: what the server's order key signs, with the purpose checked before anything is parsed.

Source: the DSSE v1 protocol (pre-authentication encoding, JSON envelope); one signature, by one key.
"""

import base64
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ccshared import canonical, ed25519


class PayloadType(StrEnum):
    """What an envelope is for; a verifier names the one it expects."""

    ORDER = "application/vnd.cc.order.v1+json"
    POLICY = "application/vnd.cc.policy.v1+json"
    ENROLMENT = "application/vnd.cc.enrolment.v1+json"
    KEYS = "application/vnd.cc.keys.v1+json"
    EXPORT = "application/vnd.cc.export.v1+json"


class BadEnvelopeError(ValueError):
    """The envelope is not of the expected kind, or not signed by the expected key."""


@dataclass(frozen=True)
class Envelope:
    """A signed payload as it travels: base64 in JSON; `signature` is 64 bytes, `key_name` a hint and not trusted."""

    payload_type: str
    payload: bytes
    signature: bytes
    key_name: str

    def to_json(self) -> dict[str, Any]:
        """Return the DSSE JSON object."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [{"keyid": self.key_name, "sig": base64.b64encode(self.signature).decode()}],
        }


def sign(payload_type: PayloadType, value: dict[str, Any], seed: bytes, key_name: str) -> Envelope:
    """Return the canonical bytes of `value`, signed for one purpose."""
    payload = canonical.write(value)
    signature = ed25519.sign(seed, _encoding(payload_type, payload))
    return Envelope(str(payload_type), payload, signature, key_name)


def open_envelope(data: Any, expected: PayloadType, key: bytes) -> dict[str, Any]:
    """Return the value inside DSSE JSON; BadEnvelopeError unless type and signature are as expected.

    Only what was parsed from the verified bytes is returned.
    """
    envelope = _parse(data)
    if envelope.payload_type != expected:
        raise BadEnvelopeError("made for another purpose")
    try:
        ed25519.verify(key, _encoding(envelope.payload_type, envelope.payload), envelope.signature)
        return canonical.read(envelope.payload)
    except (ed25519.BadKeyError, ed25519.BadSignatureError) as error:
        raise BadEnvelopeError("not signed by the expected key") from error
    except canonical.NotCanonicalError as error:
        raise BadEnvelopeError("its payload is not canonical JSON") from error


def _parse(data: Any) -> Envelope:
    try:
        (signature,) = data["signatures"]
        return Envelope(
            payload_type=_text(data["payloadType"]),
            payload=_unb64(_text(data["payload"])),
            signature=_unb64(_text(signature["sig"])),
            key_name=_text(signature.get("keyid", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadEnvelopeError("not a DSSE envelope with one signature") from error


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not text")
    return value


def _unb64(text: str) -> bytes:
    """Decode the one spelling that encoding gives back: bits beyond the last byte could say anything."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 in another spelling")
    return data


def _encoding(payload_type: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(payload), payload)
