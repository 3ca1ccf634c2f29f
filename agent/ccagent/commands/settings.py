"""The settings and the log of commands that work; not for those that only ask."""

import os
from typing import cast

import click

from ccagent import config
from ccagent.commands.calling import Call
from ccagent.config import Config
from ccshared import logs


def load(call: Call) -> Config:
    """Return the settings; ClickException with the mistake and its place."""
    try:
        return config.load(call.config_file)
    except config.BadConfigError as error:
        raise click.ClickException(str(error)) from error


def start_log() -> None:
    """Log to stderr, a line each, in the form that CC_AGENT_LOG_FORMAT names: text, or json for programs."""
    form = os.environ.get("CC_AGENT_LOG_FORMAT", "text")
    if form not in logs.FORMATS:
        raise click.ClickException(f"CC_AGENT_LOG_FORMAT={form!r}: {' or '.join(logs.FORMATS)} is needed.")
    logs.start(cast(logs.Format, form))
