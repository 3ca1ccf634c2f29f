"""The settings and the log of commands that work; not for those that only ask."""

import logging

import click

from ccagent import config
from ccagent.commands.calling import Call
from ccagent.config import Config


def load(call: Call) -> Config:
    """Return the settings; ClickException with the mistake and its place."""
    try:
        return config.load(call.config_file)
    except config.BadConfigError as error:
        raise click.ClickException(str(error)) from error


def start_log() -> None:
    """Log to stderr, a line each; the service manager adds the time."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
