"""Scopes: a tenant's rows and nobody else's, as the server's own role; nothing survives a transaction."""

import asyncio
import contextlib

import asyncpg
import pytest

from ccserver import errors, health
from ccserver.localpg import Urls
from ccserver.queries import partners, sites
from ccserver.scope import Database, open_pool


@pytest.fixture
async def two(db: Database) -> Database:
    async with db.platform() as platform:
        for partner in ("alpha", "beta"):
            await partners.insert(platform, partner, partner)
    for partner in ("alpha", "beta"):
        async with db.partner(partner) as scope:
            await sites.insert(scope, f"{partner}-site", partner)
    return db


async def test_a_partner_sees_its_own_sites_only(two: Database) -> None:
    async with two.partner("alpha") as scope:
        assert [site.id for site in await sites.open_by_name(scope, 50)] == ["alpha-site"]
        assert await scope.conn.fetchval("SELECT count(*) FROM sites") == 1


async def test_a_partner_cannot_write_into_another(two: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with two.partner("alpha") as scope:
            await scope.conn.execute("INSERT INTO sites (id, partner_id, name) VALUES ('x', 'beta', 'x')")
    async with two.partner("alpha") as scope:
        assert await scope.conn.execute("UPDATE sites SET name = 'mine' WHERE id = 'beta-site'") == "UPDATE 0"


async def test_without_a_scope_there_are_no_rows(two: Database) -> None:
    async with two.bare() as conn:
        assert await conn.fetchval("SELECT count(*) FROM sites") == 0
        assert await conn.fetchval("SELECT count(*) FROM partners") == 0


async def test_a_site_of_another_partner_shows_nothing(two: Database) -> None:
    async with two.site("alpha", "beta-site") as scope:
        assert await scope.conn.fetchval("SELECT count(*) FROM sites") == 0


@pytest.mark.parametrize("hostile", ["", "x'; DROP TABLE sites; --", "A", "a" * 65, "a\n", "a\x00"])
async def test_only_an_id_can_be_a_scope(db: Database, hostile: str) -> None:
    with pytest.raises(errors.NotFoundError):
        async with db.partner(hostile):
            pass


async def test_nothing_of_a_scope_outlives_it(two: Database) -> None:
    for opened in (two.partner("alpha"), two.platform(), two.credential("x")):
        async with opened as scope:
            assert await scope.conn.fetchval("SELECT 1") == 1
        async with two.bare() as conn:
            assert await conn.fetchval("SELECT current_user") == "cc_server"
            assert not await conn.fetchval("SELECT nullif(current_setting('cc.partner_id', true), '')")


async def test_an_exception_rolls_back_and_frees_the_connection(two: Database) -> None:
    for _ in range(6):  # more than the pool holds
        with pytest.raises(ZeroDivisionError):
            async with two.partner("alpha") as scope:
                await sites.insert(scope, "gone", "gone")
                raise ZeroDivisionError
    async with two.partner("alpha") as scope:
        assert len(await sites.open_by_name(scope, 50)) == 1


async def test_a_cancelled_request_leaves_no_open_transaction(two: Database) -> None:
    async def slow() -> None:
        async with two.partner("alpha") as scope:
            await scope.conn.execute("SELECT pg_sleep(30)")

    tasks = [asyncio.create_task(slow()) for _ in range(4)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with two.bare() as conn:
        assert not await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'cc_server' AND datname = current_database()"
            " AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
        )
        assert await conn.fetchval("SELECT count(*) FROM sites") == 0


async def test_an_error_that_was_caught_inside_does_not_commit_silently(two: Database) -> None:
    with pytest.raises(errors.DatabaseUnavailableError):
        async with two.partner("alpha") as scope:
            with contextlib.suppress(asyncpg.DivisionByZeroError):
                await scope.conn.execute("SELECT 1/0")


async def test_a_database_that_is_down_is_said_in_a_sentence() -> None:
    with pytest.raises(errors.DatabaseUnavailableError, match="DATABASE_URL"):
        await open_pool("postgresql://cc_server@127.0.0.1:1/none", min_size=1, max_size=1)


async def test_the_server_refuses_a_role_that_row_security_does_not_bind(database: Urls) -> None:
    for url in (database.admin, database.owner):
        pool = await open_pool(url, min_size=1, max_size=1)
        with pytest.raises(errors.WrongRoleError):
            await health.check_database(pool)
        await pool.close()


async def test_a_connection_that_is_waited_for_is_not_kept_for_the_next(database: Urls) -> None:
    db = await open_pool(database.server, min_size=1, max_size=1)

    async def once() -> int:
        async with db.bare() as conn:
            return int(await conn.fetchval("SELECT 1"))

    assert await asyncio.gather(*[once() for _ in range(20)]) == [1] * 20
    assert db.sizes == (1, 1, 1)
    await db.close()


async def test_a_connection_that_ended_while_it_was_kept_is_not_lent_again(db: Database, database: Urls) -> None:
    async with db.bare() as conn:
        ended = await conn.fetchval("SELECT pg_backend_pid()")
    admin = await asyncpg.connect(database.admin)
    await admin.execute("SELECT pg_terminate_backend($1)", ended)
    await admin.close()
    await asyncio.sleep(0.2)
    async with db.bare() as conn:
        assert await conn.fetchval("SELECT pg_backend_pid()") != ended


async def test_a_connection_comes_back_to_the_pool_after_an_error(database: Urls) -> None:
    db = await open_pool(database.server, min_size=1, max_size=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with db.bare() as conn:
                await conn.execute("BEGIN; SELECT set_config('cc.partner_id', 'acme', true)")
                raise ZeroDivisionError
        async with db.bare() as conn:
            assert await conn.fetchval("SELECT nullif(current_setting('cc.partner_id', true), '')") is None
    await db.close()
