"""A backup of the database, to a file or to standard output."""

import asyncio
import sys
from typing import Any

import click

from ccserver import age, backup, files, keys
from ccserver.archive import Manifest
from ccserver.commands.calling import AsJson, current, database, progress, show
from ccserver.errors import BadConfigError


@click.command("backup")
@click.option("-o", "--output", required=True, help="The file to write, replaced whole; - for standard output.")
@click.option("--recipient", "recipients", multiple=True, help="Encrypt to this public key of age (age1…); repeatable.")
@AsJson
def command(output: str, recipients: tuple[str, ...], as_json: bool) -> None:
    """Write a consistent backup of the database, as the role that only reads (DATABASE_BACKUP_URL).

    The key file is never in it: `ccserver keys backup` makes its copy, to be kept somewhere else.
    """
    settings, to = current(), [age.recipient(each) for each in recipients]
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("a backup is no text: name a file, or send standard output into one")
    server_keys = keys.load(settings.key_file)

    async def act(url: str) -> Manifest:
        with files.replaced(output) as file, age.encrypted(file, to) as out:
            return await backup.write(url, server_keys, out, progress)

    with database(settings) as target:
        if target.backup is None:
            raise BadConfigError(
                "`backup` reads as a role of its own: set DATABASE_BACKUP_URL=postgresql://cc_backup:…@host/database."
            )
        made = asyncio.run(act(target.backup))
    text = (
        f"{output}: {made.rows:,} rows of {len(made.tables)} tables, {made.receipts:,} receipts.\n"
        f"The key file {settings.key_file} is not in it: keep its copy somewhere else (`ccserver keys backup`)."
    )
    if output == "-":
        progress(text)
    else:
        show(_value(made, output, encrypted=bool(to)), as_json, text)


def _value(made: Manifest, output: str, *, encrypted: bool) -> dict[str, Any]:
    return {
        "output": output,
        "at": made.begin.at,
        "server": made.begin.server,
        "schema": len(made.begin.schema),
        "tables": {table.name: table.rows for table in made.tables},
        "receipts": made.receipts,
        "encrypted": encrypted,
        "key_file_included": False,
    }
