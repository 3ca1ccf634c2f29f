"""Ed25519: the edge rules, from the vectors and by arithmetic of our own."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared import ed25519

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "evidence_log_v1.json").read_text(encoding="utf-8"))
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SEED = bytes(range(32))
Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def decode(encoded: bytes) -> Point | None:
    """RFC 8032, 5.1.3, without reducing y."""
    number = int.from_bytes(encoded, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or (x == 0 and sign):
        return None
    return (P - x if x & 1 != sign else x), y


def has_small_order(point: Point) -> bool:
    for _ in range(3):
        point = add(point, point)
    return point == (0, 1)


def refuses_key(key: bytes) -> bool:
    try:
        ed25519.check_key(key)
    except ed25519.BadKeyError:
        return True
    return False


def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        ed25519.verify(key, message, signature)
    except (ed25519.BadKeyError, ed25519.BadSignatureError):
        return False
    return True


@pytest.mark.parametrize("case", VECTORS["keys_refused"], ids=lambda case: f"{case['why']} {case['key'][:8]}")
def test_a_refused_key_is_no_point_or_of_small_order_by_arithmetic_too(case: dict[str, str]) -> None:
    point = decode(bytes.fromhex(case["key"]))
    assert point is None or has_small_order(point)
    assert refuses_key(bytes.fromhex(case["key"]))


def test_every_point_of_small_order_is_refused_in_every_encoding() -> None:
    torsion = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    generator = decode(torsion)
    assert generator is not None
    point, seen = (0, 1), set[Point]()
    for _ in range(8):
        point = add(point, generator)
        seen.add(point)
        for y in (point[1], point[1] + P):
            for sign in (0, 1):
                if y < 2**255:
                    assert refuses_key((y | sign << 255).to_bytes(32, "little"))
    assert len(seen) == 8


@pytest.mark.parametrize("y", range(P, 2**255))
def test_every_y_of_p_or_more_is_refused(y: int) -> None:
    for sign in (0, 1):
        assert refuses_key((y | sign << 255).to_bytes(32, "little"))


@pytest.mark.parametrize("case", VECTORS["signatures"], ids=lambda case: case["why"])
def test_a_signature_is_judged_as_the_vectors_say(case: dict[str, Any]) -> None:
    key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["signature"])
    assert verifies(key, case["message"].encode(), signature) is case["valid"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_a_signature_verifies_and_is_always_the_same(seed: bytes, message: bytes) -> None:
    signature = ed25519.sign(seed, message)
    assert verifies(ed25519.public_key(seed), message, signature)
    assert ed25519.sign(seed, message) == signature


def test_every_changed_bit_of_a_signature_is_refused() -> None:
    key, good = ed25519.public_key(SEED), ed25519.sign(SEED, b"m")
    for bit in range(512):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verifies(key, b"m", bytes(changed))


def test_s_with_multiples_of_the_order_added_is_refused() -> None:
    key, good = ed25519.public_key(SEED), ed25519.sign(SEED, b"m")
    s = int.from_bytes(good[32:], "little")
    for multiple in range(1, 16):
        if s + multiple * L < 2**256:
            assert not verifies(key, b"m", good[:32] + (s + multiple * L).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    assert refuses_key(bytes([9]) * length)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)], ids=len)
def test_a_signature_of_another_length_or_all_zero_is_refused(signature: bytes) -> None:
    assert not verifies(ed25519.public_key(SEED), b"m", signature)


def test_a_key_that_is_no_point_verifies_nothing() -> None:
    key = next(encoded for y in range(2, 40) if decode(encoded := y.to_bytes(32, "little")) is None)
    assert not verifies(key, b"m", ed25519.sign(SEED, b"m"))


def test_seeds_are_fresh() -> None:
    assert len({ed25519.new_seed() for _ in range(20)}) == 20
