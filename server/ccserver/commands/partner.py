"""Partners."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ccserver import closing
from ccserver.commands import export
from ccserver.commands.calling import LIST_LIMIT, AsJson, a_name, actor, an_id, show, with_database
from ccserver.queries import audit_log, partners, sites
from ccserver.queries.audit_log import Act
from ccserver.scope import Database


@click.group("partner")
def command() -> None:
    """Partners: the providers who look after sites."""


@command.command("create")
@click.argument("name")
@click.option("--id", "partner_id", help="An id of your own, [0-9a-z-]; by default a new one.")
@AsJson
def partner_create(name: str, partner_id: str | None, as_json: bool) -> None:
    """Add a partner."""
    chosen = an_id(partner_id)

    async def act(db: Database) -> None:
        async with db.platform() as scope:
            await partners.insert(scope, chosen, a_name(name))
            await audit_log.append(scope, Act(actor(), "partner.create", f"partner:{chosen}", {"name": a_name(name)}))

    with_database(act)
    show({"id": chosen, "name": name}, as_json, f"partner {chosen}  {name}")


@command.command("list")
@AsJson
def partner_list(as_json: bool) -> None:
    """List the partners."""

    async def act(db: Database) -> list[partners.Partner]:
        async with db.platform() as scope:
            return await partners.list_all(scope, LIST_LIMIT)

    found = with_database(act)
    lines = [f"{row.id}  {row.name}" for row in found] or ["no partners yet: ccserver partner create NAME"]
    show([asdict(row) for row in found], as_json, "\n".join(lines))


@command.command("off-board")
@click.argument("partner_id")
@click.option("--export", "output", type=click.Path(path_type=Path), help="The folder to write all of it into first.")
@click.option("--yes", is_flag=True, help="Really do it: it cannot be undone.")
@click.option("--dry-run", is_flag=True, help="Say what would end; change nothing.")
@AsJson
def off_board(partner_id: str, output: Path | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Off-board a partner: export all, close every site, end its people, sessions and keys. Evidence stays."""
    if not dry_run and (output is None or not yes):
        raise click.UsageError("say --export FOLDER and --yes, or --dry-run to see what would end")
    found = with_database(lambda db: _off_board(db, partner_id, None if dry_run else output))
    show(found, as_json, "\n".join(f"{name}: {value}" for name, value in found.items()))


async def _off_board(db: Database, partner_id: str, output: Path | None) -> dict[str, Any]:
    if output is None:
        async with db.partner(partner_id) as scope:
            return {"would_close": await sites.open_ids(scope)}
    await export.write(db, partner_id, output)
    closed = await closing.close_sites(db, partner_id, actor())
    await export.write(db, partner_id, output)  # what came in between; nothing comes any more
    return asdict(await closing.off_board(db, partner_id, actor(), closed))
