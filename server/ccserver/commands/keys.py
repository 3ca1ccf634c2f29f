"""The key file."""

from pathlib import Path

import click

from ccserver import age, files, keys
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, current, progress, show
from ccserver.commands.reaching import Consent
from ccserver.errors import BadConfigError
from ccshared import notes, purposes

_MOST_BYTES = 1 << 24


@click.group("keys")
def command() -> None:
    """The server's key file."""


@command.command("init")
def keys_init() -> None:
    """Make the key file of a new server; it is never overwritten. Back it up apart from the database."""
    settings = current()
    made = keys.create(settings.key_file, settings.server_name)
    click.echo(f"{settings.key_file}: keys of {made.server}, order key {made.order_fingerprint}")


@command.command("show")
@AsJson
def keys_show(as_json: bool) -> None:
    """Show the public keys that the server ever had, oldest first; the newest of each use signs."""
    found = keys.load(current().key_file)
    rows = [key.model_dump() for key in found.public]
    lines = [f"{row['use']}  {row['name']}  {row['public_key']}" for row in rows]
    show(
        {"server": found.server, "keys": rows, "order_fingerprint": found.order_fingerprint}, as_json, "\n".join(lines)
    )


@command.command("trust")
def keys_trust() -> None:
    """Print what an auditor's trust file needs of this server: its first witness key and its first order key.

    Publish it where the server cannot change it; `cc-verify --trust` reads it. Later keys follow from these.
    """
    found = keys.load(current().key_file)
    first = {key.use: key for key in reversed(found.signing)}
    witness, order = first["witness"], first["order"]
    click.echo(f"# {found.server}: its first witness key (C2SP vkey), and its first order key by its fingerprint")
    click.echo(notes.vkey(witness.name, notes.WITNESS_ALGORITHM, witness.public_key))
    click.echo(f"{order.name} {purposes.fingerprint(order.public_key)}")


@command.command("backup")
@click.option("-o", "--output", required=True, help="The file to write, replaced whole; - for standard output.")
@click.option(
    "--recipient", "recipients", multiple=True, required=True, help="A public key of age (age1…); repeatable."
)
def keys_backup(output: str, recipients: tuple[str, ...]) -> None:
    """Write a copy of the key file, encrypted to a public key; keep it apart from the backups of the database."""
    path, to = current().key_file, [age.recipient(each) for each in recipients]
    found = keys.load(path)
    with files.replaced(output) as file, age.encrypted(file, to) as out:
        out.write(path.read_bytes())
    progress(f"{output}: {len(found.signing)} signing keys of {found.server}; again after each rotation")


@command.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--identity",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The private key's file; - for standard input.",
)
def keys_restore(file: Path, identity: Path) -> None:
    """Put a copy of the key file back where none is; one that is there is never overwritten."""
    path, opening = current().key_file, age.identities(identity)
    try:
        with file.open("rb") as source, age.decrypted(source, opening) as plain:
            data = plain.read(_MOST_BYTES)
    except OSError as error:
        raise BadConfigError(f"{file} cannot be read: {error.strerror}.") from error
    made = keys.put_back(path, data)
    click.echo(f"{path}: keys of {made.server}, order key {made.order_fingerprint}")


@command.command("rotate")
@click.argument("use", type=click.Choice(["witness", "order"]))
@reaching.destroys
@AsJson
def keys_rotate(use: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Add a new signing key, announced by the order key of before; running processes sign by it at once.

    The older keys stay, so that their receipts hold. Back the key file up again afterwards.
    """
    path, consent = current().key_file, Consent(yes, dry_run)
    keys.load(path)
    consent.ask(f"add a {use} key to {path}, which signs from then on")
    made = keys.load(path) if dry_run else keys.rotate(path, use)
    newest = made.witness if use == "witness" else made.order
    said = f"a new {use} key" if dry_run else f"{newest.name} is the {use} key; back up {path} again"
    told = {"use": use, "name": newest.name, "public_key": newest.public_key.hex(), "dry_run": dry_run}
    show({**told, "order_fingerprint": made.order_fingerprint}, as_json, consent.say(said))
