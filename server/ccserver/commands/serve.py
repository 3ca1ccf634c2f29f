"""Serve."""

import click

from ccserver import serving
from ccserver.commands.calling import current, database


@click.command("serve")
def command() -> None:
    """Serve the agents' API and the dashboard until SIGINT or SIGTERM."""
    settings = current()
    with database(settings) as target:
        serving.run(settings, target.server)
