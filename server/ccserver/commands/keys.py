"""The key file."""

import click

from ccserver import keys
from ccserver.commands.calling import current


@click.group("keys")
def command() -> None:
    """The server's key file."""


@command.command("init")
def keys_init() -> None:
    """Make the key file of a new server; it is never overwritten. Back it up apart from the database."""
    settings = current()
    made = keys.create(settings.key_file, settings.server_name)
    click.echo(f"{settings.key_file}: keys of {made.server}, order key {made.order_fingerprint}")
