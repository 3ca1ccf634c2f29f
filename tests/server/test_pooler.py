"""A pooler in between is found by the process id that it makes up; here without one, and with one by PG=pgbouncer."""

import asyncio
import os

import asyncpg
import pytest

from ccserver import errors, migrate, pooler
from ccserver.localpg import Urls
from ccserver.scope import Database

BEHIND = os.environ.get("PG", "").startswith("pgbouncer")


async def test_the_owners_connection_is_direct_and_the_servers_is_as_the_run_says(database: Urls) -> None:
    owner, server = await asyncpg.connect(database.owner), await asyncpg.connect(database.server)
    assert await pooler.is_direct(owner)
    assert await pooler.is_direct(server) is not BEHIND
    await owner.close()
    await server.close()


async def test_a_process_id_that_is_not_the_sessions_is_a_poolers(database: Urls) -> None:
    conn = await asyncpg.connect(database.owner)
    assert await pooler.is_direct(_Told(conn, conn.get_server_pid() + 1)) is False  # type: ignore[arg-type]  # its two methods
    await conn.close()


class _Told:
    """A real connection whose other end told another process id, as poolers do."""

    def __init__(self, conn: asyncpg.Connection, pid: int) -> None:
        self.execute, self.get_server_pid = conn.execute, lambda: pid


async def test_a_statement_runs_outside_a_transaction_only_without_a_pooler(db: Database) -> None:
    async with db.bare() as conn:
        assert conn.is_in_transaction() is BEHIND


async def test_migrate_refuses_a_pooler(database: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    async def found(_conn: object) -> bool:
        return False

    monkeypatch.setattr(pooler, "is_direct", found)
    with pytest.raises(errors.PoolerError, match="DATABASE_DIRECT_URL"):
        await migrate.run(database.owner, lambda _: None)


def as_owner(urls: Urls) -> str:
    """Return the owner's URL by the server's way: through the pooler where the run has one."""
    return urls.server.replace("cc_server@", "cc_owner@", 1)


async def test_migrate_runs_through_a_pooler_when_its_lock_goes_past_it(empty_database: Urls) -> None:
    done = await migrate.run(as_owner(empty_database), lambda _: None, direct_url=empty_database.owner)
    assert done == len(migrate.files())
    assert await migrate.run(empty_database.owner, lambda _: None) == 0


async def test_two_runners_whose_lock_is_apart_take_turns(empty_database: Urls) -> None:
    way = as_owner(empty_database)
    both = (migrate.run(way, lambda _: None, direct_url=empty_database.owner) for _ in range(2))
    assert sorted(await asyncio.gather(*both)) == [0, len(migrate.files())]


async def test_a_lock_in_another_database_is_none(empty_database: Urls, database: Urls) -> None:
    with pytest.raises(errors.MigrationError, match="DATABASE_DIRECT_URL"):
        await migrate.run(empty_database.owner, lambda _: None, direct_url=database.server)
