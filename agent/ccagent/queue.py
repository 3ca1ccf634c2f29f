"""The evidence queue: logs of sealed entries that are only ever added to, and one watermark each.

Size, last leaf and compact range derive from the last row and from a range saved every 256 entries, so nothing is
kept in memory that an error could make wrong.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ccagent import budget, leaves
from ccagent.head_mark import HeadMark
from ccagent.leaves import BeyondLogError, DamagedLogError
from ccagent.store import Tx
from ccshared import canonical, entries, merkle
from ccshared.batch import Stub
from ccshared.entries import Draft, Entry
from ccshared.vocabulary import Kind, StubReason

RANGE_EVERY = leaves.BLOCK
_OPEN_LOG = "open log"


class NoEpochError(Exception):
    """No epoch is open: the appliance is not enrolled yet."""


class EpochOpenError(Exception):
    """An epoch is open already; close it before another is opened."""


class OtherContentError(Exception):
    """The bundle id stands in the log already, with other content."""


@dataclass(frozen=True)
class Epoch:
    """A log: `<number>-<8 hex>`, its origin, its key (hex), how many entries are receipted, and the newest receipt.

    Where it ended early, `carried_from` is the entry from which on its successor carries it: those are not sent here.
    """

    epoch: str
    origin: str
    public_key: str
    opened_at_ms: int
    watermark: int = 0
    receipt: str | None = None
    closed_at_ms: int | None = None
    carried_from: int | None = None

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
    """What the open log holds, and what waits for a receipt in it and in logs that ended.

    `epoch` is None before enrolment.

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


class _Waiting(NamedTuple):
    """What of one log waits: entries, bytes, and the oldest one's time (ms UTC)."""

    entries: int
    bytes: int
    oldest_at_ms: int | None


class _OpenLog(NamedTuple):
    """The open log as the last row left it: where the next entry stands, and what it follows."""

    epoch: str
    origin: str
    size: int
    last_leaf_hex: str
    total_bytes: int


def open_epoch(tx: Tx, epoch: Epoch, genesis: Draft) -> Entry:
    """Begin a log with its genesis and return that entry; EpochOpenError while another is open."""
    if _open_log(tx) is not None:
        raise EpochOpenError(EpochOpenError.__doc__)
    tx.known.pop(_OPEN_LOG, None)
    tx.execute(
        "INSERT INTO epochs (epoch, number, origin, public_key, opened_at) VALUES (?, ?, ?, ?, ?)",
        (epoch.epoch, epoch.number, epoch.origin, epoch.public_key, epoch.opened_at_ms),
    )
    return append(tx, genesis)


def close_epoch(tx: Tx, epoch: str, at_ms: int, reason: str) -> None:
    """End a log; what of it waits can still be uploaded."""
    tx.known.pop(_OPEN_LOG, None)
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

    NoEpochError before enrolment, NoRoomError when its kind is not taken any more, OtherContentError when its bundle
    id stands for something else, BadEntryError when it is unfit.
    """
    log = _open_log(tx)
    if log is None:
        raise NoEpochError(NoEpochError.__doc__)
    if not budget.takes(tx, draft.kind):
        return _stored(tx, log, draft, budget.NoRoomError(f"the store is too full for a {draft.kind}"))
    try:
        entry = entries.seal(draft, log.origin, log.size, log.last_leaf_hex)
    except entries.BadEntryError as error:
        return _stored(tx, log, draft, error)
    total = log.total_bytes + len(entry.payload)
    inserted = tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (epoch, bundle_id) DO NOTHING
        """,
        (log.epoch, log.size, entry.bundle_id, entry.payload, entry.leaf, total, entry.at),
    )
    if inserted.rowcount == 0:
        return _stored(tx, log, draft, OtherContentError(OtherContentError.__doc__))
    leaf_hex = entry.leaf.hex()
    if (log.size + 1) % RANGE_EVERY == 0:
        leaves.save_range(tx, log.epoch, log.size + 1)
    tx.known[_OPEN_LOG] = _OpenLog(log.epoch, log.origin, log.size + 1, leaf_hex, total)
    tx.head_mark = HeadMark(log.epoch, log.size + 1, leaf_hex)
    return entry


