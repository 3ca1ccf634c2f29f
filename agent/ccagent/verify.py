"""The agent's own log, verified: every row is what was sealed, every log is whole, every receipt is over these rows."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from ccagent import leaves, queue
from ccagent.leaves import DamagedLogError, Erased
from ccagent.queue import Epoch
from ccagent.store import Tx
from ccshared import canonical, ed25519, entries, merkle, notes, purposes
from ccshared.batch import Stub

# SQLite's columns take any type, so a flipped bit can make a text of bytes, or of a number nothing.
_ODD_TYPES = """
    SELECT 1 FROM queued_evidence
    WHERE (typeof(epoch), typeof(seq), typeof(bundle_id), typeof(bundle_json), typeof(leaf), typeof(total_bytes),
        typeof(created_at)) <> ('text', 'integer', 'text', 'blob', 'blob', 'integer', 'integer')
    UNION ALL SELECT 1 FROM epochs
    WHERE (typeof(epoch), typeof(number), typeof(origin), typeof(public_key), typeof(opened_at), typeof(watermark))
        <> ('text', 'integer', 'text', 'text', 'integer', 'integer')
    UNION ALL SELECT 1 FROM receipts
    WHERE (typeof(epoch), typeof(size), typeof(receipt), typeof(cosigned_at_s), typeof(uploaded_at))
        <> ('text', 'integer', 'text', 'integer', 'integer')
    UNION ALL SELECT 1 FROM ranges
    WHERE (typeof(epoch), typeof(size), typeof(compact)) <> ('text', 'integer', 'blob')
    UNION ALL SELECT 1 FROM erasures
    WHERE (typeof(epoch), typeof(seq), typeof(leaf), typeof(bytes), typeof(created_at))
        <> ('text', 'integer', 'blob', 'integer', 'integer')
    UNION ALL SELECT 1 FROM kept_leaves
    WHERE (typeof(epoch), typeof(first), typeof(leaves)) <> ('text', 'integer', 'blob')
    LIMIT 1
