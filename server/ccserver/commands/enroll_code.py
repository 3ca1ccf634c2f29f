"""Enrolment codes."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from ccserver import code_batches, enrolment, keys
from ccserver.code_batches import CodeOfBatch, Wanted
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, current, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Site
from ccserver.errors import BadBodyError, BadConfigError, NotFoundError
from ccserver.queries import enrollment_codes
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.scope import Database
from ccshared import ids

MAX_HOURS = 24 * 30
_COLUMNS = {"site", "count", "appliance", "hours"}
_MAX_BYTES = 1024 * 1024


@click.group("enroll-code")
def command() -> None:
    """One-time codes by which appliances become known."""


@command.command("create")
@click.option("--site", "site_id", help="The site that the appliance stands in.")
@click.option("--hours", default=enrolment.CODE_HOURS, show_default=True, type=click.IntRange(1, MAX_HOURS))
@click.option("--appliance", "replaces", help="The appliance of the site that the device takes the place of.")
@click.option(
    "--csv",
    "table",
    type=click.File(encoding="utf-8-sig"),
    help="Many at once, or - for standard input: columns site, count or appliance (a name), and hours if you like.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the codes of --csv to a new file, mode 0600.")
@click.option("--dry-run", is_flag=True, help="With --csv: say what would be made, and make none.")
@AsJson
def create(site_id: str | None, hours: int, table: TextIO | None, as_json: bool, **more: Any) -> None:
    """Make a code for one appliance, or many by --csv; each is shown once, and only the hash of its secret is kept."""
    replaces, output, dry_run = more["replaces"], more["output"], more["dry_run"]
    if (site_id is None) == (table is None):
        raise click.UsageError("Say --site, or --csv for many.")
    if table is not None:
        if replaces:
            raise click.UsageError("--appliance goes with --site; in --csv the column `appliance` is a name.")
        _create_many(list(_read(table, hours)), output, Consent(yes=True, dry_run=dry_run), as_json)
    elif output or dry_run:
        raise click.UsageError("--output and --dry-run go with --csv.")
    else:
        _create_one(str(site_id), hours, replaces, as_json)


def _create_one(site_id: str, hours: int, replaces: str | None, as_json: bool) -> None:
    settings = current()
    server_keys = keys.load(settings.key_file)

    async def act(db: Database) -> str:
        async with reaching.site_scope(db, site_id) as own:
            made = await enrolment.make_code(own, server_keys, hours, replaces)
            detail = {"replaces": replaces} if replaces else {}
            await reaching.note(own, "enroll_code.create", f"site:{site_id}", hours=hours, **detail)
            return str(made)

    code = with_database(act)
    install = f"sudo cc-agent enroll --server-url {settings.public_url}"
    show(
        {"code": code, "enroll": install, "hours": hours},
        as_json,
        f"{code}\n\nOn the appliance, within {hours} h, run this and give the code when it asks:\n  {install}",
    )


def _create_many(wanted: list[Wanted], output: Path | None, consent: Consent, as_json: bool) -> None:
    server_keys = keys.load(current().key_file)
    made: list[CodeOfBatch] = []

    async def act(db: Database) -> None:
        async with reaching.keeping(db.platform(), consent) as scope:
            made.extend(await code_batches.make(scope, server_keys, wanted, actor()))
            if output and not consent.dry_run:
                _write(output, made)  # before COMMIT: codes that cannot be written are not made

    with_database(act)
    if consent.dry_run or output:
        said = {"codes": len(made), "sites": len({each.site_id for each in made}), "dry_run": consent.dry_run}
        where = f", written to {output}" if output and not consent.dry_run else ""
        show(said, as_json, consent.say(f"{len(made)} codes for {said['sites']} sites{where}"))
        return
    show(reaching.values(made), as_json, _csv(made).rstrip("\r\n"))


def _read(table: TextIO, hours: int) -> Iterator[Wanted]:
    """Give a code that is wanted after the other; BadBodyError names every bad line by its number."""
    text = table.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise BadBodyError(f"The table is larger than {_MAX_BYTES} letters.")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found, wrong = [], []
    try:
        if rows.fieldnames is None or "site" not in rows.fieldnames or set(rows.fieldnames) - _COLUMNS:
            raise BadBodyError("The first line names the columns: site, and count or appliance, and hours if you like.")
        for row in rows:
            try:
                found += _wanted(rows.line_num, row, hours)
            except ValueError as error:
                wrong.append(f"line {rows.line_num}: {error}")
    except csv.Error as error:
        wrong.append(f"line {rows.line_num}: {error}")
    if wrong or not found:
        raise BadBodyError("; ".join(wrong)[:4000] + "." if wrong else "The table has no line.")
    yield from found


def _wanted(line: int, row: dict[str, str | None], hours: int) -> list[Wanted]:
    cells = {name: (value or "").strip() for name, value in row.items() if name is not None and name in _COLUMNS}
    if None in row:
        raise ValueError("it has more columns than the first line")
    if not ids.is_id(cells["site"]):
        raise ValueError("site: 1 to 64 of 0-9, a-z and -")
    name = cells.get("appliance") or None
    if name and (cells.get("count") not in (None, "", "1") or len(name) > 200 or not name.isprintable()):
        raise ValueError("appliance: a name of at most 200 letters, for one")
    number = _number(cells.get("count"), "count", 1, code_batches.MAX_ROWS)
    each = Wanted(f"line {line}", cells["site"], name, _number(cells.get("hours"), "hours", hours, MAX_HOURS))
    return [each] * number


def _number(text: str | None, name: str, default: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and 1 <= int(text) <= most):
        raise ValueError(f"{name}: a whole number from 1 to {most}")
    return int(text)


def _csv(made: list[CodeOfBatch]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("site", "appliance", "code", "expires_at"))
    writer.writerows((each.site_id, each.name or "", each.code, each.expires_at.isoformat()) for each in made)
    return text.getvalue()


def _write(path: Path, made: list[CodeOfBatch]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(_csv(made))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadConfigError(f"{path} cannot be written ({error.strerror}); no code was made.") from error


@command.command("list")
@Site
@AsJson
def list_codes(site_id: str, as_json: bool) -> None:
    """List a site's newest codes, without their secrets."""

    async def act(db: Database) -> list[CodeDetail]:
        async with reaching.site_scope(db, site_id) as scope:
            return await enrollment_codes.newest(scope, NEWEST)

    found: list[CodeDetail] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_line(row) for row in found) or "no codes")


@command.command("revoke")
@click.argument("code_id")
@Site
@reaching.destroys
@AsJson
def revoke(code_id: str, site_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Make a code useless that no device has used yet."""
    consent = Consent(yes, dry_run)
    consent.ask(f"revoke code {code_id}")

    async def act(db: Database) -> None:
        async with reaching.keeping(reaching.site_scope(db, site_id), consent) as scope:
            if not await enrollment_codes.revoke(scope, code_id):
                raise NotFoundError(f"There is no code {code_id} at this site that could still be used.")
            await reaching.note(scope, "code.revoke", code_id, site=site_id)

    with_database(act)
    show({"id": code_id, "dry_run": dry_run}, as_json, consent.say(f"code {code_id} is revoked"))


def _line(row: CodeDetail) -> str:
    state = "used" if row.used_at else "revoked" if row.revoked_at else f"until {row.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"{row.id}  {state}  {row.label or ''}"
