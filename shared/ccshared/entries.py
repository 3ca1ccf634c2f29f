"""Evidence entries: the ten members of a payload, made and read strictly."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ccshared import canonical, merkle
from ccshared.vocabulary import Clock, Kind

GENESIS_PREV = "0" * 64
MAX_RECOVERED_BYTES = 520 * 1024


class BadEntryError(ValueError):
    """The payload is not the entry that belongs at this place of this log."""


@dataclass(frozen=True)
class Entry:
    """One entry as sealed: `payload` are the bytes, `leaf` their 32-byte hash; `at` is ms since 1970, UTC."""

    log: str
    seq: int
    kind: str
    bundle_id: str
    at: int
    clock: str
    body: dict[str, Any]
    payload: bytes
    leaf: bytes


@dataclass(frozen=True)
class Draft:
    """What a producer wants sealed; the log adds its place and the previous leaf."""

    kind: Kind
    bundle_id: str
    at: int
    clock: Clock
    salt: str
    body: dict[str, Any]


def seal(draft: Draft, log: str, seq: int, prev: str) -> Entry:
    """Return the entry for place `seq` of `log`, after the leaf `prev` (hex); BadEntryError when the draft is unfit."""
    members = {
        "v": 1,
        "log": log,
        "seq": seq,
        "prev": prev,
        "kind": str(draft.kind),
        "id": draft.bundle_id,
        "at": draft.at,
        "clock": str(draft.clock),
        "salt": draft.salt,
        "body": draft.body,
    }
    try:
        payload = canonical.write(members, _limit(members["kind"]))
    except canonical.NotCanonicalError as error:
        raise BadEntryError(str(error)) from error
    return _entry(members, payload)  # what was written canonically need not be read again


def read(payload: bytes, log: str, seq: int, prev: str) -> Entry:
    """Return the entry that these bytes are; BadEntryError unless it is exactly that place of exactly that log."""
    try:
        members = canonical.read(payload, MAX_RECOVERED_BYTES)
    except canonical.NotCanonicalError as error:
        raise BadEntryError(str(error)) from error
    entry = _entry(members, payload)
    if (members["log"], members["seq"], members["prev"]) != (log, seq, prev):
        raise BadEntryError("belongs to another log or place")
    return entry


def _entry(members: dict[str, Any], payload: bytes) -> Entry:
    _check_shape(members)
    if len(payload) > _limit(members["kind"]):
        raise BadEntryError(f"longer than {canonical.MAX_BYTES} bytes")
    seq = members["seq"]
    if (members["kind"] == Kind.GENESIS) != (seq == 0) or (seq == 0 and members["prev"] != GENESIS_PREV):
        raise BadEntryError("genesis stands at the start and nowhere else")
    return Entry(
        log=members["log"],
        seq=seq,
        kind=members["kind"],
        bundle_id=members["id"],
        at=members["at"],
        clock=members["clock"],
        body=members["body"],
        payload=payload,
        leaf=merkle.leaf_hash(payload),
    )


def _limit(kind: object) -> int:
    """A recovered entry carries a whole old payload as a string, so it may be twice as long."""
    return MAX_RECOVERED_BYTES if kind == Kind.RECOVERED else canonical.MAX_BYTES


def _check_shape(members: dict[str, Any]) -> None:
    if members.keys() != _FORMS.keys():
        raise BadEntryError("not exactly the ten members")
    for name, fits in _FORMS.items():
        if not fits(members[name]):
            raise BadEntryError(f"{name} has another form")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _whole(pattern: str) -> Callable[[object], bool]:
    matches = re.compile(pattern).fullmatch
    return lambda value: type(value) is str and matches(value) is not None


# true and 1.0 equal 1, and StrEnum members equal their text: every form asks for the exact type first.
_FORMS: dict[str, Callable[[object], bool]] = {
    "v": lambda value: type(value) is int and value == 1,
    "log": lambda value: type(value) is str,
    "seq": _is_count,
    "prev": _whole("[0-9a-f]{64}"),
    "kind": _whole("[a-z_]{1,32}"),
    "id": _whole("[0-9a-f]{32}"),
    "at": _is_count,
    "clock": _whole("|".join(Clock)),
    "salt": _whole("[0-9a-f]{32}"),
    "body": lambda value: type(value) is dict,
}