def offer(tx: Tx, draft: Draft) -> Entry | None:
    """Append routine evidence, or count that there was no room for it and return None. Errors are those of append."""
    try:
        return append(tx, draft)
    except budget.NoRoomError:
        budget.count_refused(tx, draft.at)
        return None


def tell_of_refused(tx: Tx, gap: Draft) -> Entry | None:
    """Append, once there is room again, a gap that tells how much was refused; None while there is nothing to tell.

    `gap` is one without a body.
    """
    told = budget.told(tx, gap) if _open_log(tx) is not None else None
    return append(tx, told) if told is not None else None


def carry_over(tx: Tx, old: str, from_seq: int, recovered: Callable[[bytes], Draft]) -> int:
    """Carry the rows of a log that ended, from `from_seq` on and in order, into the open one; return how many.

    `recovered` makes the draft that carries a payload. What was carried before is not carried twice, what was erased
    not at all. DamagedLogError when a row is not what was put there.
    """
    tx.execute(
        "UPDATE epochs SET carried_from = ? WHERE epoch = ? AND carried_from IS NULL AND closed_at IS NOT NULL",
        (from_seq, old),
    )
    rows = tx.execute(
        """
        SELECT seq, bundle_json, leaf FROM queued_evidence AS one WHERE epoch = ? AND seq >= ?
            AND NOT EXISTS (SELECT 1 FROM erasures WHERE epoch = one.epoch AND seq = one.seq) ORDER BY seq
        """,
        (old, from_seq),
    )
    return carry(tx, (_proved(old, *row) for row in rows), recovered)


def carry(tx: Tx, payloads: Iterable[bytes], recovered: Callable[[bytes], Draft]) -> int:
    """Carry payloads of a log that ended into the open one, in order; return how many were not there yet."""
    log = _open_log(tx)
    if log is None:
        raise NoEpochError(NoEpochError.__doc__)
    count = 0
    for payload in payloads:
        draft = recovered(payload)
        if _place_of(tx, log.epoch, draft.bundle_id) is None:
            append(tx, draft)
            count += 1
    return count


def head(tx: Tx) -> Head:
    """Return the open log's head; NoEpochError before enrolment."""
    opened = _open_epoch(tx)
    if opened is None:
        raise NoEpochError(NoEpochError.__doc__)
    size, last_leaf, _ = _last(tx, opened[0])
    return Head(size, last_leaf, leaves.compact_at(tx, opened[0], size))


def size_of(tx: Tx, epoch: str) -> int:
    """Return how many entries a log has."""
    return _last(tx, epoch)[0]


def to_deliver(tx: Tx, epoch: Epoch) -> int:
    """Return up to which size a log is to be delivered: all of it, unless its successor carries the rest."""
    return size_of(tx, epoch.epoch) if epoch.carried_from is None else epoch.carried_from


def root_at(tx: Tx, epoch: str, size: int) -> bytes:
    """Return the 32-byte root over the log's first `size` entries.

    BeyondLogError when it has fewer, DamagedLogError when a leaf it takes is not that of its payload.
    """
    return merkle.root_of(leaves.compact_at(tx, epoch, size))


def lines(tx: Tx, epoch: str, first: int, max_lines: int, max_bytes: int) -> list[bytes | Stub]:
    """Return the payloads from `first` on: as many as fit both limits, but one even if it alone is longer.

    Where retention left only the leaf there is a `pruned` stub, and an `erased` one where two persons had the payload
    erased. DamagedLogError when one is missing or is not what was
    sealed, so nothing that was altered is ever sent.
    """
    erased = leaves.erased(tx, epoch, first, first + max_lines)
    found: list[bytes | Stub] = [
        Stub(leaf, StubReason.ERASED if seq in erased else StubReason.PRUNED)
        for seq, leaf in enumerate(leaves.kept(tx, epoch, first, first + max_lines), first)
    ]
    room = max_bytes
    rows = tx.execute(
        """
        SELECT seq, bundle_json, leaf FROM queued_evidence
        WHERE epoch = ? AND seq >= ? ORDER BY seq LIMIT ?
        """,
        (epoch, first + len(found), max_lines - len(found)),
    )
    for seq, payload, leaf in rows:
        if seq != first + len(found):
            raise DamagedLogError(f"entry {first + len(found)} of {epoch} is missing")
        room -= len(payload)
        if room < 0 and found:
            return found
        is_erased = payload == b"" and seq in erased and erased[seq].leaf == leaf
        found.append(Stub(leaf, StubReason.ERASED) if is_erased else _proved(epoch, seq, payload, leaf))
    if len(found) < max_lines and first + len(found) < size_of(tx, epoch):
        raise DamagedLogError(f"entry {first + len(found)} of {epoch} is missing")
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
    """Return what is kept and what waits, in logs that ended too; each number is a look-up of a row or two a log."""
    epoch = current(tx)
    every = [_waiting(tx, one) for one in all_epochs(tx)]
    oldest = [one.oldest_at_ms for one in every if one.oldest_at_ms is not None]
    waiting, waiting_bytes = sum(one.entries for one in every), sum(one.bytes for one in every)
    if epoch is None:
        return QueueStatus(None, None, 0, 0, waiting, waiting_bytes, min(oldest, default=None), None, None, None)
    size = size_of(tx, epoch.epoch)
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
        waiting=waiting,
        waiting_bytes=waiting_bytes,
        oldest_at_ms=min(oldest, default=None),
        newest_at_ms=newest[1] if newest else None,
        last_receipt=epoch.receipt,
        last_receipt_at_ms=arrived[0] if arrived else None,
    )


