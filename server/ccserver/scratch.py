"""A database of its own beside the server's, for as long as it is needed."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from ccserver import roles
from ccserver.errors import CentralCommandError
from ccserver.queries import backups
from ccserver.scope import alone

SETTING = "DATABASE_ADMIN_URL"


class NoScratchError(CentralCommandError):
    """This role may not make a database: let DATABASE_ADMIN_URL name one that may, or give cc_owner CREATEDB."""


@asynccontextmanager
async def database(admin_url: str, owner_url: str, *, keep: bool) -> AsyncIterator[tuple[str, str]]:
    """Make a database of cc_owner and give its name and its owner's URL; it goes in the end unless `keep`.

    NoScratchError when the administrator's role may make none.
    """
    name = f"cc_restore_{secrets.token_hex(4)}"
    async with alone(admin_url, SETTING) as conn:
        if not await backups.may_create_databases(conn):
            raise NoScratchError
        await _run(conn, roles.database_statements(name))
        try:
            yield name, named(owner_url, name)
        finally:
            if not keep:
                await _run(conn, [f'DROP DATABASE "{name}" WITH (FORCE)'])


def named(url: str, database_name: str) -> str:
    """Return a URL of another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database_name}"))


async def _run(conn: "asyncpg.Connection[asyncpg.Record]", statements: list[str]) -> None:
    for statement in statements:
        await conn.execute(statement)
