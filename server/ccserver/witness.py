"""The witness's rule: what of a batch is new, and whether it may be cosigned. Values in, values out.

One log row, locked, and one batch; whatever does not fit raises the error that the field would say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccserver import errors
from ccshared import canonical, entries, merkle, notes
from ccshared.batch import Batch, Stub
from ccshared.vocabulary import Kind, StubReason


@dataclass(frozen=True)
class Log:
    """A log as stored: `compact` are the right-edge roots over its `size` leaves, each 32 bytes.

    `held_size` and `held_root` are set while the appliance's own receipt shows that this server once held more.
    `is_proved` is False when the database was restored since the appliance last showed its newest receipt.
    """

    id: int
    epoch: str
    origin: str
    public_key: bytes
    size: int
    last_leaf: bytes | None
    compact: Sequence[bytes]
    checkpoint: str | None
    cosigned_at: int | None
    witness_name: str | None
    held_size: int | None = None
    held_root: bytes | None = None
    is_proved: bool = True


@dataclass(frozen=True)
class Line:
    """One new line of a log: an entry, or the bare leaf of a stub with its reason."""

    seq: int
    leaf: bytes
    entry: entries.Entry | None
    missing_reason: str | None


@dataclass(frozen=True)
class Held:
    """What the appliance holds a receipt for."""

    size: int
    root: bytes


@dataclass(frozen=True)
class Step:
    """What to store: `lines` from the log's size on, then its new size, compact range and checkpoint.

    `held` is what must be reached before anything is cosigned; None when this step may be.
    """

    lines: Sequence[Line]
    size: int
    compact: Sequence[bytes]
    checkpoint: str
    held: Held | None


class ForkError(errors.LogForkError):
    """Another entry is stored at this place of the log; both are kept."""

    def __init__(self, seq: int, leaf: bytes, payload: bytes | None, checkpoint: str) -> None:
        super().__init__(None, seq=seq)
        self.seq, self.leaf, self.payload, self.checkpoint = seq, leaf, payload, checkpoint


def examine(log: Log, batch: Batch, stored: Sequence[bytes], witnesses: Mapping[str, bytes]) -> Step | None:
    """Return the step that stores what is new of a batch, or None when nothing is.

    `stored` are the leaves from `batch.first` up to the batch's end or the log's, whichever comes first.
    Raises LogGapError, ForkError, CheckpointInvalidError, EntryInvalidError, RootMismatchError, HeldNeededError
    or HeldConflictError.
    """
    if batch.first > log.size:
        raise errors.LogGapError(None, expected_seq=log.size)
    checkpoint = _read_checkpoint(log, batch)
    _compare_stored(batch, stored)
    new = batch.lines[len(stored) :]
    if not new:
        return None
    if not log.is_proved:
        _demand_receipt(log, batch, witnesses)
    held = _held(log, batch, witnesses)
    lines = _read_lines(log, new, known=held is not None)
    compact = _extend(log, lines, held)
    if merkle.root_of(compact) != checkpoint.root:
        raise errors.RootMismatchError
    still_held = held if held is not None and held.size > checkpoint.size else None
    return Step(lines, checkpoint.size, compact, batch.checkpoint, still_held)


def begun_by(batch: Batch, origin: str, witnesses: Mapping[str, bytes]) -> bytes | None:
    """Return the key of a log that this server receipted before, and of which it may have no row any more.

    The genesis names the key, and the receipt shown as held is by it and one of `witnesses`; None where that is not
    so. Nothing is cosigned before the root of that receipt is reached: a genesis that was not receipted gains nothing.
    """
    if batch.first or batch.held is None or not batch.lines or isinstance(batch.lines[0], Stub):
        return None
    try:
        key = bytes.fromhex(str(entries.read(batch.lines[0], origin, 0, entries.GENESIS_PREV).body.get("public_key")))
        shown = notes.read_receipt(batch.held, key, dict(witnesses)).checkpoint
    except ValueError:  # every "this is none" of ours is one
        return None
    return key if shown.origin == origin and shown.size else None


def _read_checkpoint(log: Log, batch: Batch) -> notes.Checkpoint:
    try:
        checkpoint = notes.read_checkpoint(batch.checkpoint, log.public_key)
    except notes.BadNoteError as error:
        raise errors.CheckpointInvalidError(f"The checkpoint is refused: {error}.") from error
    if checkpoint.origin != log.origin or checkpoint.size != batch.end:
        raise errors.CheckpointInvalidError
    return checkpoint


def _compare_stored(batch: Batch, stored: Sequence[bytes]) -> None:
    for place, leaf in enumerate(stored):
        line = batch.lines[place]
        sent = line.leaf if isinstance(line, Stub) else merkle.leaf_hash(line)
        if sent != leaf:
            payload = None if isinstance(line, Stub) or not _is_canonical(line) else line
            raise ForkError(batch.first + place, sent, payload, batch.checkpoint)


def _is_canonical(payload: bytes) -> bool:
    """Whether the bytes could be an entry's; what could not is known by its leaf and checkpoint alone."""
    try:
        canonical.read(payload)
    except canonical.NotCanonicalError:
        return False
    return True


