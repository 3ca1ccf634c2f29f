"""Evidence, exported for whoever wants to verify it."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ccserver import exporting, files, keys, redacting
from ccserver.commands import proving, reaching
from ccserver.commands.calling import LIST_LIMIT, AsJson, current, show, with_database
from ccserver.commands.reaching import Consent, owner_of
from ccserver.errors import ForbiddenError
from ccserver.exporting import Asked
from ccserver.packing import Pack, Write
from ccserver.queries import redactions
from ccserver.queries.redactions import Copy, Redaction
from ccserver.scope import PLATFORM, Database, SiteScope
from ccshared.vocabulary import Role

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


@command.command("redact")
@click.option("--site", "site_id", required=True, help="The site.")
@click.option("--log", "origin", help="The entry's log, by its origin, as exports and the verifier name it.")
@click.option("--seq", type=click.IntRange(0), help="The entry's place in its log.")
@click.option("--reason", help="Why; it is kept for ever, so nothing of what is erased.")
@click.option("--approve", "redaction_id", help="Approve what another person asked for: the payload is erased.")
@proving.person
@reaching.destroys
@AsJson
def redact(site_id: str, login: str, password_file: Path | None, as_json: bool, **more: Any) -> None:
    """Ask for an entry's payload to be erased, or approve it as the second person; its leaf and place stay.

    It cannot be taken back. The appliance's own payload is erased by an order of its own type.
    """
    consent = Consent(more.pop("yes"), more.pop("dry_run"))
    asked = _Asked(**more)
    given = proving.password(password_file)
    consent.ask(f"erase entry {asked.seq} of {asked.origin}" if asked.redaction_id is None else "erase it for good")

    async def act(db: Database) -> tuple[Redaction, list[Copy]]:
        user, owner = await proving.who(db, login, given), await owner_of(db, site_id)
        if user.role not in (Role.OWNER, Role.PLATFORM_ADMIN) or user.partner_id not in (owner, PLATFORM):
            raise ForbiddenError("Owners of the site's partner and platform admins redact.")
        async with reaching.keeping(db.site(owner, site_id), consent) as scope:
            return await asked.run(scope, f"user:{user.login}")

    found, others = with_database(act)
    state = "is erased" if found.approved_by else "waits for another person: --approve " + found.id
    lines = [consent.say(f"entry {found.seq} of {found.origin} {state}")]
    lines += [f"the same entry lies at {each.seq} of {each.origin}: redact it too" for each in others]
    show({**asdict(found), "copies": reaching.values(others), "dry_run": consent.dry_run}, as_json, "\n".join(lines))


@dataclass(frozen=True)
class _Asked:
    """What is to be erased: an entry, or a redaction that waits."""

    origin: str | None
    seq: int | None
    reason: str | None
    redaction_id: str | None

    async def run(self, scope: SiteScope, who: str) -> tuple[Redaction, list[Copy]]:
        """Ask for it, or approve it."""
        if self.redaction_id is not None:
            return await redacting.approve(scope, self.redaction_id, who), []
        if self.origin is None or self.seq is None or not (self.reason or "").strip():
            raise click.UsageError("--log, --seq and --reason name what is erased; or --approve what was asked for")
        return await redacting.request(scope, self.origin, self.seq, str(self.reason).strip()[:300], who)


@command.command("redactions")
@click.option("--site", "site_id", required=True, help="The site.")
@AsJson
def redactions_list(site_id: str, as_json: bool) -> None:
    """List a site's redactions, newest first: after a restore, do again those that came after the backup."""

    async def act(db: Database) -> list[Redaction]:
        async with reaching.site_scope(db, site_id) as scope:
            return await redactions.newest(scope, LIST_LIMIT)

    found: list[Redaction] = with_database(act)
    lines = [f"{row.id}  {row.origin} {row.seq}  {_state(row)}  {row.reason}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no redactions")


def _state(row: Redaction) -> str:
    if row.approved_by is None:
        return f"asked for by {row.requested_by}, waits for another person"
    return "erased here and on the appliance" if row.appliance_erased_at else "erased here, not yet on the appliance"


def both(one: Write, other: Write) -> Callable[[bytes], None]:
    """Return what writes to both."""

    def write(data: bytes) -> None:
        one(data)
        other(data)

    return write


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
