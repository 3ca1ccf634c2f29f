"""Sites."""

import hashlib
import re
from dataclasses import asdict
from pathlib import Path

import click

from ccserver import closing, exporting, files, keys
from ccserver.closing import Closing
from ccserver.commands.calling import LIST_LIMIT, AsJson, a_name, actor, an_id, current, show, with_database
from ccserver.commands.evidence import both
from ccserver.commands.reaching import owner_of
from ccserver.errors import ChangedMeanwhileError
from ccserver.queries import audit_log, sites
from ccserver.queries.audit_log import Act
from ccserver.scope import Database
from ccshared.canonical import Json

MAX_TAGS = 20
_TAG = re.compile(r"[0-9a-z_.-]{1,64}")


@click.group("site")
def command() -> None:
    """Sites: the clinics of a partner."""


@command.command("create")
@click.argument("name")
@click.option("--partner", "partner_id", required=True, help="The partner that it belongs to, for good.")
@click.option("--id", "site_id", help="An id of your own, [0-9a-z-]; by default a new one.")
@AsJson
def site_create(name: str, partner_id: str, site_id: str | None, as_json: bool) -> None:
    """Add a site to a partner."""
    chosen = an_id(site_id)

    async def act(db: Database) -> None:
        async with db.partner(partner_id) as scope:
            await sites.insert(scope, chosen, a_name(name))
            await audit_log.append(scope, Act(actor(), "site.create", f"site:{chosen}", {"name": a_name(name)}))

    with_database(act)
    show({"id": chosen, "partner_id": partner_id, "name": name}, as_json, f"site {chosen}  {name}")


@command.command("list")
@AsJson
def site_list(as_json: bool) -> None:
    """List the sites of all partners."""

    async def act(db: Database) -> list[sites.Site]:
        async with db.platform() as scope:
            return await sites.list_anywhere(scope, LIST_LIMIT)

    found = with_database(act)
    lines = [f"{row.id}  {row.name}  (partner {row.partner_id})" for row in found]
    show(
        [asdict(row) for row in found],
        as_json,
        "\n".join(lines or ["no sites yet: ccserver site create --partner ID NAME"]),
    )


@command.command("tag")
@click.argument("site_id")
@click.argument("tags", nargs=-1)
@AsJson
def site_tag(site_id: str, tags: tuple[str, ...], as_json: bool) -> None:
    """Give a site these tags and no others, by which orders for many name it."""
    if len(tags) > MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in tags):
        raise click.BadParameter(f"at most {MAX_TAGS}, each 1 to 64 of 0-9, a-z, . _ and -", param_hint="TAGS")

    async def act(db: Database) -> list[str]:
        async with db.site(await owner_of(db, site_id), site_id) as scope:
            now = await sites.find(scope, site_id)
            changed = await sites.change(scope, None, sorted(set(tags)), now.revision if now else 0)
            if changed is None:
                raise ChangedMeanwhileError
            detail: dict[str, Json] = {"tags": list(changed.tags)}
            await audit_log.append(scope, Act(actor(), "site.tag", site_id, detail))
            return changed.tags

    made: list[str] = with_database(act)
    show({"id": site_id, "tags": made}, as_json, f"site {site_id}  {' '.join(made) or 'no tags'}")


@command.command("close")
@click.argument("site_id")
@click.option("--export", "output", type=click.Path(path_type=Path), help="Where to write the site's evidence first.")
@click.option("--yes", is_flag=True, help="Really do it: it cannot be undone.")
@click.option("--dry-run", is_flag=True, help="Say what would end; change nothing.")
@AsJson
def site_close(site_id: str, output: Path | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Close a site for good, once its evidence is exported: appliances are revoked, codes and orders cancelled.

    What is stored stays readable for as long as it must be kept.
    """
    if not dry_run and (output is None or not yes):
        raise click.UsageError("say --export FILE and --yes, or --dry-run to see what would end")
    ended = with_database(lambda db: close(db, site_id, None if dry_run else output))
    text = f"site {site_id}: {ended.appliances} appliances, {ended.codes} codes, {ended.orders} orders"
    text += " would end" if dry_run else " ended; it is closed"
    if ended.waiting:
        lost = "would not be taken any more" if dry_run else "are not taken any more"
        text += f"\n{ended.waiting} entries were still on its appliances, and {lost}"
    show(asdict(ended), as_json, text)


async def close(db: Database, site_id: str, output: Path | None) -> Closing:
    """Export a site and close it; without a file only say what would end."""
    partner_id = await owner_of(db, site_id)
    async with db.site(partner_id, site_id) as scope:
        foreseen = await closing.foresee(scope)
    if output is None:
        return foreseen
    digest = hashlib.sha256()
    with files.replaced(output) as file:
        asked, server_keys = exporting.Asked(partner_id, site_id), keys.load(current().key_file)
        await exporting.write_site(db, server_keys, asked, both(digest.update, file.write))
    async with db.site(partner_id, site_id) as scope:
        return await closing.close(scope, actor(), digest.hexdigest())
