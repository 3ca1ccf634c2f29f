"""A dead man's ping: while the sweeps run, an address elsewhere is asked each minute; its silence tells of our end.

The address stands in the configuration and holds a secret, so it is in no log.
"""

import logging
from datetime import UTC, datetime, timedelta

from ccserver import outbound
from ccserver.config import Config
from ccserver.errors import ReceiverFailedError
from ccserver.queries import sweeps
from ccserver.scope import Database

log = logging.getLogger("ccserver.deadman")
EVERY_S = 60.0
_WITNESS = "liveness"  # a sweep of every minute
_FRESH = timedelta(minutes=5)


async def ping(db: Database, config: Config) -> bool:
    """Ask the address if a sweep of every minute ended well within five; return whether it was asked."""
    async with db.platform() as scope:
        ledger = {row.name: row for row in await sweeps.ledger(scope)}
    done_at = ledger[_WITNESS].done_at if _WITNESS in ledger else None
    fresh = max(_FRESH, timedelta(seconds=3 * config.sweep_s))
    if config.deadman_url is None or done_at is None or datetime.now(UTC) - done_at > fresh:
        return False
    status = await outbound.ask(config.deadman_url)
    if not 200 <= status < 300:
        raise ReceiverFailedError(f"It answered {status}.")
    return True
