"""DSSE envelopes: opened for their purpose only, and refused when anything that matters was changed."""

import base64
import copy
import json
from typing import Any

import pytest

from ccshared import ed25519, envelope
from ccshared.envelope import BadEnvelopeError, PayloadType

SEED = bytes([3]) * 32
KEY = ed25519.public_key(SEED)
VALUE = {"order_id": "o-1", "runbook": "restart", "n": 4}


def signed(value: dict[str, Any] = VALUE, purpose: PayloadType = PayloadType.ORDER) -> dict[str, Any]:
    return envelope.sign(purpose, value, SEED, "cc.example/order/2026a").to_json()


def refused(data: Any) -> None:
    with pytest.raises(BadEnvelopeError):
        envelope.open_envelope(data, PayloadType.ORDER, KEY)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_an_envelope_gives_back_what_was_signed_also_after_a_trip_as_json() -> None:
    data = json.loads(json.dumps(signed()))
    assert envelope.open_envelope(data, PayloadType.ORDER, KEY) == VALUE


def test_the_signature_is_that_of_the_dsse_protocol_by_hand() -> None:
    payload = b'{"n":4,"order_id":"o-1","runbook":"restart"}'
    message = b"DSSEv1 32 application/vnd.cc.order.v1+json %d " % len(payload) + payload
    assert signed()["signatures"][0]["sig"] == b64(ed25519.sign(SEED, message))


@pytest.mark.parametrize("purpose", [purpose for purpose in PayloadType if purpose != PayloadType.ORDER])
def test_an_envelope_for_another_purpose_is_refused(purpose: PayloadType) -> None:
    refused(signed(purpose=purpose))
    refused({**signed(purpose=purpose), "payloadType": str(PayloadType.ORDER)})


def test_another_key_and_a_key_of_small_order_are_refused() -> None:
    for key in (ed25519.public_key(bytes(32)), bytes(32), b""):
        with pytest.raises(BadEnvelopeError):
            envelope.open_envelope(signed(), PayloadType.ORDER, key)


@pytest.mark.parametrize("name", ["payload", "sig", "payloadType"])
def test_every_changed_character_is_refused(name: str) -> None:
    good = signed()
    text = good["signatures"][0]["sig"] if name == "sig" else good[name]
    for place, char in enumerate(text):
        for other in (chr(ord(char) ^ 1), chr(ord(char) ^ 0x20), "", char * 2, "="):
            data = copy.deepcopy(good)
            (data["signatures"][0] if name == "sig" else data)[name] = text[:place] + other + text[place + 1 :]
            if data != good:
                refused(data)


@pytest.mark.parametrize("name", ["payload", "sig"])
def test_base64_with_bits_behind_its_end_or_of_another_alphabet_is_refused(name: str) -> None:
    data = signed({"a": "\u00fb\u00ff\u00fe" * 9})
    holder = data["signatures"][0] if name == "sig" else data
    text = holder[name]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    loose = body[:-1] + alphabet[alphabet.index(body[-1]) ^ 1] + "=" * (len(text) - len(body))
    for other in (loose, text.rstrip("="), text + "=", text + "\n", f" {text}", text.translate({43: 45, 47: 95})):
        if other != text:
            holder[name] = other
            refused(data)


@pytest.mark.parametrize("wrong", [None, True, 1, [], {}, "", b"", ["a"], [None], {"a": 1}], ids=repr)
@pytest.mark.parametrize("name", ["payloadType", "payload", "signatures", "sig", "keyid", "signature"])
def test_a_member_of_another_type_is_refused(name: str, wrong: Any) -> None:
    data = signed()
    if name == "signature":
        data["signatures"] = [wrong]
    elif name == "keyid" and wrong == "":
        return
    else:
        (data["signatures"][0] if name in ("sig", "keyid") else data)[name] = wrong
    refused(data)


@pytest.mark.parametrize("data", [None, True, 1, "", "{}", [], {}, b"{}", [signed()]], ids=repr)
def test_what_is_no_envelope_is_refused(data: Any) -> None:
    refused(data)


def test_no_signature_or_a_second_one_is_refused() -> None:
    data = signed()
    refused({**data, "signatures": []})
    refused({**data, "signatures": data["signatures"] * 2})


def test_the_key_name_is_a_hint_and_may_be_missing() -> None:
    data = signed()
    del data["signatures"][0]["keyid"]
    assert envelope.open_envelope(data, PayloadType.ORDER, KEY) == VALUE


def test_a_signed_payload_that_is_not_canonical_is_refused() -> None:
    payload = b'{"n": 4}'
    message = b"DSSEv1 32 application/vnd.cc.order.v1+json 8 " + payload
    refused(
        {
            "payloadType": str(PayloadType.ORDER),
            "payload": b64(payload),
            "signatures": [{"keyid": "", "sig": b64(ed25519.sign(SEED, message))}],
        }
    )