"""

_Row = tuple[int, str, bytes, bytes, int, int]


@dataclass(frozen=True)
class Verified:
    """What came of verifying a log: its entries, how many receipts are over them, and what is wrong, None if nothing.

    `carried_from` is from where on a log that ended is carried by its successor. `key_root` is the fingerprint of the
    key that the log's key goes back to, each named by the one before: who trusts that one trusts this log's.
    """

    epoch: str
    size: int
    receipts: int
    carried_from: int | None
    trouble: str | None
    key_root: str


def against_receipts(tx: Tx, witnesses: Mapping[str, bytes]) -> list[Verified]:
    """Verify each log from its first row on, and every receipt that is held: its signatures, and its root."""
    epochs = queue.all_epochs(tx)
    roots = _key_roots(tx, epochs)
    return [_against_receipts(tx, epoch, witnesses, roots[epoch.public_key]) for epoch in epochs]


def store(tx: Tx) -> None:
    """Verify the file's structure and what of each log is not receipted; DamagedLogError names the first fault.

    100,000 waiting rows take about a second. What is receipted is verified by its root, and row by row when it is sent
    again or leaves.
    """
    # Not quick_check: it costs half as much and does not see an index that no longer leads to its rows.
    (said,) = tx.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        raise DamagedLogError(f"the database's structure is damaged: {said}")
    if tx.execute(_ODD_TYPES).fetchone() is not None:
        raise DamagedLogError("a value is of another type than its column")
    for epoch in queue.all_epochs(tx):
        if epoch.carried_from is None:
            log(tx, epoch, max(epoch.watermark - 1, 0))


def log(tx: Tx, epoch: Epoch, first: int) -> None:
    """Verify that a log is whole, that its newest receipt is over it, and each of its rows from `first` on."""
    # All that is receipted may have left: then the first row there is comes after `first`.
    first = max(first, _first_row(tx, epoch.epoch))
    if epoch.watermark:
        _is_receipted(tx, epoch)
    prev, total = _before(tx, epoch.epoch, first)
    size, compact = first, leaves.compact_at(tx, epoch.epoch, first)
    rows = tx.execute(
        """
        SELECT seq, bundle_id, bundle_json, leaf, total_bytes, created_at FROM queued_evidence
        WHERE epoch = ? AND seq >= ? ORDER BY seq
        """,
        (epoch.epoch, first),
    )
    saved = _ranges(tx, epoch.epoch, first)
    erased = leaves.erased(tx, epoch.epoch, first, queue.size_of(tx, epoch.epoch))
    while block := rows.fetchmany(leaves.BLOCK - size % leaves.BLOCK):
        prev, total = _prove(block, epoch.origin, (prev, total), erased)
        size, compact = merkle.extend(size, compact, [row[3] for row in block])
        if size % leaves.BLOCK == 0 and saved.get(size) != b"".join(compact):
            raise DamagedLogError(f"the saved range of {epoch.epoch} at {size} is not that of its entries")


def _key_roots(tx: Tx, epochs: list[Epoch]) -> dict[str, str]:
    """Return by key (hex) the fingerprint of the first of the keys that led to it, one naming the next."""
    roots: dict[str, str] = {}
    for epoch in epochs:
        root = roots.setdefault(epoch.public_key, purposes.fingerprint(bytes.fromhex(epoch.public_key)))
        named = _names(tx, epoch)
        if named is not None:
            roots.setdefault(named, root)
    return roots


def _names(tx: Tx, epoch: Epoch) -> str | None:
    """Return the key (hex) that a log's last entry names with that key's own signature, once it is receipted."""
    size = queue.size_of(tx, epoch.epoch)
    lines = queue.lines(tx, epoch.epoch, size - 1, 1, entries.MAX_RECOVERED_BYTES) if size else []
    if not lines or isinstance(lines[0], Stub) or epoch.watermark < size or b'"kind":"key_rotation"' not in lines[0]:
        return None
    members = canonical.read(lines[0], entries.MAX_RECOVERED_BYTES)
    origin = notes.parse_origin(epoch.origin)
    try:
        public = bytes.fromhex(members["body"]["public_key"])
        signed = purposes.new_key(origin.server, origin.appliance, public)
        ed25519.verify(public, signed, bytes.fromhex(members["body"]["signature"]))
    except (KeyError, TypeError, ValueError, ed25519.BadKeyError, ed25519.BadSignatureError):
        return None
    return public.hex() if members["kind"] == "key_rotation" else None


def _against_receipts(tx: Tx, epoch: Epoch, witnesses: Mapping[str, bytes], key_root: str) -> Verified:
    size, count = queue.size_of(tx, epoch.epoch), 0
    try:
        if epoch.carried_from is None:
            first = tx.execute("SELECT min(seq) FROM queued_evidence WHERE epoch = ?", (epoch.epoch,)).fetchone()[0]
            log(tx, epoch, first or 0)
        texts = tx.execute("SELECT size, receipt FROM receipts WHERE epoch = ? ORDER BY size", (epoch.epoch,))
        for covered, text in texts.fetchall():
            _verify_receipt(tx, epoch, (covered, text), witnesses)
            count += 1
    except (DamagedLogError, leaves.BeyondLogError, notes.BadNoteError) as error:
        return Verified(epoch.epoch, size, count, epoch.carried_from, str(error), key_root)
    return Verified(epoch.epoch, size, count, epoch.carried_from, None, key_root)


def _verify_receipt(tx: Tx, epoch: Epoch, held: tuple[int, str], witnesses: Mapping[str, bytes]) -> None:
    size, text = held
    said = notes.read_receipt(text, bytes.fromhex(epoch.public_key), dict(witnesses)).checkpoint
    if (said.origin, said.size) != (epoch.origin, size) or said.root != queue.root_at(tx, epoch.epoch, size):
        raise DamagedLogError(f"the receipt over {size} entries of {epoch.epoch} is over others")


def _prove(block: list[_Row], origin: str, before: tuple[str, int], erased: Mapping[int, Erased]) -> tuple[str, int]:
    """Each row is the entry that its payload says, at its place after the one before; return the last's leaf and sum.

    A payload's members stand in the order of their names, so its ends say what has to be compared; what stands
    between them, the leaf answers for. This is several times as fast as reading it. Of a payload that was erased only
    leaf and length are left: the next row names the leaf.
    """
    prev, total = before
    log_and_prev = f',"log":"{origin}","prev":"'
    for seq, bundle_id, payload, leaf, so_far, at in block:
        left = erased.get(seq) if payload == b"" else None
        if left is not None and (left.leaf, total + left.size) == (leaf, so_far):
            prev, total = leaf.hex(), so_far
            continue
        total += len(payload)
        end = f'","seq":{seq},"v":1}}'.encode()
        place = f'{log_and_prev}{prev}","salt":"'.encode()
        if (
            sha256(b"\x00" + payload).digest() != leaf
            or not payload.endswith(end)
            or not payload.endswith(place, 0, -32 - len(end))
            or not payload.startswith(b'{"at":%d,' % at)
            or f'","id":"{bundle_id}","kind":"'.encode() not in payload
            or so_far != total
        ):
            raise DamagedLogError(f"entry {seq} of {origin} is not what was sealed")
        prev = leaf.hex()
    return prev, total


def _first_row(tx: Tx, epoch: str) -> int:
    """Return where the rows begin; DamagedLogError unless kept leaves, then rows, stand for every entry from 0 on."""
    blocks, end = tx.execute(
        "SELECT count(*), coalesce(max(first) + 256, 0) FROM kept_leaves WHERE epoch = ?", (epoch,)
    ).fetchone()
    first, last, rows = tx.execute(
        "SELECT min(seq), max(seq), count(*) FROM queued_evidence WHERE epoch = ?", (epoch,)
    ).fetchone()
    if blocks * leaves.BLOCK != end or not rows or first != end or last - first + 1 != rows:
        raise DamagedLogError(f"entries of {epoch} are missing")
    place: int = first
    return place


def _is_receipted(tx: Tx, epoch: Epoch) -> None:
    """The watermark is that of the newest receipt, whose root is over these entries."""
    origin, size, root = ((epoch.receipt or "") + "\n\n\n").split("\n")[:3]
    if origin != epoch.origin or size != str(epoch.watermark):
        raise DamagedLogError(f"the newest receipt of {epoch.epoch} is not over {epoch.watermark} entries of it")
    if root != base64.b64encode(queue.root_at(tx, epoch.epoch, epoch.watermark)).decode():
        raise DamagedLogError(f"the newest receipt of {epoch.epoch} is over other entries")


def _before(tx: Tx, epoch: str, seq: int) -> tuple[str, int]:
    """Return the leaf (hex) and the sum of bytes that the row at `seq` follows.

    Where the row before has left, its sum is taken from the row itself: only what follows can then be compared.
    """
    if seq == 0:
        return entries.GENESIS_PREV, 0
    (leaf,) = leaves.read(tx, epoch, seq - 1, seq) or (b"",)
    row = (
        tx.execute(
            "SELECT total_bytes, 0 FROM queued_evidence WHERE epoch = ? AND seq = ?", (epoch, seq - 1)
        ).fetchone()
        or tx.execute(
            """
            SELECT total_bytes - CASE length(bundle_json) WHEN 0 THEN coalesce(
                (SELECT bytes FROM erasures WHERE epoch = one.epoch AND seq = one.seq), 0
            ) ELSE length(bundle_json) END, 0
            FROM queued_evidence AS one WHERE epoch = ? AND seq = ?
            """,
            (epoch, seq),
        ).fetchone()
    )
    return leaf.hex(), row[0]


def _ranges(tx: Tx, epoch: str, first: int) -> dict[int, bytes]:
    rows = tx.execute("SELECT size, compact FROM ranges WHERE epoch = ? AND size > ?", (epoch, first))
    return dict(rows.fetchall())
