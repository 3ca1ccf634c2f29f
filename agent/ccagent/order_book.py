"""The record of orders: started before they run, their results until the server took them, their ids long after.

An id that stands here is never run again, whatever becomes of the process, the helper or the server.
"""

import secrets
from dataclasses import dataclass

from ccagent.store import Tx
from ccshared.orders import KEPT_AFTER_MS, SignedOrder

MOST_REFUSALS_A_DAY = 100
_DAY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class Kept:
    """An order as it is recorded; `result` (JSON) is None while it runs, `answered` is 1 once the server took that."""

    id: str
    envelope_sha256: str
    runbook: str
    issued_ms: int
    expires_ms: int
    started_ms: int | None
    status: str
    result: str | None
    answered: int


def known(tx: Tx, order_id: str) -> Kept | None:
    """Return an order that was taken before."""
    found = _rows(tx, "WHERE id = ?", (order_id,))
    return found[0] if found else None


def taker(tx: Tx, order: SignedOrder) -> str:
    """Return what this copy of the appliance calls itself where it takes that order: 32 hex, the same each time."""
    tx.execute(
        "INSERT OR IGNORE INTO takers (order_id, taker, expires_ms) VALUES (?, ?, ?)",
        (order.id, secrets.token_hex(16), order.expires_ms),
    )
    name: str = tx.execute("SELECT taker FROM takers WHERE order_id = ?", (order.id,)).fetchone()[0]
    return name


def start(tx: Tx, order: SignedOrder, envelope_sha256: str, at_ms: int) -> bool:
    """Record that an order begins; it may begin once this is committed. False when its id is known already."""
    done = tx.execute(
        """
        INSERT OR IGNORE INTO orders (id, envelope_sha256, runbook, issued_ms, expires_ms, started_at, status)
        VALUES (?, ?, ?, ?, ?, ?, 'running')
        """,
        (order.id, envelope_sha256, order.runbook, order.issued_ms, order.expires_ms, at_ms),
    )
    return done.rowcount == 1


def finish(tx: Tx, order_id: str, status: str, result: str, at_ms: int) -> bool:
    """Keep how an order that ran ended; False when that was known."""
    done = tx.execute(
        "UPDATE orders SET status = ?, result = ?, finished_at = ? WHERE id = ? AND status = 'running'",
        (status, result, at_ms, order_id),
    )
    return done.rowcount == 1


def reject(tx: Tx, order: SignedOrder, envelope_sha256: str, result: str, at_ms: int) -> bool:
    """Keep that an order is not run, and why; False when its id is known already."""
    done = tx.execute(
        """
        INSERT OR IGNORE INTO orders (id, envelope_sha256, runbook, issued_ms, expires_ms, finished_at, status, result)
        VALUES (?, ?, ?, ?, ?, ?, 'rejected', ?)
        """,
        (order.id, envelope_sha256, order.runbook, order.issued_ms, order.expires_ms, at_ms, result),
    )
    return done.rowcount == 1


def running(tx: Tx) -> list[Kept]:
    """Return the orders that began and whose end is not known: after a start, what a crash cut short."""
    return _rows(tx, "WHERE status = 'running' ORDER BY started_at, id")


def unanswered(tx: Tx) -> list[Kept]:
    """Return the orders whose result the server has not taken yet, oldest first."""
    return _rows(tx, "WHERE result IS NOT NULL AND answered_at IS NULL ORDER BY finished_at, id")


def newest(tx: Tx, count: int = 20) -> list[Kept]:
    """Return the orders taken last."""
    return _rows(tx, "ORDER BY issued_ms DESC, id DESC LIMIT ?", (count,))


def answer(tx: Tx, order_id: str, at_ms: int) -> None:
    """Note that the server took the result."""
    tx.execute("UPDATE orders SET answered_at = ? WHERE id = ?", (at_ms, order_id))


def ask_again(tx: Tx, order_id: str) -> None:
    """Note that the server does not know the result after all: it is told once more."""
    tx.execute("UPDATE orders SET answered_at = NULL WHERE id = ? AND result IS NOT NULL", (order_id,))


def refuse(tx: Tx, envelope_sha256: str, reason: str, at_ms: int) -> bool:
    """Note an envelope that is no order for us; False when it was noted before, or there were too many today."""
    lately: int = tx.execute("SELECT count(*) FROM refused_orders WHERE at > ?", (at_ms - _DAY_MS,)).fetchone()[0]
    if lately >= MOST_REFUSALS_A_DAY:
        return False
    done = tx.execute(
        "INSERT OR IGNORE INTO refused_orders (envelope_sha256, at, reason) VALUES (?, ?, ?)",
        (envelope_sha256, at_ms, reason),
    )
    return done.rowcount == 1


def prune(tx: Tx, order_clock_ms: int) -> int:
    """Forget the ids of orders that expired 30 days ago by the order clock, once the server took their results."""
    before = order_clock_ms - KEPT_AFTER_MS
    tx.execute("DELETE FROM refused_orders WHERE at < ?", (before,))
    tx.execute("DELETE FROM takers WHERE expires_ms < ?", (before,))
    return tx.execute(
        "DELETE FROM orders WHERE expires_ms < ? AND result IS NOT NULL AND answered_at IS NOT NULL", (before,)
    ).rowcount


def _rows(tx: Tx, which: str, values: tuple[object, ...] = ()) -> list[Kept]:
    rows = tx.execute(
        "SELECT id, envelope_sha256, runbook, issued_ms, expires_ms, started_at, status, result,"  # noqa: S608 - ours
        f" answered_at IS NOT NULL FROM orders {which}",
        values,
    )
    return [Kept(*row) for row in rows]
