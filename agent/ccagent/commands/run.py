"""`cc-agent run`: the agent itself, until it is told to stop."""

import asyncio
import os
import threading

import click

from ccagent import daemon
from ccagent.commands.calling import Call
from ccagent.commands.settings import load, start_log
from ccagent.config import Config
from ccagent.control import SocketTakenError
from ccagent.places import BadConfigError, Places
from ccagent.scrubbing import ScrubKeyError
from ccagent.store import StoreInUseError, StoreUnusableError

# After the loops had their three seconds: a thread or program stuck in the kernel must not hold up the stop.
LAST_RESORT_S = 1.5


@click.command("run")
@click.pass_obj
def command(call: Call) -> None:
    """Run the agent until it is told to stop."""
    start_log()
    try:
        asyncio.run(_run(load(call), call.places))
    except (StoreInUseError, StoreUnusableError, ScrubKeyError, SocketTakenError, BadConfigError) as error:
        raise click.ClickException(str(error)) from error


async def _run(config: Config, places: Places) -> None:
    await daemon.run(config, places)
    stuck = threading.Timer(LAST_RESORT_S, os._exit, [0])
    stuck.daemon = True
    stuck.start()
