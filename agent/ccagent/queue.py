"""The evidence queue: logs of sealed entries that are only ever added to, and one watermark each.

Size, last leaf and compact range derive from the last row and from a range saved every 256 entries, so nothing is
kept in memory that an error could make wrong.
"""

from dataclasses import dataclass
from typing import Any

from ccagent.head_mark import HeadMark
from ccagent.store import Tx
from ccshared import canonical, entries, merkle
from ccshared.entries import Draft, Entry
from ccshared.vocabulary import Kind

RANGE_EVERY = 256


class NoEpochError(Exception):
    """No epoch is open: the appliance is not enrolled yet."""


class EpochOpenError(Exception):
    """An epoch is open already; close it before another is opened."""


class OtherContentError(Exception):
    """The bundle id stands in the log already, with other content."""


class BeyondLogError(Exception):
    """The size lies beyond the log."""


class DamagedLogError(Exception):
    """Rows that must be there are missing from the log."""


@dataclass(frozen=True)
class Epoch:
    """A log: `<number>-<8 hex>`, its origin, its key (hex), how many entries are receipted, and the newest receipt."""

    epoch: str
    origin: str
    public_key: str
    opened_at_ms: int
    watermark: int = 0
    receipt: str | None = None
    closed_at_ms: int | None = None

    @property
    def number(self) -> int:
        """The epoch's number, counted by the appliance."""
        return int(self.epoch.partition("-")[0])


@dataclass(frozen=True)
class Head:
    """A log's size in entries, its last leaf (64 hex; zeros while it is empty), and its compact range."""

    size: int
    last_leaf_hex: str
    compact: list[bytes]


@dataclass(frozen=True)
class HeldReceipt:
    """A receipt that was verified: the entries it covers, its text, when it was cosigned (s) and arrived (ms UTC)."""

    size: int
    text: str
    cosigned_at_s: int
    at_ms: int


@dataclass(frozen=True)
class Destination:
    """How it stands with the server: failures in a row, since when, and when to try again (ms UTC)."""

    retry_count: int
    next_retry_at_ms: int | None
    error_class: str | None
    last_error: str | None
    failing_since_ms: int | None
    last_success_at_ms: int | None


@dataclass(frozen=True)
class Failure:
    """One failure to reach the server: its class, a sentence for people, when it was and when to try again (ms UTC)."""

    error_class: str
    error: str
    at_ms: int
    next_retry_at_ms: int


@dataclass(frozen=True)
class QueueStatus:
    """What the open log holds and what of it waits for a receipt; `epoch` is None before enrolment.

    `oldest_at_ms` is the time of the oldest entry that waits, `last_receipt_at_ms` when the newest receipt arrived.
    """

    epoch: str | None
    origin: str | None
    size: int
    watermark: int
    waiting: int
    waiting_bytes: int
    oldest_at_ms: int | None
    newest_at_ms: int | None
    last_receipt: str | None
    last_receipt_at_ms: int | None


def open_epoch(tx: Tx, epoch: Epoch, genesis: Draft) -> Entry:
    """Begin a log with its genesis and return that entry; EpochOpenError while another is open."""
    if _open_epoch(tx) is not None:
        raise EpochOpenError(EpochOpenError.__doc__)
    tx.execute(
        "INSERT INTO epochs (epoch, number, origin, public_key, opened_at) VALUES (?, ?, ?, ?, ?)",
        (epoch.epoch, epoch.number, epoch.origin, epoch.public_key, epoch.opened_at_ms),
    )
    return append(tx, genesis)


def close_epoch(tx: Tx, epoch: str, at_ms: int, reason: str) -> None:
    """End a log; what of it waits can still be uploaded."""
    tx.execute(
        "UPDATE epochs SET closed_at = ?, closed_reason = ? WHERE epoch = ? AND closed_at IS NULL",
        (at_ms, reason, epoch),
    )


def current(tx: Tx) -> Epoch | None:
    """Return the open log, None before enrolment."""
    found = _epochs(tx, closed_too=False)
    return found[0] if found else None


def all_epochs(tx: Tx) -> list[Epoch]:
    """Return every log this store holds, oldest first."""
    return _epochs(tx, closed_too=True)


def append(tx: Tx, draft: Draft) -> Entry:
    """Seal a draft at the end of the open log and return the entry; the same draft again returns the stored one.

    NoEpochError before enrolment, OtherContentError when its bundle id stands for something else, BadEntryError when
    it is unfit.
    """
    opened = _open_epoch(tx)
    if opened is None:
        raise NoEpochError(NoEpochError.__doc__)
    epoch, origin = opened
    stored = _stored(tx, epoch, draft.bundle_id)
    if stored is not None:
        return _same(draft, origin, *stored)
    seq, prev, total = _last(tx, epoch)
    entry = entries.seal(draft, origin, seq, prev)
    tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (
            epoch,
            seq,
            entry.bundle_id,
            entry.payload,
            entry.leaf,
            total + len(entry.payload),
            entry.at,
        ),
    )
    if (seq + 1) % RANGE_EVERY == 0:
        _save_range(tx, epoch, seq + 1)
    tx.head_mark = HeadMark(epoch, seq + 1, entry.leaf.hex())
    return entry


