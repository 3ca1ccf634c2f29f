"""Sweep, by hand."""

import sys
from dataclasses import asdict

import click

from ccserver import sweeps
from ccserver.commands.calling import AsJson, current, show, with_database
from ccserver.scope import Database
from ccserver.sweeps import Outcome


@click.command("sweep")
@click.argument("names", nargs=-1, type=click.Choice(sweeps.NAMES))
@click.option("--dry-run", is_flag=True, help="Do one chunk of each and take it back: say what would be done.")
@AsJson
def command(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run these sweeps now, or all of them; exit 1 when one failed. `serve` does the same by itself."""
    chosen = [sweep for sweep in sweeps.SWEEPS if not names or sweep.name in names]
    terms = current().keep

    async def act(db: Database) -> list[Outcome]:
        return [await sweeps.run(db, sweep, terms, dry_run=dry_run) for sweep in chosen]

    done: list[Outcome] = with_database(act)
    show([asdict(one) | {"dry_run": dry_run} for one in done], as_json, "\n".join(_line(one, dry_run) for one in done))
    if any(one.error for one in done):
        sys.exit(1)


def _line(one: Outcome, dry_run: bool) -> str:
    if one.error:
        return f"{one.name}  FAILED  {one.error}"
    if one.busy:
        return f"{one.name}  another process is at it"
    more = ", and more is left" if one.more else ""
    return f"{one.name}  {one.rows} rows {'would change' if dry_run else 'changed'}{more}"
