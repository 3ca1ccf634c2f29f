"""The leaves of a log as the store keeps them, proved against their payloads whenever they are used.

A leaf stands beside its payload for 30 days and longer; after that 256 of them stand in a blob, and the payloads are
gone. Every 256 entries the compact range is saved, so that a root takes at most 256 leaves, however long the log.
"""

from typing import Any, NamedTuple

from ccagent.store import DamagedError, Tx
from ccshared import merkle

BLOCK = 256


class BeyondLogError(Exception):
    """The size lies beyond the log."""


class DamagedLogError(DamagedError):
    """A row of the log is missing or is not what was put there."""


class Erased(NamedTuple):
    """What an erased payload left: its leaf, and how many bytes it had."""

    leaf: bytes
    size: int


def prove(payload: bytes, leaf: bytes, epoch: str, seq: int) -> None:
    """Do nothing when the leaf is the payload's, else raise DamagedLogError."""
    if not isinstance(payload, bytes) or merkle.leaf_hash(payload) != leaf:
        raise DamagedLogError(f"entry {seq} of {epoch} is not what was sealed")


def erased(tx: Tx, epoch: str, first: int, end: int) -> dict[int, Erased]:
    """Return by place what was erased by order from `first` up to `end`."""
    rows = tx.execute(
        "SELECT seq, leaf, bytes FROM erasures WHERE epoch = ? AND seq >= ? AND seq < ?", (epoch, first, end)
    )
    return {seq: Erased(leaf, length) for seq, leaf, length in rows}


def is_erased(tx: Tx, epoch: str, seq: int, payload: bytes, leaf: bytes) -> bool:
    """Return whether a row is empty because its payload was erased by order; any other must be proved by its leaf."""
    if payload != b"":
        return False
    left = erased(tx, epoch, seq, seq + 1).get(seq)
    return left is not None and left.leaf == leaf


def kept(tx: Tx, epoch: str, first: int, end: int) -> list[bytes]:
    """Return the leaves from `first` up to `end` of rows that left, as far as they are kept."""
    found: list[bytes] = []
    rows = tx.execute(
        "SELECT first, leaves FROM kept_leaves WHERE epoch = ? AND first > ? AND first < ? ORDER BY first",
        (epoch, first - BLOCK, end),
    )
    for start, blob in rows:
        at = first + len(found)
        if not start <= at < start + BLOCK:
            break
        found += [blob[i * 32 : i * 32 + 32] for i in range(at - start, min(end - start, BLOCK))]
    return found


def read(tx: Tx, epoch: str, first: int, end: int) -> list[bytes]:
    """Return the leaves from `first` up to `end`, proved where a payload is there; fewer where the log ends."""
    found = kept(tx, epoch, first, end)
    rows = tx.execute(
        """
        SELECT seq, bundle_json, leaf FROM queued_evidence
        WHERE epoch = ? AND seq >= ? AND seq < ? ORDER BY seq
        """,
        (epoch, first + len(found), end),
    )
    for seq, payload, leaf in rows:
        if seq != first + len(found):
            raise DamagedLogError(f"entry {first + len(found)} of {epoch} is missing")
        if not is_erased(tx, epoch, seq, payload, leaf):
            prove(payload, leaf, epoch, seq)
        found.append(leaf)
    return found


def compact_at(tx: Tx, epoch: str, size: int) -> list[bytes]:
    """Return the compact range at `size`: the nearest one saved below, and at most 256 leaves on top.

    BeyondLogError when the log is shorter, DamagedLogError when what it takes is not what was put there.
    """
    saved: tuple[int, Any] | None = tx.execute(
        "SELECT size, compact FROM ranges WHERE epoch = ? AND size <= ? ORDER BY size DESC LIMIT 1",
        (epoch, size),
    ).fetchone()
    at, roots = saved or (0, b"")
    try:
        reached, compact = merkle.extend(
            at, [roots[i : i + 32] for i in range(0, len(roots), 32)], read(tx, epoch, at, size)
        )
    except ValueError as error:
        raise DamagedLogError(f"the saved range of {epoch} at {at} is not one") from error
    if reached != size:
        raise BeyondLogError(f"the log {epoch} does not reach {size} entries")
    return compact


def save_range(tx: Tx, epoch: str, size: int) -> None:
    """Save the compact range at `size`, a multiple of 256."""
    tx.execute(
        "INSERT INTO ranges (epoch, size, compact) VALUES (?, ?, ?)",
        (epoch, size, b"".join(compact_at(tx, epoch, size))),
    )
