"""What leaves the store: rows receipted long enough ago, 256 at a time, and only their payloads; the leaves stay.

Nothing that is not receipted ever leaves, whatever its age; and what leaves is verified first, so that a row that was
damaged on the disk is found before its payload is gone.
"""

from ccagent import budget, leaves, queue, withholding
from ccagent.budget import Fullness
from ccagent.queue import Epoch
from ccagent.store import Tx

_DAY_MS = 24 * 3_600_000
KEEP_MS = 30 * _DAY_MS
_AT_ONCE = 256


def newest_receipt_ms(tx: Tx) -> int:
    """Return when the newest receipt was cosigned, by the server's clock (ms UTC); 0 while there is none."""
    newest: int | None = tx.execute("SELECT max(cosigned_at_s) FROM receipts").fetchone()[0]
    return (newest or 0) * 1000


def now_ms(tx: Tx, wall_ms: int) -> int:
    """Return by which time rows leave: the newest receipt's, but not ahead of this machine's wall clock (both ms UTC).

    A server whose clock ran years ahead for an hour would else cost every payload that it has receipted; a machine
    whose own clock is behind keeps more. Once the store fills up the server's clock alone decides.
    """
    newest = newest_receipt_ms(tx)
    return newest if budget.fullness(tx) >= Fullness.WARN else min(newest, wall_ms)


def keep_ms(backup_window_days: int) -> int:
    """Return how long receipted rows stay: 30 days, or twice as long as the server's oldest backup is old."""
    return max(KEEP_MS, 2 * backup_window_days * _DAY_MS)


def keys_in_use(tx: Tx, before_ms: int) -> set[str]:
    """Return the public keys (hex) of logs that were receipted since then, by the server's clock (ms UTC).

    A server that is put back may know no later key than one of these.
    """
    found = tx.execute(
        """
        SELECT DISTINCT public_key FROM epochs JOIN receipts ON receipts.epoch = epochs.epoch
        WHERE cosigned_at_s * 1000 >= ?
        """,
        (before_ms,),
    )
    return {str(key) for (key,) in found}


def prune(tx: Tx, before_ms: int) -> int:
    """Let up to 256 rows leave that were receipted before then, by the server's clock (ms UTC); return how many did.

    0 when there are no more. DamagedLogError when one is not what was sealed: then none leaves.
    """
    for epoch in queue.all_epochs(tx):
        gone = _prune_block(tx, epoch, before_ms) or _prune_carried(tx, epoch)
        if gone:
            return gone
    return 0


def _prune_block(tx: Tx, epoch: Epoch, before_ms: int) -> int:
    """Put the leaves of the oldest 256 rows in a blob and delete the rows, when all are receipted and old enough."""
    first = tx.execute("SELECT min(seq) FROM queued_evidence WHERE epoch = ?", (epoch.epoch,)).fetchone()[0]
    if first is None or first % leaves.BLOCK or first + leaves.BLOCK > _prunable(tx, epoch, before_ms):
        return 0
    end = first + leaves.BLOCK
    if epoch.carried_from is not None and not _is_whole(tx, epoch, first, end):
        return 0  # salvaged with a hole that a gap has told of: the rows around it stay
    blob = b"".join(leaves.read(tx, epoch.epoch, first, end))
    if len(blob) != leaves.BLOCK * 32:
        raise leaves.DamagedLogError(f"entries of {epoch.epoch} between {first} and {end} are missing")
    tx.execute("INSERT INTO kept_leaves (epoch, first, leaves) VALUES (?, ?, ?)", (epoch.epoch, first, blob))
    tx.execute("DELETE FROM queued_evidence WHERE epoch = ? AND seq >= ? AND seq < ?", (epoch.epoch, first, end))
    # One receipt a block tells when its rows were uploaded; the newest of the log stays in any case.
    tx.execute(
        """
        DELETE FROM receipts WHERE epoch = ?1 AND size > ?2 AND size < (
            SELECT max(size) FROM receipts WHERE epoch = ?1 AND size <= ?3
        )
        """,
        (epoch.epoch, first, end),
    )
    return leaves.BLOCK


def _is_whole(tx: Tx, epoch: Epoch, first: int, end: int) -> bool:
    rows: int = tx.execute(
        "SELECT count(*) FROM queued_evidence WHERE epoch = ? AND seq >= ? AND seq < ?", (epoch.epoch, first, end)
    ).fetchone()[0]
    return rows == end - first


def _prunable(tx: Tx, epoch: Epoch, before_ms: int) -> int:
    """Return how many of the first entries may have left: receipted long enough ago, and never the newest row.

    Nor any from the first payload on that is withheld: a receipt over its stub is no delivery.
    """
    size: int | None = tx.execute(
        "SELECT max(size) FROM receipts WHERE epoch = ? AND cosigned_at_s * 1000 < ?", (epoch.epoch, before_ms)
    ).fetchone()[0]
    there = queue.size_of(tx, epoch.epoch)
    return min(size or 0, epoch.watermark, there - 1, withholding.first(tx, epoch.epoch, there))


def _prune_carried(tx: Tx, epoch: Epoch) -> int:
    """Delete rows of a log that ended whose successor carries them and has a receipt for that."""
    if epoch.carried_from is None:
        return 0
    done = tx.execute(
        """
        DELETE FROM queued_evidence WHERE id IN (
            SELECT old.id FROM queued_evidence AS old
            JOIN epochs AS later ON later.epoch <> old.epoch
            JOIN queued_evidence AS carrying
                ON carrying.epoch = later.epoch AND carrying.bundle_id = old.bundle_id
                AND carrying.seq < later.watermark
            WHERE old.epoch = ?1 AND old.seq >= ?2
                AND old.seq < (SELECT max(seq) FROM queued_evidence WHERE epoch = ?1)
            ORDER BY old.seq LIMIT ?3
        )
        """,
        (epoch.epoch, epoch.carried_from, _AT_ONCE),
    )
    return done.rowcount
