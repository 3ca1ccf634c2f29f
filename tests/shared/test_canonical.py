"""Canonical JSON: one value, one spelling, and nothing else is read."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared import canonical

KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=1, max_size=64)
LARGEST = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | TEXT
VALUES = st.recursive(
    LEAVES, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3), max_leaves=6
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)

quickly = settings(deadline=None, derandomize=True, max_examples=80)


@quickly
@given(OBJECTS)
def test_what_was_written_is_read_back(value: dict[str, Any]) -> None:
    assert canonical.read(canonical.write(value)) == value


@quickly
@given(OBJECTS)
def test_the_order_in_which_members_were_added_changes_nothing(value: dict[str, Any]) -> None:
    assert canonical.write(dict(reversed(value.items()))) == canonical.write(value)


@quickly
@given(OBJECTS, st.data())
def test_a_changed_byte_is_refused_or_is_another_value(value: dict[str, Any], data: st.DataObject) -> None:
    payload = bytearray(canonical.write(value))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = canonical.read(bytes(payload))
    except canonical.NotCanonicalError:
        return
    assert canonical.write(changed) == payload
    assert canonical.write(changed) != canonical.write(value)


@quickly
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_written_again_alike(data: bytes) -> None:
    try:
        value = canonical.read(data)
    except canonical.NotCanonicalError:
        return
    assert canonical.write(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":-0}',
        b'{"a":-0.0}',
        b'{"a":0.0}',
        b'{"a":1.0}',
        b'{"a":1e5}',
        b'{"a":1E400}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":18446744073709551616}',
        b'{"a":-9007199254740992}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xff"}',
        b'{"a":"\\/"}',
        b'{"a":"\\u0008"}',
        b'{"a":"\\u000B"}',
        b'{"a":"\\u007f"}',
        b'{"a":"\n"}',
        b'{"\\u0061":1}',
        b'{"":1}',
        b'{"a\\n":1}',
        b'{"A":1}',
        b'{"a":{"B":1}}',
        b'{"a":[{"b-c":1}]}',
        b'{"a":[1.5]}',
        b'{"a":[[[{"b":0.5}]]]}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1}\n',
        b' {"a":1}',
        b'{"a":1}{}',
        b'{"a":1}\x00',
        b'{"a":1,}',
        b"[]",
        b"null",
        b"",
    ],
)
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        canonical.read(data)


class Word(str):
    """A text that is not exactly a str."""

    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        [1],
        "a",
        None,
        {1: 2},
        {("a",): 1},
        {"a": 1.0},
        {"a": (1,)},
        {"a": b"b"},
        {"a": {1}},
        {"a": 2**53},
        {"a": -(2**53)},
        {"a": 10**30},
        {"a": "\ud800"},
        {"a": Word("b")},
        {Word("a"): 1},
        {"a": [{"B": 1}]},
        {"a\nb": 1},
        {"a\n": 1},
        {"\n": 1, "a": 1},
        {"": 1},
        {"a" * 65: 1},
    ],
    ids=repr,
)
def test_a_value_without_canonical_form_is_not_written(value: Any) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        canonical.write(value)


def nested(lists: int) -> bytes:
    return b'{"a":' + b"[" * lists + b"]" * lists + b"}"


def test_sixteen_containers_are_read_and_seventeen_are_not() -> None:
    canonical.read(nested(15))
    with pytest.raises(canonical.NotCanonicalError, match="more than 16"):
        canonical.read(nested(16))


@pytest.mark.parametrize("depth", [900, 1_100, 100_000])
def test_hostile_depth_is_refused_without_a_stack(depth: int) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        canonical.read(nested(depth))


def test_hostile_depth_is_not_written_either() -> None:
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(canonical.NotCanonicalError):
        canonical.write(value)
    while value:  # taken apart level by level: freeing it at once would need the stack
        value = value.pop("a")


def test_one_byte_more_than_the_limit_is_refused_both_ways() -> None:
    text = "x" * (canonical.MAX_BYTES - len('{"a":""}'))
    assert len(canonical.write({"a": text})) == canonical.MAX_BYTES
    with pytest.raises(canonical.NotCanonicalError):
        canonical.write({"a": text + "x"})
    with pytest.raises(canonical.NotCanonicalError):
        canonical.read(b'{"a":"%bx"}' % text.encode())
