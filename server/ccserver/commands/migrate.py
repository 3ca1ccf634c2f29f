"""Bring the schema up to date."""

import asyncio
import json
import sys

import click

from ccserver import migrate
from ccserver.commands.calling import AsJson, Target, current, database, progress, show
from ccserver.config import Config
from ccserver.errors import BadConfigError


@click.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="List what would run; change nothing.")
@click.option("--check", "only_check", is_flag=True, help="Exit 1 when something would run; change nothing.")
@AsJson
def command(only_plan: bool, only_check: bool, as_json: bool) -> None:
    """Bring the schema up to date, as the owner (DATABASE_OWNER_URL).

    `--plan` without any database lists every file of this release.
    """
    settings = current()
    if only_plan and settings.database_url is None and not _embedded_is_there(settings):
        _print_plan(migrate.files(), as_json)
        return
    with database(settings) as target:
        owner = _owner(target)
        if only_plan or only_check:
            todo = asyncio.run(migrate.plan(owner))
            _print_plan(todo, as_json)
            sys.exit(1 if only_check and todo else 0)
        done = asyncio.run(migrate.run(owner, progress, direct_url=settings.database_direct_url))
    click.echo(json.dumps({"applied": done}) if as_json else f"{done} migrations applied; the schema is up to date")


def _owner(target: Target) -> str:
    if target.owner is None:
        raise BadConfigError(
            "`migrate` runs as the owner of the tables: set DATABASE_OWNER_URL=postgresql://cc_owner:…@host/database."
        )
    return target.owner


def _embedded_is_there(settings: Config) -> bool:
    return (settings.data_dir / "postgres").exists()


def _print_plan(files: list[migrate.Migration], as_json: bool) -> None:
    named = [{"number": file.number, "name": file.name, "sha256": file.sha256} for file in files]
    show(named, as_json, "\n".join(file.name for file in files) or "nothing to do; the schema is up to date")
