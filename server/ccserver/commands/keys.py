"""The key file."""

import click

from ccserver import keys
from ccserver.commands.calling import AsJson, current, show


@click.group("keys")
def command() -> None:
    """The server's key file."""


@command.command("init")
def keys_init() -> None:
    """Make the key file of a new server; it is never overwritten. Back it up apart from the database."""
    settings = current()
    made = keys.create(settings.key_file, settings.server_name)
    click.echo(f"{settings.key_file}: keys of {made.server}, order key {made.order_fingerprint}")


@command.command("rotate")
@click.argument("use", type=click.Choice(["witness", "order"]))
@click.option("--yes", is_flag=True, help="Do not ask.")
@AsJson
def rotate(use: str, yes: bool, as_json: bool) -> None:
    """Add a new key for a use, announced by the order key of before; running processes sign by it at once.

    The older keys stay, so that their receipts hold. Back the key file up again afterwards.
    """
    settings = current()
    if not yes:
        click.confirm(f"Add a new {use} key to {settings.key_file}?", abort=True, err=True)
    made = keys.rotate(settings.key_file, use)
    key = made.witness if use == "witness" else made.order
    show(
        {"use": use, "name": key.name, "public_key": key.public_key.hex(), "order_fingerprint": made.order_fingerprint},
        as_json,
        f"{key.name} signs from now on as {use}; back {settings.key_file} up again",
    )
