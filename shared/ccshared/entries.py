"""Evidence entries: the ten members of a payload, made and read strictly."""

import re
from dataclasses import dataclass
from typing import Any

from ccshared import canonical, merkle
from ccshared.vocabulary import Clock, Kind

GENESIS_PREV = "0" * 64
MAX_RECOVERED_BYTES = 520 * 1024

_MEMBERS = frozenset({"v", "log", "seq", "prev", "kind", "id", "at", "clock", "salt", "body"})
_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z_]{1,32}")
_CLOCKS = frozenset(Clock)


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
    return read(payload, log, seq, prev)


def read(payload: bytes, log: str, seq: int, prev: str) -> Entry:
    """Return the entry that these bytes are; BadEntryError unless it is exactly that place of exactly that log."""
    try:
        members = canonical.read(payload, MAX_RECOVERED_BYTES)
    except canonical.NotCanonicalError as error:
        raise BadEntryError(str(error)) from error
    _check_shape(members)
    if len(payload) > _limit(members["kind"]):
        raise BadEntryError(f"longer than {canonical.MAX_BYTES} bytes")
    if (members["log"], members["seq"], members["prev"]) != (log, seq, prev):
        raise BadEntryError("belongs to another log or place")
    if (members["kind"] == Kind.GENESIS) != (seq == 0) or (seq == 0 and prev != GENESIS_PREV):
        raise BadEntryError("genesis stands at the start and nowhere else")
    return Entry(
        log=log,
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
    if members.keys() != _MEMBERS:
        raise BadEntryError("not exactly the ten members")
    if not _is_count(members["v"]) or members["v"] != 1:
        raise BadEntryError("v is not 1")
    for name in ("seq", "at"):
        if not _is_count(members[name]):
            raise BadEntryError(f"{name} is not an integer of 0 or more")
    for name, pattern in (("prev", _HEX64), ("id", _HEX32), ("salt", _HEX32), ("kind", _KIND)):
        if type(members[name]) is not str or not pattern.fullmatch(members[name]):
            raise BadEntryError(f"{name} has another form")
    if type(members["log"]) is not str or type(members["body"]) is not dict:
        raise BadEntryError("log is not text, or body not an object")
    if type(members["clock"]) is not str or members["clock"] not in _CLOCKS:
        raise BadEntryError("clock is not sync, unsync or stepped")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
