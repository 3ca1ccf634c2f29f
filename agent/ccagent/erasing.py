"""Erasing a payload by order: its row stays, empty, and a redaction entry tells of it in the same commit.

Only what the server has a receipt for, or has in the log that carries it, is erased; wherever the same entry lies here
it goes at once, or nothing does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccagent import evidence, leaves, queue, withholding
from ccagent.evidence import Stamp
from ccagent.queue import Epoch
from ccagent.store import Tx
from ccshared import canonical, entries
from ccshared.entries import Draft
from ccshared.erasure import KEPT, Erasure
from ccshared.vocabulary import Kind


class WrongTargetError(Exception):
    """What is to be erased is not what stands there, or is never erased; the message says which."""


class NotReceiptedError(Exception):
    """The server has no receipt yet for what is to be erased, or for a copy of it."""


@dataclass(frozen=True)
class Target:
    """A place whose payload goes, with what stays of it; `bundle_id` is None where only the leaf was left."""

    epoch: str
    origin: str
    seq: int
    leaf: bytes
    bundle_id: str | None
    bytes_: int
    created_at: int


def find(tx: Tx, wanted: Erasure) -> list[Target]:
    """Return every place where the entry's payload is still to be erased: none when that was done before.

    WrongTargetError, NotReceiptedError, or DamagedLogError when a payload is not what was sealed.
    """
    epochs = queue.all_epochs(tx)
    log = next((one for one in epochs if one.epoch == wanted.log), None)
    if log is None:
        raise WrongTargetError(f"there is no log {wanted.log} here")
    leaf = bytes.fromhex(wanted.leaf)
    if leaves.erased(tx, log.epoch, wanted.seq, wanted.seq + 1):
        return _done_before(tx, log, wanted, leaf)
    row = _row(tx, log, wanted.seq)
    if row is None:
        return [_without_payload(tx, log, wanted.seq, leaf)]
    target, payload = row
    if target.leaf != leaf:
        raise WrongTargetError(f"entry {wanted.seq} of {wanted.log} has another leaf")
    content = _content(target, payload)
    copies = [one for epoch in epochs if epoch != log for one in _copies(tx, epoch, target, content)]
    for epoch, one in [(log, target), *copies]:
        _check_receipted(tx, epoch, one.seq)
    return [target, *(one for _, one in copies)]


def drafts(stamp: Stamp, targets: Sequence[Target], wanted: Erasure) -> list[Draft]:
    """Return the redaction entries that tell of the places, one each.

    They name the redaction and not its words: these entries stay for ever, and the server's audit log has the words.
    """
    reason = f"redaction {wanted.redaction}, approved by two persons"
    return [
        evidence.redaction(stamp, {"log": one.origin, "seq": one.seq, "leaf": one.leaf.hex(), "reason": reason})
        for one in targets
    ]


def erase(tx: Tx, wanted: Erasure, targets: Sequence[Target], told: Sequence[Draft]) -> None:
    """Empty the rows and append what tells of it, in the caller's unit. NotReceiptedError when the places changed."""
    if find(tx, wanted) != list(targets):
        raise NotReceiptedError("the log changed meanwhile")
    tx.execute("PRAGMA secure_delete = ON")  # what goes is overwritten, not only let go; many builds do so anyway
    for one, draft in zip(targets, told, strict=True):
        tx.execute(
            """
            INSERT INTO erasures (epoch, seq, bundle_id, leaf, bytes, created_at, redaction, erased_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (one.epoch, one.seq, one.bundle_id, one.leaf, one.bytes_, one.created_at, wanted.redaction, draft.at),
        )
        tx.execute("UPDATE queued_evidence SET bundle_json = x'' WHERE epoch = ? AND seq = ?", (one.epoch, one.seq))
        queue.append(tx, draft)


def _done_before(tx: Tx, log: Epoch, wanted: Erasure, leaf: bytes) -> list[Target]:
    left = leaves.erased(tx, log.epoch, wanted.seq, wanted.seq + 1)[wanted.seq]
    if left.leaf != leaf:
        raise WrongTargetError(f"entry {wanted.seq} of {wanted.log} has another leaf")
    return []


def _without_payload(tx: Tx, log: Epoch, seq: int, leaf: bytes) -> Target:
    """Return a place that retention left only the leaf of: nothing goes, and it is told that nothing is there."""
    if leaves.kept(tx, log.epoch, seq, seq + 1) != [leaf]:
        raise WrongTargetError(f"entry {seq} of {log.epoch} is not here, or has another leaf")
    return Target(log.epoch, log.origin, seq, leaf, None, 0, 0)


def _row(tx: Tx, log: Epoch, seq: int) -> tuple[Target, bytes] | None:
    row = tx.execute(
        "SELECT leaf, bundle_id, bundle_json, created_at FROM queued_evidence WHERE epoch = ? AND seq = ?",
        (log.epoch, seq),
    ).fetchone()
    return _target(log, seq, row) if row else None


def _target(log: Epoch, seq: int, row: tuple[bytes, str, bytes, int]) -> tuple[Target, bytes]:
    leaf, bundle_id, payload, created_at = row
    leaves.prove(payload, leaf, log.epoch, seq)
    return Target(log.epoch, log.origin, seq, leaf, bundle_id, len(payload), created_at), payload


def _content(target: Target, payload: bytes) -> str:
    """Return the leaf (hex) of the entry as it was first sealed; WrongTargetError for a kind that verifiers need."""
    members: dict[str, Any] = canonical.read(payload, entries.MAX_RECOVERED_BYTES)
    kind, content = members["kind"], target.leaf.hex()
    if kind == Kind.RECOVERED:
        content = str(members["body"]["leaf"])
        kind = canonical.read(members["body"]["payload"].encode(), entries.MAX_RECOVERED_BYTES)["kind"]
    if target.seq == 0 or kind in KEPT:
        raise WrongTargetError(f"an entry of kind {kind} is never erased: verifiers need it")
    return content


def _copies(tx: Tx, epoch: Epoch, of: Target, content: str) -> list[tuple[Epoch, Target]]:
    """Return where a log holds the same entry: as it was first sealed, or carried over."""
    row = tx.execute(
        """
        SELECT seq, leaf, bundle_id, bundle_json, created_at FROM queued_evidence AS one
        WHERE epoch = ? AND bundle_id = ?
            AND NOT EXISTS (SELECT 1 FROM erasures WHERE epoch = one.epoch AND seq = one.seq)
        """,
        (epoch.epoch, of.bundle_id),
    ).fetchone()
    if row is None:
        return []
    target, payload = _target(epoch, row[0], row[1:])
    return [(epoch, target)] if _content(target, payload) == content else []


def _check_receipted(tx: Tx, epoch: Epoch, seq: int) -> None:
    """Raise NotReceiptedError unless the server has the payload, or is to have it in the log that carries it."""
    is_carried = epoch.carried_from is not None and seq >= epoch.carried_from
    if (seq >= epoch.watermark and not is_carried) or withholding.places(tx, epoch.epoch, seq, seq + 1):
        raise NotReceiptedError(f"entry {seq} of {epoch.epoch} is not receipted")
