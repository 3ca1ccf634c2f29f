"""What may still be kept when the store fills up: routine evidence gives way first, proof of what was done never."""

import dataclasses
from dataclasses import dataclass
from enum import IntEnum

from ccagent.store import Tx
from ccshared.entries import Draft
from ccshared.vocabulary import Kind

ROUTINE = frozenset({Kind.CHECK_RUN})
# Once something was refused, so much must be free before routine evidence is taken again: no flapping at the edge.
_ROOM_AGAIN_PERCENT = 93
# While so many pages are free before anyone is warned, so many entries may follow one another without the file being
# asked for its length: an entry, with what is written beside it, takes far less than a 64th of that (128 MiB).
_UNASKED, _ROOMY_PAGES = 64, 32_768
_ROOMY = "roomy for"
# Carried over from a log that ended, so it takes the place of what is there already.
_ALWAYS = frozenset({Kind.RECOVERED, Kind.GAP, Kind.GENESIS})


class NoRoomError(Exception):
    """There is no room for this kind of evidence."""


class Fullness(IntEnum):
    """How full the store is, in percent of its budget; each word is where another thing stops."""

    ROOMY = 0
    WARN = 80
    NO_ROUTINE = 95
    NO_REPAIRS = 99
    FULL = 100


@dataclass(frozen=True)
class Refused:
    """Routine evidence that was not kept and not yet told of: how often, and when first and last (ms UTC)."""

    count: int
    first_at_ms: int
    last_at_ms: int


@dataclass(frozen=True)
class Room:
    """How much of the budget is in use, and whether the disk still has its last reserve."""

    used_bytes: int
    budget_bytes: int
    used_percent: int
    has_ballast: bool


def room(tx: Tx) -> Room:
    """Return how full the store is, for people."""
    size: int = tx.execute("PRAGMA page_size").fetchone()[0]
    pages: int = tx.execute("PRAGMA page_count").fetchone()[0]
    free: int = tx.execute("PRAGMA freelist_count").fetchone()[0]
    return Room((pages - free) * size, tx.budget_pages * size, used_percent(tx), tx.has_ballast)


def used_percent(tx: Tx) -> int:
    """Return how much of the budget is in use, in whole percent, rounded down."""
    pages: int = tx.execute("PRAGMA page_count").fetchone()[0]
    if pages * 100 < tx.budget_pages * Fullness.WARN:
        return pages * 100 // tx.budget_pages
    free: int = tx.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * 100 // tx.budget_pages


def fullness(tx: Tx) -> Fullness:
    """Return how full the store is; a disk that others filled counts as 95 % and more, however small the store is."""
    used = used_percent(tx)
    found = max(step for step in Fullness if used >= step)
    if tx.has_ballast:
        return found
    return max(found, Fullness.NO_ROUTINE if tx.has_room else Fullness.FULL)


def may_repair(tx: Tx) -> bool:
    """Return whether a repair may be started: there is room to prove how it ends."""
    return fullness(tx) < Fullness.NO_REPAIRS


def takes(tx: Tx, kind: str) -> bool:
    """Return whether evidence of this kind is taken now."""
    if _is_roomy(tx):  # and so everything is taken
        return True
    full = fullness(tx)
    if full < Fullness.NO_ROUTINE:
        return kind not in ROUTINE or not _is_refusing(tx)
    return kind in _ALWAYS or (kind not in ROUTINE and full < Fullness.FULL)


def refused(tx: Tx) -> Refused:
    """Return what was refused and is not yet told of."""
    return Refused(*tx.execute("SELECT count, first_at, last_at FROM refused").fetchone())


def count_refused(tx: Tx, at_ms: int) -> None:
    """Count one more entry that was refused, in place."""
    tx.execute(
        """
        UPDATE refused SET count = count + 1, last_at = max(last_at, ?),
            first_at = CASE count WHEN 0 THEN ? ELSE min(first_at, ?) END
        """,
        (at_ms, at_ms, at_ms),
    )


def may_tell(tx: Tx) -> bool:
    """Return whether something was refused, and there is room again to tell of it."""
    return refused(tx).count > 0 and takes(tx, Kind.CHECK_RUN)


def told(tx: Tx, blank: Draft) -> Draft | None:
    """Return the gap that tells what was refused, and count from none again; None while there is nothing to tell.

    To be appended in the same unit. `blank` is a gap without a body.
    """
    if not may_tell(tx):
        return None
    so_far = refused(tx)
    tx.execute("UPDATE refused SET count = 0, first_at = 0, last_at = 0")
    body = {"count": so_far.count, "first": so_far.first_at_ms, "last": so_far.last_at_ms, "reason": "full"}
    return dataclasses.replace(blank, body=body)


def _is_roomy(tx: Tx) -> bool:
    """Return whether far more is free than the next entries can take; asked of the file every 64th time."""
    budget, left = tx.known.get(_ROOMY, (0, 0))
    if budget != tx.budget_pages or left == 0:
        pages: int = tx.execute("PRAGMA page_count").fetchone()[0]
        roomy = (pages + _ROOMY_PAGES) * 100 < tx.budget_pages * Fullness.WARN
        budget, left = tx.budget_pages, _UNASKED if roomy else 0
    tx.known[_ROOMY] = (budget, max(left - 1, 0))
    return left > 0 and tx.has_ballast


def _is_refusing(tx: Tx) -> bool:
    return refused(tx).count > 0 and used_percent(tx) >= _ROOM_AGAIN_PERCENT
