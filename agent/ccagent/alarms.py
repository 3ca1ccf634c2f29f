"""What happened to this appliance that a person must look at; it shows in `status` and in every check-in."""

from dataclasses import dataclass

from ccagent.store import Tx

ROLLBACK = "rollback"
CLONE = "clone_suspected"
SERVER_ROLLBACK = "server_rollback"
SERVER_KEY = "unknown_server_key"
SILENCE = "no_receipts"
WITHHELD = "withheld"
SUPPRESSED = "healing_suppressed"
ORDER_REFUSED = "order_refused"
POLICY_REFUSED = "policy_refused"
# What is over when it is seen still shows for a week.
SHOWN_MS = 7 * 24 * 3_600_000
SILENT_MS = 48 * 3_600_000


@dataclass(frozen=True)
class Alarm:
    """An alarm that stands: its name, a sentence, and since when (ms UTC)."""

    name: str
    detail: str
    since_ms: int


def sound(tx: Tx, alarm: Alarm, stands_until_ms: int | None = None) -> bool:
    """Let an alarm stand, until then or until a person ends it; return whether it is new.

    One that a person ended stays ended: what is said again is no news.
    """
    done = tx.execute(
        "INSERT OR IGNORE INTO alarms (name, detail, since, stands_until) VALUES (?, ?, ?, ?)",
        (alarm.name, alarm.detail, alarm.since_ms, stands_until_ms),
    )
    return done.rowcount > 0


def end(tx: Tx, name: str, at_ms: int) -> int:
    """End the alarms of a name that stand; return how many."""
    done = tx.execute("UPDATE alarms SET cleared_at = ? WHERE name = ? AND cleared_at IS NULL", (at_ms, name))
    return done.rowcount


def forget(tx: Tx, name: str) -> None:
    """End the alarms of a name so that the same may be raised again: what caused them has passed."""
    tx.execute("DELETE FROM alarms WHERE name = ?", (name,))


def standing(tx: Tx, now_ms: int) -> list[Alarm]:
    """Return the alarms that stand, oldest first."""
    rows = tx.execute(
        """
        SELECT name, detail, since FROM alarms
        WHERE cleared_at IS NULL AND (stands_until IS NULL OR stands_until > ?) ORDER BY since, name
        """,
        (now_ms,),
    )
    return [Alarm(*row) for row in rows]


def is_silent(last_receipt_at_ms: int | None, last_checkin_at_ms: int | None, now_ms: int) -> bool:
    """Return whether check-ins arrive while there was no new receipt for 48 h.

    `last_receipt_at_ms` is when the newest receipt came, or when the log began; an entry is due every 24 h.
    """
    if last_receipt_at_ms is None or last_checkin_at_ms is None:
        return False
    return now_ms - last_checkin_at_ms < SILENT_MS <= now_ms - last_receipt_at_ms
