"""Migrations: on an empty database, twice, two runners at once; whatever does not fit stops before anything changes."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from ccserver import errors, health, migrate
from ccserver.localpg import Urls
from ccserver.scope import open_pool
from tests.devices import Running


def quiet(_: str) -> None:
    pass


async def test_all_run_once_and_then_none(empty_database: Urls) -> None:
    assert await migrate.run(empty_database.owner, quiet) == len(migrate.files())
    assert await migrate.run(empty_database.owner, quiet) == 0
    assert await migrate.plan(empty_database.owner) == []


async def test_each_file_can_run_again_on_its_own_result(database: Urls) -> None:
    conn = await asyncpg.connect(database.owner)
    for migration in migrate.files():
        async with conn.transaction():
            await conn.execute(migration.sql)
    await conn.close()


async def test_two_runners_at_once_run_each_file_once(empty_database: Urls) -> None:
    counts = await asyncio.gather(*(migrate.run(empty_database.owner, quiet) for _ in range(3)))
    assert sorted(counts) == [0, 0, len(migrate.files())]


async def test_a_failing_file_leaves_nothing_of_itself(
    empty_database: Urls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "001_good.sql").write_text("CREATE TABLE good (a int);")
    (tmp_path / "002_bad.sql").write_text("CREATE TABLE bad (a int); SELECT 1/0;")
    known = migrate.files(tmp_path)
    monkeypatch.setattr(migrate, "files", lambda: known)
    with pytest.raises(errors.MigrationError, match="002_bad"):
        await migrate.run(empty_database.owner, quiet)
    conn = await asyncpg.connect(empty_database.owner)
    assert await conn.fetchval("SELECT to_regclass('bad') IS NULL AND to_regclass('good') IS NOT NULL")
    assert await conn.fetchval("SELECT max(number) FROM schema_migrations") == 1
    await conn.close()


def test_a_gap_a_double_and_a_strange_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "001_a.sql").touch()
    (tmp_path / "003_c.sql").touch()
    with pytest.raises(errors.MigrationError, match="003_c"):
        migrate.files(tmp_path)
    (tmp_path / "003_c.sql").rename(tmp_path / "001_b.sql")
    with pytest.raises(errors.MigrationError, match="001_b"):
        migrate.files(tmp_path)
    (tmp_path / "001_b.sql").rename(tmp_path / "two.sql")
    with pytest.raises(errors.MigrationError, match=r"two\.sql"):
        migrate.files(tmp_path)


async def change_ledger(database: Urls, statement: str) -> None:
    conn = await asyncpg.connect(database.owner)
    await conn.execute(statement)
    await conn.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE schema_migrations SET sha256 = 'edited' WHERE number = 2", errors.MigrationError),
        ("UPDATE schema_migrations SET name = '002_other.sql' WHERE number = 2", errors.MigrationError),
        ("DELETE FROM schema_migrations WHERE number = 2", errors.MigrationError),
        ("INSERT INTO schema_migrations VALUES (999, '999_future.sql', 'x')", errors.NewerSchemaError),
        ("DELETE FROM schema_migrations", errors.NotMigratedError),
    ],
)
async def test_the_server_refuses_a_schema_that_is_not_its_own(
    database: Urls, statement: str, error: type[Exception]
) -> None:
    await change_ledger(database, statement)
    pool = await open_pool(database.server, min_size=1, max_size=1)
    with pytest.raises(error):
        await health.check_database(pool)
    await pool.close()
    if error is not errors.NotMigratedError:
        with pytest.raises(error):
            await migrate.run(database.owner, quiet)


async def test_a_server_that_runs_stays_ready_while_the_next_release_has_migrated(
    database: Urls, server: Running
) -> None:
    await change_ledger(database, "INSERT INTO schema_migrations VALUES (999, '999_future.sql', 'x')")
    assert (await server.client.get("/readyz")).status_code == 200
    await change_ledger(database, "UPDATE schema_migrations SET sha256 = 'edited' WHERE number = 2")
    assert (await server.client.get("/readyz")).status_code == 503


async def test_a_database_of_nothing_is_not_migrated(empty_database: Urls) -> None:
    pool = await open_pool(empty_database.server, min_size=1, max_size=1)
    with pytest.raises(errors.NotMigratedError):
        await health.check_database(pool)
    await pool.close()