def head(tx: Tx) -> Head:
    """Return the open log's head; NoEpochError before enrolment."""
    opened = _open_epoch(tx)
    if opened is None:
        raise NoEpochError(NoEpochError.__doc__)
    size, last_leaf, _ = _last(tx, opened[0])
    return Head(size, last_leaf, _compact_at(tx, opened[0], size))


def size_of(tx: Tx, epoch: str) -> int:
    """Return how many entries a log has."""
    return _last(tx, epoch)[0]


def root_at(tx: Tx, epoch: str, size: int) -> bytes:
    """Return the 32-byte root over the log's first `size` entries; BeyondLogError when it has fewer."""
    return merkle.root_of(_compact_at(tx, epoch, size))


def lines(tx: Tx, epoch: str, first: int, max_lines: int, max_bytes: int) -> list[bytes]:
    """Return the payloads from `first` on: as many as fit both limits, but one even if it alone is longer."""
    found: list[bytes] = []
    room = max_bytes
    rows = tx.execute(
        """
        SELECT seq, bundle_json FROM queued_evidence
        WHERE epoch = ? AND seq >= ? ORDER BY seq LIMIT ?
        """,
        (epoch, first, max_lines),
    )
    for seq, payload in rows:
        if seq != first + len(found):
            raise DamagedLogError(f"entry {first + len(found)} of {epoch} is missing")
        room -= len(payload)
        if room < 0 and found:
            break
        found.append(payload)
    return found


def acknowledge(tx: Tx, epoch: str, receipt: HeldReceipt) -> None:
    """Keep a verified receipt and move the watermark up to its size.

    The watermark only moves forward, so an older receipt changes nothing. BeyondLogError when the log is shorter.
    """
    if receipt.size > size_of(tx, epoch):
        raise BeyondLogError(f"a receipt over {receipt.size} entries is beyond the log {epoch}")
    moved = tx.execute(
        "UPDATE epochs SET watermark = ? WHERE epoch = ? AND watermark < ?",
        (receipt.size, epoch, receipt.size),
    )
    if moved.rowcount:
        tx.execute(
            """
            INSERT OR IGNORE INTO receipts (epoch, size, receipt, cosigned_at_s, uploaded_at)
            VALUES (?, ?, ?, ?, ?)
            """,
            (epoch, receipt.size, receipt.text, receipt.cosigned_at_s, receipt.at_ms),
        )


def destination(tx: Tx) -> Destination:
    """Return how it stands with the server."""
    row = tx.execute(
        """
        SELECT retry_count, next_retry_at, error_class, last_error, failing_since, last_success_at
        FROM destination
        """
    ).fetchone()
    return Destination(*row)


def note_failure(tx: Tx, failure: Failure) -> None:
    """Count one more failure in a row."""
    tx.execute(
        """
        UPDATE destination SET retry_count = retry_count + 1, next_retry_at = ?, error_class = ?, last_error = ?,
            failing_since = coalesce(failing_since, ?)
        """,
        (failure.next_retry_at_ms, failure.error_class, failure.error, failure.at_ms),
    )


def note_success(tx: Tx, at_ms: int) -> None:
    """Begin counting failures anew; the last error stays to be read."""
    tx.execute(
        """
        UPDATE destination SET retry_count = 0, next_retry_at = NULL, failing_since = NULL, last_success_at = ?
        """,
        (at_ms,),
    )


def running_since(tx: Tx, at_ms: int) -> int:
    """Return since when (ms UTC) the agent runs on this store; the first to ask, in a write, begins it at `at_ms`."""
    tx.execute("INSERT OR IGNORE INTO running (id, since) VALUES (1, ?)", (at_ms,))
    since: int = tx.execute("SELECT since FROM running").fetchone()[0]
    return since


