"""The order clock: the newest time in anything that a key of the server's signed, and the seconds since it was read.

It never runs ahead of the server and cannot be turned by whoever sets this machine's clock. What passes while the
machine is off is not counted until something newer is signed; what was counted is kept, so that a reboot loses little.
"""

from ccagent.clock import Boot
from ccagent.store import Tx


def now_ms(tx: Tx, boot: Boot) -> int:
    """Return the time (ms UTC) by the order clock; 0 while nothing signed was seen."""
    signed_ms, boot_id, boot_ms = tx.execute("SELECT signed_ms, boot_id, boot_ms FROM order_clock").fetchone()
    since = max(boot.ms - boot_ms, 0) if signed_ms and boot_id == boot.id else 0
    receipted_s: int | None = tx.execute("SELECT max(cosigned_at_s) FROM receipts").fetchone()[0]
    return max(int(signed_ms) + since, (receipted_s or 0) * 1000)


def hold(tx: Tx, boot: Boot, signed_ms: int = 0) -> int:
    """Keep what the clock says now, or a newer `signed_ms` that was verified; return it."""
    now = max(now_ms(tx, boot), signed_ms)
    tx.execute("UPDATE order_clock SET signed_ms = ?, boot_id = ?, boot_ms = ?", (now, boot.id, boot.ms))
    return now
