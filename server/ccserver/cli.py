"""The server's command line: noun, then verb. what is read also as `--json`, what fails as one sentence."""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ccserver import auth, config, enrolment, keys, localpg, migrate, roles, serving
from ccserver.config import Config
from ccserver.errors import BadConfigError, CentralCommandError, NotFoundError
from ccserver.queries import partners, sites, users
from ccserver.queries.users import User
from ccserver.scope import PLATFORM, Database, open_pool
from ccshared import ids
from ccshared.vocabulary import Role

EMBEDDED_DATABASE = "central_command"
AsJson = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_LIST_LIMIT = 10_000


@dataclass(frozen=True)
class Target:
    """Where the database is: as the server's role, as its owner, and as an administrator where we run it ourselves."""

    server: str
    owner: str | None
    admin: str | None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ccserver")
def cli() -> None:
    """Central Command: the server. Without DATABASE_URL it uses an embedded PostgreSQL under CCSERVER_DATA_DIR."""


@cli.command()
def serve() -> None:
    """Serve the agents' API and the dashboard until SIGINT or SIGTERM."""
    settings = _config()
    with database(settings) as target:
        serving.run(settings, target.server)


@cli.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="List what would run; change nothing.")
@click.option("--check", "only_check", is_flag=True, help="Exit 1 when something would run; change nothing.")
@AsJson
def migrate_command(only_plan: bool, only_check: bool, as_json: bool) -> None:
    """Bring the schema up to date, as the owner (DATABASE_OWNER_URL).

    `--plan` without any database lists every file of this release.
    """
    settings = _config()
    if only_plan and settings.database_url is None and not _embedded_is_there(settings):
        _print_plan(migrate.files(), as_json)
        return
    with database(settings) as target:
        owner = _owner(target)
        if only_plan or only_check:
            todo = asyncio.run(migrate.plan(owner))
            _print_plan(todo, as_json)
            sys.exit(1 if only_check and todo else 0)
        done = asyncio.run(migrate.run(owner, _progress))
    click.echo(json.dumps({"applied": done}) if as_json else f"{done} migrations applied; the schema is up to date")


@cli.group()
def db() -> None:
    """The database."""


@db.command("roles")
@click.option("--run", "run_it", is_flag=True, help="Run the statements on the embedded database instead of printing.")
def db_roles(run_it: bool) -> None:
    """Print the statements that make the roles; run them once as an administrator of your PostgreSQL."""
    if run_it:
        with database(_config()):
            click.echo("the embedded database has its roles")
        return
    for statement in roles.statements():
        click.echo(statement.rstrip().rstrip(";") + ";")


@cli.group("keys")
def keys_group() -> None:
    """The server's key file."""


@keys_group.command("init")
def keys_init() -> None:
    """Make the key file of a new server; it is never overwritten. Back it up apart from the database."""
    settings = _config()
    made = keys.create(settings.key_file, settings.server_name)
    click.echo(f"{settings.key_file}: keys of {made.server}, order key {made.order_fingerprint}")


@cli.group()
def partner() -> None:
    """Partners: the providers who look after sites."""


@partner.command("create")
@click.argument("name")
@click.option("--id", "partner_id", help="An id of your own, [0-9a-z-]; by default a new one.")
@AsJson
def partner_create(name: str, partner_id: str | None, as_json: bool) -> None:
    """Add a partner."""
    chosen = _id(partner_id)

    async def act(db: Database) -> None:
        async with db.platform() as scope:
            await partners.insert(scope, chosen, _name(name))

    _with_database(act)
    _print({"id": chosen, "name": name}, as_json, f"partner {chosen}  {name}")


@partner.command("list")
@AsJson
def partner_list(as_json: bool) -> None:
    """List the partners."""

    async def act(db: Database) -> list[partners.Partner]:
        async with db.platform() as scope:
            return await partners.list_all(scope, _LIST_LIMIT)

    found = _with_database(act)
    lines = [f"{row.id}  {row.name}" for row in found] or ["no partners yet: ccserver partner create NAME"]
    _print([asdict(row) for row in found], as_json, "\n".join(lines))


@cli.group()
def site() -> None:
    """Sites: the clinics of a partner."""


@site.command("create")
@click.argument("name")
@click.option("--partner", "partner_id", required=True, help="The partner that it belongs to, for good.")
@click.option("--id", "site_id", help="An id of your own, [0-9a-z-]; by default a new one.")
@AsJson
def site_create(name: str, partner_id: str, site_id: str | None, as_json: bool) -> None:
    """Add a site to a partner."""
    chosen = _id(site_id)

    async def act(db: Database) -> None:
        async with db.partner(partner_id) as scope:
            await sites.insert(scope, chosen, _name(name))

    _with_database(act)
    _print({"id": chosen, "partner_id": partner_id, "name": name}, as_json, f"site {chosen}  {name}")