def _read_lines(log: Log, new: Sequence[bytes | Stub], *, known: bool) -> list[Line]:
    """Return the new lines; `known` says that this witness has receipted the log before, and with it its genesis."""
    prev = log.last_leaf.hex() if log.last_leaf else entries.GENESIS_PREV
    lines: list[Line] = []
    for seq, sent in enumerate(new, log.size):
        if lines and lines[-1].entry and lines[-1].entry.kind == Kind.KEY_ROTATION:
            raise errors.EntryInvalidError("An entry that names a new key is the last of its log.", seq=seq)
        if seq == 0 and isinstance(sent, Stub) and not (known and sent.why == StubReason.PRUNED):
            raise errors.EntryInvalidError("A log begins with a genesis entry, not with a stub.", seq=0)
        line = _read_line(log, seq, sent, prev)
        lines.append(line)
        prev = line.leaf.hex()
    return lines


def _read_line(log: Log, seq: int, sent: bytes | Stub, prev: str) -> Line:
    if isinstance(sent, Stub):
        return Line(seq, sent.leaf, None, str(sent.why))
    try:
        entry = entries.read(sent, log.origin, seq, prev)
    except entries.BadEntryError as error:
        raise errors.EntryInvalidError(f"Entry {seq} is refused: {error}.", seq=seq) from error
    if seq == 0 and entry.body.get("public_key") != log.public_key.hex():
        raise errors.EntryInvalidError("The genesis entry names another key than the registered one.", seq=0)
    return Line(seq, entry.leaf, entry, None)


def _held(log: Log, batch: Batch, witnesses: Mapping[str, bytes]) -> Held | None:
    """What must be reached before anything is cosigned: the larger of the row's and the batch's, if beyond the row."""
    found = Held(log.held_size, log.held_root) if log.held_size is not None and log.held_root is not None else None
    shown = _shown(log, batch, witnesses)
    if shown is None or shown.size <= max(log.size, found.size if found else 0):
        return found
    return shown


def _shown(log: Log, batch: Batch, witnesses: Mapping[str, bytes]) -> Held | None:
    """What the batch shows to be held of this log; None for nothing, and for what is not ours: it proves nothing."""
    if batch.held is None:
        return None
    try:
        shown = notes.read_receipt(batch.held, log.public_key, dict(witnesses)).checkpoint
    except notes.BadNoteError:
        return None
    return Held(shown.size, shown.root) if shown.origin == log.origin else None


def _demand_receipt(log: Log, batch: Batch, witnesses: Mapping[str, bytes]) -> None:
    """Refuse to go on unless a receipt is shown that reaches as far as the log, and over the same entries."""
    shown = _shown(log, batch, witnesses)
    if log.size == 0:
        return
    if shown is None or shown.size < log.size:
        raise errors.HeldNeededError
    if shown.size == log.size and shown.root != merkle.root_of(log.compact):
        raise errors.HeldConflictError


def _extend(log: Log, lines: Sequence[Line], held: Held | None) -> list[bytes]:
    leaves = [line.leaf for line in lines]
    size, compact = log.size, list(log.compact)
    if held is not None and size < held.size <= size + len(leaves):
        until = held.size - size
        size, compact = merkle.extend(size, compact, leaves[:until])
        if merkle.root_of(compact) != held.root:
            raise errors.HeldConflictError
        leaves = leaves[until:]
    return merkle.extend(size, compact, leaves)[1]
