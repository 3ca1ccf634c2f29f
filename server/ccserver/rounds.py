"""What a server does by itself for as long as it runs: one round after another, whatever goes wrong in one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import uniform

from ccserver.errors import CentralCommandError

log = logging.getLogger("ccserver.rounds")


async def keep(what: str, every_s: float, do: Callable[[], Awaitable[object]]) -> None:
    """Do a round about every `every_s` seconds for ever; one ends before the next begins, and none ends the server."""
    while True:
        await asyncio.sleep(every_s * uniform(0.5, 1.0))  # noqa: S311  no secret: processes started together drift apart
        try:
            await do()
        except CentralCommandError as error:
            log.warning("no round of %s this time: %s", what, error)
        except Exception:
            log.exception("the round of %s broke", what)
