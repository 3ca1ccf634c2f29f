"""What every command needs: the configured database, ids and names as typed, output for people or programs."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ccserver import auth, config, localpg, serving
from ccserver.config import Config
from ccserver.errors import BadConfigError
from ccserver.scope import PLATFORM, Database, open_pool
from ccshared import ids

EMBEDDED_DATABASE = "central_command"
LIST_LIMIT = 10_000
AsJson = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def actor() -> str:
    """Return how the audit log names whoever runs a command on the server's host."""
    return f"host:uid-{os.getuid()}"


@dataclass(frozen=True)
class Target:
    """Where the database is: as the server's role, as its owner, as an administrator where we run it ourselves.

    `backup` is as the role that only reads, past row security.
    """

    server: str
    owner: str | None
    admin: str | None
    backup: str | None


@contextmanager
def database(settings: Config) -> Iterator[Target]:
    """Give the configured database, or the embedded one for as long as this lasts."""
    if settings.database_url is not None:
        yield Target(settings.database_url, settings.database_owner_url, None, settings.database_backup_url)
        return
    with localpg.attach_or_start(settings.data_dir / "postgres", progress=progress) as server:
        urls = server.ensure_database(EMBEDDED_DATABASE)
        yield Target(urls.server, urls.owner, urls.admin, urls.backup)


def with_database(act: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
    """Run an act with a pool over the configured database, and return what it returns."""

    async def run(url: str) -> Any:
        async with _pool(url) as db:
            return await act(db)

    with database(current()) as target:
        return asyncio.run(run(target.server))


@asynccontextmanager
async def _pool(url: str) -> AsyncIterator[Database]:
    db = await open_pool(url, min_size=1, max_size=2)
    try:
        await serving.check(db)
        yield db
    finally:
        await db.close()


def current() -> Config:
    """Return the configuration of this environment."""
    return config.from_environ()


def show(value: Any, as_json: bool, text: str) -> None:
    """Print a value as JSON, or the text that says it."""
    click.echo(json.dumps(value, default=_iso) if as_json else text)


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def progress(line: str) -> None:
    """Say on standard error what goes on."""
    click.echo(line, err=True)


def an_id(given: str | None) -> str:
    """Return the id that was given, or a new one."""
    chosen = given or ids.new_id()
    if not ids.is_id(chosen) or chosen == PLATFORM:
        raise click.BadParameter("1 to 64 of 0-9, a-z and -, and not 'platform'", param_hint="--id")
    return chosen


def a_name(given: str) -> str:
    """Return a name without blanks around it."""
    if not 1 <= len(given.strip()) <= 200 or "\x00" in given:
        raise click.BadParameter("1 to 200 letters", param_hint="NAME")
    return given.strip()


def read_password(path: Path) -> str:
    """Return the password that stands in a file; BadConfigError when there is none that may be chosen."""
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfigError(f"The password file {path} cannot be read: {error}.") from error
    if not auth.is_acceptable(password):
        raise BadConfigError(auth.CHOOSING_RULE)
    return password