@site.command("list")
@AsJson
def site_list(as_json: bool) -> None:
    """List the sites of all partners."""

    async def act(db: Database) -> list[sites.Site]:
        async with db.platform() as scope:
            return await sites.list_anywhere(scope, _LIST_LIMIT)

    found = _with_database(act)
    lines = [f"{row.id}  {row.name}  (partner {row.partner_id})" for row in found]
    _print(
        [asdict(row) for row in found],
        as_json,
        "\n".join(lines or ["no sites yet: ccserver site create --partner ID NAME"]),
    )


@cli.group("enroll-code")
def enroll_code() -> None:
    """One-time codes by which appliances become known."""


@enroll_code.command("create")
@click.option("--site", "site_id", required=True, help="The site that the appliance stands in.")
@click.option("--hours", default=enrolment.CODE_HOURS, show_default=True, type=click.IntRange(1, 24 * 30))
@AsJson
def enroll_code_create(site_id: str, hours: int, as_json: bool) -> None:
    """Make a code for one appliance; it is shown once, and only the hash of its secret is kept."""
    settings = _config()
    server_keys = keys.load(settings.key_file)

    async def act(db: Database) -> str:
        async with db.platform() as scope:
            found = await sites.find_anywhere(scope, site_id)
        if found is None:
            raise NotFoundError(f"There is no site {site_id}: `ccserver site list` shows them.")
        async with db.site(found.partner_id, found.id) as own:
            return str(await enrolment.make_code(own, server_keys, hours))

    code = _with_database(act)
    install = f"cc-agent enroll --server-url {settings.public_url}"
    _print(
        {"code": code, "enroll": install, "hours": hours},
        as_json,
        f"{code}\n\nOn the appliance, within {hours} h, run this and give the code when it asks:\n  {install}",
    )


@cli.group()
def admin() -> None:
    """People, made on the server itself."""


@admin.command("create")
@click.argument("login")
@click.option("--partner", "partner_id", help="Make an owner of this partner; by default the platform's admin.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Read the password here; by default a new one.")
@AsJson
def admin_create(login: str, partner_id: str | None, password_file: Path | None, as_json: bool) -> None:
    """Add somebody who may do everything; a new password is printed once."""
    password = _read_password(password_file) if password_file else secrets.token_urlsafe(15)
    role = Role.OWNER if partner_id else Role.PLATFORM_ADMIN
    user = User(partner_id or PLATFORM, ids.new_id(), login.strip().lower(), str(role))
    password_hash = auth.hash_password(password)

    async def act(db: Database) -> None:
        async with db.platform() as scope:
            await users.insert(scope, user, password_hash)

    _with_database(act)
    shown = {"login": user.login, "role": user.role} | ({} if password_file else {"password": password})
    _print(shown, as_json, "\n".join(f"{name}: {value}" for name, value in shown.items()))


@contextmanager
def database(settings: Config) -> Iterator[Target]:
    """Give the configured database, or the embedded one for as long as this lasts."""
    if settings.database_url is not None:
        yield Target(settings.database_url, settings.database_owner_url, None)
        return
    with localpg.attach_or_start(settings.data_dir / "postgres", progress=_progress) as server:
        urls = server.ensure_database(EMBEDDED_DATABASE)
        yield Target(urls.server, urls.owner, urls.admin)


def main() -> None:
    """Run the command line; what goes wrong is one sentence on standard error and exit code 1."""
    logging.getLogger("ccserver").addHandler(logging.NullHandler())  # only `serve` writes a log
    try:
        cli()
    except CentralCommandError as error:
        click.echo(f"ccserver: {error}", err=True)
        sys.exit(1)


def _with_database(act: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
    async def run(url: str) -> Any:
        async with _pool(url) as db:
            return await act(db)

    with database(_config()) as target:
        return asyncio.run(run(target.server))


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[Database]:
    db = await open_pool(url, min_size=1, max_size=2)
    try:
        await serving.check(db)
        yield db
    finally:
        await db.close()


def _config() -> Config:
    return config.from_environ()


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
    _print(named, as_json, "\n".join(file.name for file in files) or "nothing to do; the schema is up to date")


def _print(value: Any, as_json: bool, text: str) -> None:
    click.echo(json.dumps(value, default=_iso) if as_json else text)


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _id(given: str | None) -> str:
    chosen = given or ids.new_id()
    if not ids.is_id(chosen) or chosen == PLATFORM:
        raise click.BadParameter("1 to 64 of 0-9, a-z and -, and not 'platform'", param_hint="--id")
    return chosen


def _name(given: str) -> str:
    if not 1 <= len(given.strip()) <= 200 or "\x00" in given:
        raise click.BadParameter("1 to 200 letters", param_hint="NAME")
    return given.strip()


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfigError(f"The password file {path} cannot be read: {error}.") from error
    if len(password) < 12:
        raise BadConfigError("The password needs at least 12 letters.")
    return password
