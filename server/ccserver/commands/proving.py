"""Who a person is on the server's host, where being root there is not enough because two must agree."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ccserver import auth
from ccserver.errors import NotSignedInError
from ccserver.queries import users
from ccserver.queries.users import Credentials, User
from ccserver.scope import Database

_WRONG = "The login and the password are not those of a person here."


def person(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --login and --password-file; it takes them as `login` and `password_file`."""
    command = click.option(
        "--password-file", type=click.Path(path_type=Path), help="Read the password here; by default it is asked for."
    )(command)
    return click.option("--login", required=True, help="Who you are: an owner of the partner, or a platform admin.")(
        command
    )


def password(file: Path | None) -> str:
    """Return the password from a file, or from whoever sits there."""
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    if not sys.stdin.isatty():
        raise click.UsageError("nobody is there to ask for the password: name its file as --password-file")
    given: str = click.prompt("Password", hide_input=True)
    return given


async def who(db: Database, login: str, given: str) -> User:
    """Return the person; NotSignedInError for a wrong password, an unknown or a locked login: a failure counts."""
    async with db.credential(login.strip().lower()) as scope:
        found: Credentials | None = await users.find_by_credential(scope, login.strip().lower())
    right = auth.matches(found.password_hash if found else None, given)
    if found is None or found.locked:
        raise NotSignedInError(_WRONG)
    async with db.partner(found.user.partner_id) as partner:
        if right:
            await users.forgive(partner, found.user.id)
            return found.user
        await users.count_failure(partner, found.user.id)
    raise NotSignedInError(_WRONG)
