"""The audit log, listed and verified."""

import sys
from typing import Any

import click

from ccserver import audit_following
from ccserver.audit_chain import Head, Progress
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, show, with_database
from ccserver.commands.reaching import NEWEST, Partner
from ccserver.errors import NotFoundError
from ccserver.listing import EVER
from ccserver.queries import audit_log
from ccserver.queries.audit_log import AuditEntry, Filter
from ccserver.scope import Database


@click.group("audit")
def command() -> None:
    """The audit log: one hash chain per partner, and one of the platform."""


@command.command("list")
@Partner
@click.option("--actor", "by", help="Only what this actor did, as in user:olga@acme.example.")
@click.option("--action", help="Only this action, as in site.create.")
@click.option("--target", help="Only what was done to this.")
@AsJson
def list_entries(partner_id: str, by: str | None, action: str | None, target: str | None, as_json: bool) -> None:
    """List a partner's newest entries; `--partner platform` for the platform's own."""

    async def act(db: Database) -> list[AuditEntry]:
        async with db.platform() as scope:
            return await audit_log.newest(scope, partner_id, Filter(*EVER, by, action, target), NEWEST)

    found: list[AuditEntry] = with_database(act)
    lines = [f"{row.at:%Y-%m-%d %H:%M:%S}  {row.actor}  {row.action}  {row.target}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no entries")


@command.command("verify")
@click.option("--partner", "partner_id", help="Only this partner's chain; `platform` for the platform's.")
@AsJson
def verify(partner_id: str | None, as_json: bool) -> None:
    """Recompute every chain and compare it with its head; exit 1 and name the first bad entry when one is wrong."""

    async def act(db: Database) -> list[tuple[Head, Progress]]:
        async with db.platform() as scope:
            heads = await audit_log.heads(scope, partner_id)
        return [(head, await audit_following.follow(db.platform, head)) for head in heads]

    found: list[tuple[Head, Progress]] = with_database(act)
    if not found:
        raise NotFoundError(f"There is no partner {partner_id}.")
    show([_value(*each) for each in found], as_json, "\n".join(_line(*each) for each in found))
    if not all(progress.is_good for _, progress in found):
        sys.exit(1)


def _value(head: Head, progress: Progress) -> dict[str, Any]:
    return {
        "partner_id": head.partner_id,
        "good": progress.is_good,
        "size": head.size,
        "head": head.hash.hex(),
        "first_bad_seq": progress.first_bad_seq,
        "reason": progress.reason,
    }


def _line(head: Head, progress: Progress) -> str:
    if progress.is_good:
        return f"{head.partner_id}  good  {head.size} entries  head {head.hash.hex()}"
    return f"{head.partner_id}  BAD at entry {progress.first_bad_seq}: {progress.reason}"
