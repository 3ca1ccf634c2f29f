"""A dead man's ping: while the sweeps run, an address elsewhere is asked each minute; its silence tells of our end.

The address stands in the configuration and holds a secret, so it is in no log.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from ccserver import outbound
from ccserver.config import Config
from ccserver.errors import CentralCommandError, ReceiverFailedError
from ccserver.queries import sweeps
from ccserver.scope import Database

log = logging.getLogger("ccserver.deadman")
_EVERY_S = 60.0
_WITNESS = "liveness"  # a sweep of every minute
_FRESH = timedelta(minutes=5)


async def keep_pinging(db: Database, config: Config, every_s: float = _EVERY_S) -> None:
    """Ask the address for ever, when one is set."""
    while config.deadman_url is not None:
        await asyncio.sleep(every_s)
        try:
            await ping(db, config)
        except CentralCommandError as error:
            log.warning("no dead man's ping: %s", error)
        except Exception:
            log.exception("the dead man's ping broke")


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