def _waiting(tx: Tx, epoch: Epoch) -> _Waiting:
    """Return what of a log waits to be receipted in it: what its successor carries waits there."""
    end = to_deliver(tx, epoch)
    if end <= epoch.watermark:
        return _Waiting(0, 0, None)
    receipted, last = _row(tx, epoch.epoch, epoch.watermark - 1), _row(tx, epoch.epoch, end - 1)
    oldest = _row(tx, epoch.epoch, epoch.watermark)
    total = (last[0] if last else 0) - (receipted[0] if receipted else 0)
    return _Waiting(end - epoch.watermark, max(total, 0), oldest[1] if oldest else None)


def _epochs(tx: Tx, *, closed_too: bool) -> list[Epoch]:
    rows = tx.execute(
        """
        SELECT epoch, origin, public_key, opened_at, watermark,
            (SELECT receipt FROM receipts WHERE receipts.epoch = epochs.epoch ORDER BY size DESC LIMIT 1),
            closed_at, carried_from
        FROM epochs WHERE closed_at IS NULL OR ? ORDER BY number, opened_at
        """,
        (closed_too,),
    )
    return [Epoch(*row) for row in rows]


def _open_epoch(tx: Tx) -> tuple[str, str] | None:
    row: tuple[str, str] | None = tx.execute("SELECT epoch, origin FROM epochs WHERE closed_at IS NULL").fetchone()
    return row


def _open_log(tx: Tx) -> _OpenLog | None:
    known: _OpenLog | None = tx.known.get(_OPEN_LOG)
    if known is None:
        opened = _open_epoch(tx)
        if opened is None:
            return None
        size, last_leaf, total = _last(tx, opened[0])
        known = tx.known[_OPEN_LOG] = _OpenLog(*opened, size, last_leaf, total)
    return known


def _place_of(tx: Tx, epoch: str, bundle_id: str) -> tuple[int, bytes] | None:
    row: tuple[int, bytes] | None = tx.execute(
        "SELECT seq, bundle_json FROM queued_evidence WHERE epoch = ? AND bundle_id = ?",
        (epoch, bundle_id),
    ).fetchone()
    return row


def _stored(tx: Tx, log: _OpenLog, draft: Draft, otherwise: Exception) -> Entry:
    """Return the stored entry, after sealing the draft at its place has given the same bytes; else raise."""
    stored = _place_of(tx, log.epoch, draft.bundle_id)
    if stored is None or stored[1] == b"":  # what was erased is not said again
        raise otherwise
    seq, payload = stored
    prev = canonical.read(payload, entries.MAX_RECOVERED_BYTES)["prev"]
    if (draft.kind == Kind.GENESIS) == (seq == 0):
        entry = entries.seal(draft, log.origin, seq, prev)
        if entry.payload == payload:
            return entry
    raise OtherContentError(f"bundle {draft.bundle_id} stands at {seq} with other content")


def _proved(epoch: str, seq: int, payload: bytes, leaf: bytes) -> bytes:
    leaves.prove(payload, leaf, epoch, seq)
    return payload


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
