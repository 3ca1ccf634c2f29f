"""Entries that the server refuses for good: tried again, and then represented by their leaf until it takes them.

One such entry must not stand before all others for ever. After three refusals of it alone over an hour its stub is
sent, so that the log goes on; that is no delivery, and the payload stays here until the server has it.
"""

from dataclasses import dataclass

from ccagent.store import Tx

TRIES = 3
PATIENCE_MS = 3_600_000
# So many of one kind refused for one reason, and the next need not be waited for: a server that cannot read a kind
# would otherwise hold up everything by an hour for each.
ALIKE = 3


@dataclass(frozen=True)
class Refusal:
    """An entry refused alone: its place and kind, and the server's code and words."""

    epoch: str
    seq: int
    kind: str
    code: str
    why: str


@dataclass(frozen=True)
class Withheld:
    """An entry whose stub stands for it: its place, kind, why, and since when (ms UTC)."""

    epoch: str
    seq: int
    kind: str
    code: str
    why: str
    since_ms: int


def is_enough(tries: int, waited_ms: int, alike: int) -> bool:
    """Return whether an entry was refused often enough for its stub to be sent.

    `alike` is how many of its kind, refused for the same reason, are withheld already.
    """
    return alike >= ALIKE or (tries >= TRIES and (abs(waited_ms) >= PATIENCE_MS or alike > 0))


def refuse(tx: Tx, refusal: Refusal, at_ms: int) -> bool:
    """Count a refusal of an entry alone; return whether its stub is to be sent from now on."""
    tx.execute(
        """
        INSERT INTO refused_entries (epoch, seq, kind, code, why, tries, first_at) VALUES (?, ?, ?, ?, ?, 1, ?)
        ON CONFLICT (epoch, seq) DO UPDATE SET
            tries = CASE WHEN delivered_at IS NULL THEN tries + 1 ELSE 1 END,
            first_at = CASE WHEN delivered_at IS NULL THEN first_at ELSE excluded.first_at END,
            withheld_at = CASE WHEN delivered_at IS NULL THEN withheld_at END,
            delivered_at = NULL, code = excluded.code, why = excluded.why
        """,
        (refusal.epoch, refusal.seq, refusal.kind, refusal.code, refusal.why, at_ms),
    )
    tries, first_at, alike = tx.execute(
        """
        SELECT tries, first_at, (
            SELECT count(*) FROM refused_entries
            WHERE kind = ?3 AND code = ?4 AND withheld_at IS NOT NULL AND delivered_at IS NULL
        )
        FROM refused_entries WHERE epoch = ?1 AND seq = ?2
        """,
        (refusal.epoch, refusal.seq, refusal.kind, refusal.code),
    ).fetchone()
    if not is_enough(tries, at_ms - first_at, alike):
        return False
    tx.execute(
        "UPDATE refused_entries SET withheld_at = ? WHERE epoch = ? AND seq = ?", (at_ms, refusal.epoch, refusal.seq)
    )
    return True


def places(tx: Tx, epoch: str, first: int, end: int) -> set[int]:
    """Return the places from `first` up to `end` at which stubs stand for payloads."""
    rows = tx.execute(
        """
        SELECT seq FROM refused_entries
        WHERE epoch = ? AND seq >= ? AND seq < ? AND withheld_at IS NOT NULL AND delivered_at IS NULL
        """,
        (epoch, first, end),
    )
    return {row[0] for row in rows}


def undelivered(tx: Tx, limit: int = 1000) -> list[Withheld]:
    """Return what is withheld, longest first."""
    rows = tx.execute(
        """
        SELECT epoch, seq, kind, code, why, withheld_at FROM refused_entries
        WHERE withheld_at IS NOT NULL AND delivered_at IS NULL ORDER BY withheld_at, epoch, seq LIMIT ?
        """,
        (limit,),
    )
    return [Withheld(*row) for row in rows]


def first(tx: Tx, epoch: str, otherwise: int) -> int:
    """Return the first place of a log at which a payload is withheld."""
    found: int | None = tx.execute(
        """
        SELECT min(seq) FROM refused_entries
        WHERE epoch = ? AND withheld_at IS NOT NULL AND delivered_at IS NULL
        """,
        (epoch,),
    ).fetchone()[0]
    return otherwise if found is None else found


def drop(tx: Tx, epoch: str, from_seq: int) -> None:
    """Forget refusals of entries that another log carries now: there they are sent, and judged, anew."""
    tx.execute("DELETE FROM refused_entries WHERE epoch = ? AND seq >= ?", (epoch, from_seq))


def count(tx: Tx) -> int:
    """Return how many payloads are withheld."""
    found: int = tx.execute(
        "SELECT count(*) FROM refused_entries WHERE withheld_at IS NOT NULL AND delivered_at IS NULL"
    ).fetchone()[0]
    return found


def deliver(tx: Tx, epoch: str, seq: int, at_ms: int) -> None:
    """Note that the server has a payload after all."""
    tx.execute("UPDATE refused_entries SET delivered_at = ? WHERE epoch = ? AND seq = ?", (at_ms, epoch, seq))
