"""Orders: only what one of our order keys signed for this purpose; and only its target may run it, in time."""

import base64
import contextlib
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccshared import ed25519, envelope, orders
from ccshared.envelope import PayloadType
from ccshared.orders import BadOrderError, SignedOrder

SEED = bytes([7]) * 32
KEY = ed25519.public_key(SEED)
OTHER = ed25519.public_key(bytes([8]) * 32)
DAY_MS = 86_400_000
ORDER = SignedOrder(
    id="018f-1",
    site="acme-clinic",
    appliance="box-1",
    runbook="run-backup",
    digest="a" * 64,
    parameters={"unit": "backup.service", "minutes": 5},
    issued_ms=1_800_000_000_000,
    expires_ms=1_800_003_600_000,
)
MEMBERS = sorted(orders.make(ORDER))
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    "",
    "x",
    "a b",
    "../x",
    "x\n",
    [],
    {},
    [1],
    {"a": 1},
    {"a": True},
]


def sealed(value: dict[str, Any], purpose: PayloadType = PayloadType.ORDER) -> dict[str, Any]:
    return envelope.sign(purpose, value, SEED, "cc.example/server/o1").to_json()


GOOD = sealed(orders.make(ORDER))


def refused(data: Any, keys: tuple[bytes, ...] = (KEY,)) -> None:
    with pytest.raises(BadOrderError):
        orders.read(data, keys)


def test_an_order_comes_back_as_it_was_made_by_whichever_of_our_keys() -> None:
    assert orders.read(GOOD, [OTHER, KEY]) == ORDER


def test_no_key_another_key_or_another_purpose_is_refused() -> None:
    refused(GOOD, ())
    refused(GOOD, (OTHER,))
    for purpose in set(PayloadType) - {PayloadType.ORDER}:
        refused(sealed(orders.make(ORDER), purpose))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_that_is_missing_or_of_another_type_is_refused_although_it_is_signed(name: str) -> None:
    made = orders.make(ORDER)
    refused(sealed({key: value for key, value in made.items() if key != name}))
    allowed = {
        "id": ("x",),
        "site": ("x",),
        "appliance": ("x",),
        "runbook": ("x",),
        "v": (1,),
        "parameters": ({}, {"a": 1}),
    }
    for odd in ODD:
        right_type = any(type(odd) is type(each) and odd == each for each in allowed.get(name, ()))
        if not right_type:
            refused(sealed({**made, name: odd}))


def test_another_member_is_refused_although_it_is_signed() -> None:
    refused(sealed({**orders.make(ORDER), "argv": ["/bin/sh"]}))


@pytest.mark.parametrize("life", [0, -1, orders.MAX_LIFE_MS + 1])
def test_a_life_without_measure_is_refused(life: int) -> None:
    refused(sealed(orders.make(replace(ORDER, expires_ms=ORDER.issued_ms + life))))


def test_a_life_of_31_days_is_the_longest() -> None:
    longest = replace(ORDER, expires_ms=ORDER.issued_ms + orders.MAX_LIFE_MS)
    assert orders.read(sealed(orders.make(longest)), [KEY]) == longest


@pytest.mark.parametrize("value", [True, 1.5, None, [1], {"a": 1}])
def test_a_parameter_that_is_neither_text_nor_a_whole_number_is_refused(value: Any) -> None:
    with pytest.raises((BadOrderError, ValueError)):
        orders.read(sealed({**orders.make(ORDER), "parameters": {"unit": value}}), [KEY])


def test_every_byte_of_the_payload_counts() -> None:
    payload = base64.b64decode(GOOD["payload"])
    for place in range(len(payload)):
        for bit in range(8):
            changed = bytearray(payload)
            changed[place] ^= 1 << bit
            refused({**GOOD, "payload": base64.b64encode(bytes(changed)).decode()})
    refused({**GOOD, "payload": base64.b64encode(payload[:-1]).decode()})


def test_every_byte_of_the_signature_counts() -> None:
    signature = base64.b64decode(GOOD["signatures"][0]["sig"])
    for place in range(len(signature)):
        changed = bytearray(signature)
        changed[place] ^= 1
        refused({**GOOD, "signatures": [{"sig": base64.b64encode(bytes(changed)).decode()}]})


@given(name=st.sampled_from(MEMBERS), value=st.one_of(st.sampled_from(ODD), st.text(max_size=70), st.integers()))
def test_a_field_changed_under_the_old_signature_is_refused(name: str, value: Any) -> None:
    made = orders.make(ORDER)
    if value == made[name] and type(value) is type(made[name]):
        return
    try:
        forged = sealed({**made, name: value})
    except ValueError:  # it has no canonical form at all
        return
    refused({**GOOD, "payload": forged["payload"]})


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), how=st.sampled_from(["change", "insert", "cut"]))
def test_a_changed_envelope_is_refused_or_says_the_same_verified_bytes(place: int, byte: int, how: str) -> None:
    text = json.dumps(GOOD).encode()
    at = place % len(text)
    new = {
        "change": text[:at] + bytes([byte]) + text[at + 1 :],
        "insert": text[:at] + bytes([byte]) + text[at:],
        "cut": text[:at],
    }[how]
    try:
        data = json.loads(new)
    except ValueError:
        return
    with contextlib.suppress(BadOrderError):
        assert orders.read(data, [KEY]) == ORDER


@pytest.mark.parametrize("data", [None, True, 1, "", [], {}, [GOOD], {**GOOD, "signatures": []}], ids=repr)
def test_what_is_no_envelope_is_refused(data: Any) -> None:
    refused(copy.deepcopy(data))


def test_an_order_for_another_is_refused_by_who_gets_it() -> None:
    at = ORDER.issued_ms
    assert orders.refuse(ORDER, "acme-clinic", "box-1", at) is None
    assert orders.refuse(ORDER, "acme-clinic", "box-2", at) == "addressed to another appliance"
    assert orders.refuse(ORDER, "other", "box-1", at) == "addressed to another appliance"


def test_an_order_runs_from_five_minutes_before_it_was_issued_until_it_expires() -> None:
    def at(now_ms: int) -> str | None:
        return orders.refuse(ORDER, "acme-clinic", "box-1", now_ms)

    assert [at(ORDER.expires_ms - 1), at(ORDER.expires_ms)] == [None, "expired"]
    assert [at(ORDER.issued_ms - orders.EARLY_MS), at(ORDER.issued_ms - orders.EARLY_MS - 1)] == [
        None,
        "issued in the future",
    ]