def status(tx: Tx) -> QueueStatus:
    """Return what is kept and what waits; every number is a look-up of a row or two, however many wait."""
    epoch = current(tx)
    if epoch is None:
        return QueueStatus(None, None, 0, 0, 0, 0, None, None, None, None)
    size, _, total = _last(tx, epoch.epoch)
    receipted = _row(tx, epoch.epoch, epoch.watermark - 1)
    oldest = _row(tx, epoch.epoch, epoch.watermark)
    newest = _row(tx, epoch.epoch, size - 1)
    arrived = tx.execute(
        "SELECT uploaded_at FROM receipts WHERE epoch = ? ORDER BY size DESC LIMIT 1",
        (epoch.epoch,),
    ).fetchone()
    return QueueStatus(
        epoch=epoch.epoch,
        origin=epoch.origin,
        size=size,
        watermark=epoch.watermark,
        waiting=size - epoch.watermark,
        waiting_bytes=total - (receipted[0] if receipted else 0),
        oldest_at_ms=oldest[1] if oldest else None,
        newest_at_ms=newest[1] if newest else None,
        last_receipt=epoch.receipt,
        last_receipt_at_ms=arrived[0] if arrived else None,
    )


def is_behind(tx: Tx, mark: HeadMark) -> bool:
    """Return whether the database lacks what the head mark saw: it was restored from an older copy, or made anew."""
    row = tx.execute(
        "SELECT leaf FROM queued_evidence WHERE epoch = ? AND seq = ?", (mark.epoch, mark.size - 1)
    ).fetchone()
    return row is None or row[0].hex() != mark.leaf


def _epochs(tx: Tx, *, closed_too: bool) -> list[Epoch]:
    rows = tx.execute(
        """
        SELECT epoch, origin, public_key, opened_at, watermark,
            (SELECT receipt FROM receipts WHERE receipts.epoch = epochs.epoch ORDER BY size DESC LIMIT 1),
            closed_at
        FROM epochs WHERE closed_at IS NULL OR ? ORDER BY number, opened_at
        """,
        (closed_too,),
    )
    return [Epoch(*row) for row in rows]


def _open_epoch(tx: Tx) -> tuple[str, str] | None:
    row: tuple[str, str] | None = tx.execute("SELECT epoch, origin FROM epochs WHERE closed_at IS NULL").fetchone()
    return row


def _stored(tx: Tx, epoch: str, bundle_id: str) -> tuple[int, bytes] | None:
    row: tuple[int, bytes] | None = tx.execute(
        "SELECT seq, bundle_json FROM queued_evidence WHERE epoch = ? AND bundle_id = ?",
        (epoch, bundle_id),
    ).fetchone()
    return row


def _same(draft: Draft, origin: str, seq: int, payload: bytes) -> Entry:
    """Return the stored entry, after sealing the draft at its place has given the same bytes."""
    prev = canonical.read(payload, entries.MAX_RECOVERED_BYTES)["prev"]
    if (draft.kind == Kind.GENESIS) == (seq == 0):
        entry = entries.seal(draft, origin, seq, prev)
        if entry.payload == payload:
            return entry
    raise OtherContentError(f"bundle {draft.bundle_id} stands at {seq} with other content")


def _last(tx: Tx, epoch: str) -> tuple[int, str, int]:
    """Return the log's size, its last leaf (hex) and the bytes of all its payloads."""
    row = tx.execute(
        "SELECT seq, leaf, total_bytes FROM queued_evidence WHERE epoch = ? ORDER BY seq DESC LIMIT 1",
        (epoch,),
    ).fetchone()
    return (row[0] + 1, row[1].hex(), row[2]) if row else (0, entries.GENESIS_PREV, 0)


def _row(tx: Tx, epoch: str, seq: int) -> tuple[int, int] | None:
    """Return (total bytes, time) of one row, None when it is not there."""
    row: tuple[int, int] | None = tx.execute(
        "SELECT total_bytes, created_at FROM queued_evidence WHERE epoch = ? AND seq = ?",
        (epoch, seq),
    ).fetchone()
    return row


def _save_range(tx: Tx, epoch: str, size: int) -> None:
    tx.execute(
        "INSERT INTO ranges (epoch, size, compact) VALUES (?, ?, ?)",
        (epoch, size, b"".join(_compact_at(tx, epoch, size))),
    )


def _compact_at(tx: Tx, epoch: str, size: int) -> list[bytes]:
    """Return the compact range at `size`: the nearest one saved below, and at most 256 leaves on top."""
    saved: tuple[int, Any] | None = tx.execute(
        "SELECT size, compact FROM ranges WHERE epoch = ? AND size <= ? ORDER BY size DESC LIMIT 1",
        (epoch, size),
    ).fetchone()
    at, roots = saved or (0, b"")
    leaves = [
        row[0]
        for row in tx.execute(
            "SELECT leaf FROM queued_evidence WHERE epoch = ? AND seq >= ? AND seq < ? ORDER BY seq",
            (epoch, at, size),
        )
    ]
    reached, compact = merkle.extend(at, [roots[i : i + 32] for i in range(0, len(roots), 32)], leaves)
    if reached != size:
        raise BeyondLogError(f"the log {epoch} does not reach {size} entries")
    return compact
