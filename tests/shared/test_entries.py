"""Entries: sealed, read back, and refused anywhere but at their place."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared import canonical, entries, merkle
from ccshared.vocabulary import Clock, Kind

LOG = "cc.example/log/a-1/0-5eed0001"
PREV = "ab" * 32


def draft(kind: Kind = Kind.CHECK_RUN, **body: Any) -> entries.Draft:
    return entries.Draft(kind, "0" * 32, 1_767_225_600_000, Clock.SYNC, "f" * 32, body)


def sealed() -> entries.Entry:
    return entries.seal(draft(status="pass"), LOG, 7, PREV)


def changed(**members: Any) -> bytes:
    return canonical.write({**canonical.read(sealed().payload), **members})


def test_a_sealed_entry_is_read_back_from_its_bytes() -> None:
    entry = sealed()
    assert entries.read(entry.payload, LOG, 7, PREV) == entry
    assert entry.leaf == merkle.leaf_hash(entry.payload)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.data())
def test_a_changed_byte_is_refused_or_has_another_leaf(data: st.DataObject) -> None:
    entry = sealed()
    payload = bytearray(entry.payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = entries.read(bytes(payload), LOG, 7, PREV)
    except entries.BadEntryError:
        return
    assert other.leaf != entry.leaf


@pytest.mark.parametrize(("log", "seq", "prev"), [(LOG + "0", 7, PREV), (LOG, 8, PREV), (LOG, 7, "ba" * 32)])
def test_an_entry_is_refused_at_another_place(log: str, seq: int, prev: str) -> None:
    with pytest.raises(entries.BadEntryError, match="another log or place"):
        entries.read(sealed().payload, log, seq, prev)


WRONG: dict[str, list[Any]] = {
    "v": [True, 2, 0, "1", None, [1]],
    "log": [1, None, [LOG], {"a": LOG}],
    "seq": [True, "7", None, -7, [7]],
    "prev": [PREV.upper(), PREV[:-1], PREV + "0", PREV + "\n", None, 0],
    "kind": ["", "Check_run", "check-run", "check_run\n", "a" * 33, "kind1", None, 1, ["a"]],
    "id": ["F" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "\uff10" * 32, None, 0],
    "at": [True, -1, "1", None, []],
    "clock": ["", "Sync", "sync ", "sync\n", "synced", None, 1, ["sync"]],
    "salt": ["F" * 32, "0" * 31, "", None, 0],
    "body": [[], "", None, 1, True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr
)
def test_a_member_of_another_form_is_refused(name: str, value: Any) -> None:
    with pytest.raises(entries.BadEntryError):
        entries.read(changed(**{name: value}), LOG, 7, PREV)


def test_exactly_the_ten_members_may_stand() -> None:
    members = canonical.read(sealed().payload)
    for name in members:
        fewer = {key: value for key, value in members.items() if key != name}
        with pytest.raises(entries.BadEntryError, match="ten members"):
            entries.read(canonical.write(fewer), LOG, 7, PREV)
    with pytest.raises(entries.BadEntryError, match="ten members"):
        entries.read(changed(extra=1), LOG, 7, PREV)


def test_true_as_seq_of_the_second_entry_is_refused() -> None:
    payload = entries.seal(draft(), LOG, 1, PREV).payload.replace(b'"seq":1', b'"seq":true')
    with pytest.raises(entries.BadEntryError):
        entries.read(payload, LOG, 1, PREV)


def test_the_same_value_written_by_another_program_is_refused() -> None:
    payload = json.dumps(json.loads(sealed().payload)).encode()
    with pytest.raises(entries.BadEntryError):
        entries.read(payload, LOG, 7, PREV)


def test_genesis_stands_at_the_start_and_nowhere_else() -> None:
    assert entries.seal(draft(Kind.GENESIS), LOG, 0, entries.GENESIS_PREV).seq == 0
    for kind, seq, prev in (
        (Kind.CHECK_RUN, 0, entries.GENESIS_PREV),
        (Kind.GENESIS, 1, PREV),
        (Kind.GENESIS, 0, PREV),
    ):
        with pytest.raises(entries.BadEntryError, match="genesis"):
            entries.seal(draft(kind), LOG, seq, prev)


def test_an_unknown_kind_is_read() -> None:
    assert entries.read(changed(kind="something_new"), LOG, 7, PREV).kind == "something_new"


def test_only_a_recovered_entry_may_be_longer_than_256_kib() -> None:
    text = "x" * canonical.MAX_BYTES
    assert len(entries.seal(draft(Kind.RECOVERED, payload=text), LOG, 7, PREV).payload) > canonical.MAX_BYTES
    with pytest.raises(entries.BadEntryError, match="longer"):
        entries.seal(draft(text=text), LOG, 7, PREV)
    with pytest.raises(entries.BadEntryError, match="longer"):
        entries.seal(draft(Kind.RECOVERED, payload=text * 3), LOG, 7, PREV)


def test_a_recovered_entry_renamed_to_pass_as_another_kind_is_refused() -> None:
    long = entries.seal(draft(Kind.RECOVERED, payload="x" * canonical.MAX_BYTES), LOG, 7, PREV)
    payload = long.payload.replace(b'"kind":"recovered"', b'"kind":"heartbeat"')
    with pytest.raises(entries.BadEntryError, match="longer"):
        entries.read(payload, LOG, 7, PREV)


@pytest.mark.parametrize("body", [{"a": 1.5}, {"A": 1}, {"a": 2**53}, {"a": "\ud800"}, {"a": ...}], ids=ascii)
def test_a_body_without_canonical_form_is_not_sealed(body: dict[str, Any]) -> None:
    with pytest.raises(entries.BadEntryError):
        entries.seal(entries.Draft(Kind.CHECK_RUN, "0" * 32, 1, Clock.SYNC, "f" * 32, body), LOG, 7, PREV)
