"""All that is a partner's, exported."""

from pathlib import Path
from typing import Any

import click

from ccserver import keys, partner_export
from ccserver.commands.calling import current, progress, with_database
from ccserver.errors import NotFoundError
from ccserver.queries import partners
from ccserver.scope import Database


@click.command("export")
@click.option("--partner", "partner_id", required=True, help="The partner.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A folder; what is there stays.")
def command(partner_id: str, output: Path) -> None:
    """Write all that is a partner's into a folder: each site's evidence, sites, appliances, people, incidents, audit.

    Run it again after it was cut off: a site whose file is there, over all that is stored now, is not
    exported again.
    """
    manifest = with_database(lambda db: write(db, partner_id, output))
    click.echo(f"{output}: {len(manifest['files'])} files, named in manifest.json")


async def write(db: Database, partner_id: str, output: Path) -> dict[str, Any]:
    """Write the export; NotFoundError when there is no such partner."""
    async with db.platform() as scope:
        if await partners.find_anywhere(scope, partner_id) is None:
            raise NotFoundError(f"There is no partner {partner_id}.")
    return await partner_export.write(db, keys.load(current().key_file), partner_id, output, progress)
