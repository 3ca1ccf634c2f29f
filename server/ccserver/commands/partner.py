"""Partners."""

from dataclasses import asdict

import click

from ccserver.commands.calling import LIST_LIMIT, AsJson, a_name, actor, an_id, show, with_database
from ccserver.queries import audit_log, partners
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
