"""Evidence, exported for whoever wants to verify it."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import click

from ccserver import exporting, files, keys
from ccserver.commands.calling import current, with_database
from ccserver.commands.reaching import owner_of
from ccserver.exporting import Asked
from ccserver.packing import Pack, Write
from ccserver.scope import Database

_DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@click.group("evidence")
def command() -> None:
    """Evidence: exported as one file that verifies anywhere."""


@command.command("export")
@click.option("--site", "site_id", required=True, help="The site.")
@click.option("--from", "since", type=click.DateTime(_DAYS), help="Entries from this moment (UTC) on.")
@click.option("--to", "until", type=click.DateTime(_DAYS), help="Entries before this moment (UTC).")
@click.option("--sample", default=exporting.SAMPLE, show_default=True, help="How many entries of a log to prove.")
@click.option("-o", "--output", required=True, help="The file to write, replaced whole; - for standard output.")
def export(site_id: str, since: datetime | None, until: datetime | None, sample: int, output: str) -> None:
    """Write a site's evidence as a ZIP that anybody can verify, with the verifier in it; prints its SHA-256."""
    if since and until and since >= until:
        raise click.BadParameter("before --to", param_hint="--from")
    asked = Asked("", site_id, _utc(since), _utc(until), max(0, min(sample, 1000)))
    digest = hashlib.sha256()

    async def act(db: Database) -> Pack:
        partner_id = await owner_of(db, site_id)
        with files.replaced(output) as file:
            found = replace(asked, partner_id=partner_id)
            return await exporting.write_site(db, keys.load(current().key_file), found, both(digest.update, file.write))

    pack: Pack = with_database(act)
    said = f"{pack.logs} logs, {pack.entries} entries, {pack.payloads} payloads; SHA-256 {digest.hexdigest()}"
    click.echo(said, file=sys.stderr)


def both(one: Write, other: Write) -> Callable[[bytes], None]:
    """Return what writes to both."""

    def write(data: bytes) -> None:
        one(data)
        other(data)

    return write


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
