"""Every PostgreSQL that is supported and at hand, in one run: migrations twice, and every statement of the code."""

import asyncio
import itertools
from collections.abc import Iterator

import asyncpg
import pytest

from ccserver import errors, migrate
from ccserver.localpg import Urls
from tests import databases
from tests.architecture.test_queries import statements

# Debian's where it is installed; the others come with the embedded wheel.
MAJORS = [*(["15"] if (databases.DEBIANS / "initdb").exists() else []), "16", "18"]
FILES = len(migrate.files())


@pytest.fixture(scope="module", params=MAJORS)
def major(request: pytest.FixtureRequest) -> Iterator[databases.Server]:
    with databases.short_place() as place, databases.asked(request.param, place) as server:
        yield server


@pytest.fixture
def empty(major: databases.Server, names: Iterator[str]) -> Urls:
    return major.create_database(next(names))


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return (f"cc_major_{number}" for number in itertools.count())


async def run(urls: Urls) -> int:
    return await migrate.run(urls.owner, lambda _: None)


async def test_all_migrations_run_once_and_then_not_again(empty: Urls) -> None:
    assert [await run(empty), await run(empty)] == [FILES, 0]


async def test_every_migration_may_run_again_on_what_it_made(empty: Urls) -> None:
    await run(empty)
    conn = await asyncpg.connect(empty.admin)
    await conn.execute("DELETE FROM schema_migrations")
    await conn.close()
    assert await run(empty) == FILES


async def test_of_two_runners_at_once_one_does_it_all(empty: Urls) -> None:
    assert sorted(await asyncio.gather(run(empty), run(empty))) == [0, FILES]


async def test_a_failing_file_leaves_nothing_of_itself(empty: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "CREATE TABLE bad (a int); ALTER TABLE sites ADD COLUMN bad int; CREATE INDEX bad_index ON sites (name);"
    name, known = f"{FILES + 1:03}_bad.sql", migrate.files()
    failing = migrate.Migration(FILES + 1, name, bad + " SELECT 1/0;", "0" * 64)
    monkeypatch.setattr(migrate, "files", lambda: [*known, failing])
    with pytest.raises(errors.MigrationError, match=name):
        await run(empty)
    assert await left(empty, "bad") == (FILES, 0)


async def left(urls: Urls, word: str) -> tuple[int, int]:
    """Return the ledger's newest number, and how many relations and columns have a name that begins with the word."""
    conn = await asyncpg.connect(urls.admin)
    newest = await conn.fetchval("SELECT max(number) FROM schema_migrations")
    found = await conn.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ ('^' || $1::text)", word)
    found += await conn.fetchval("SELECT count(*) FROM pg_attribute WHERE attname ~ ('^' || $1::text)", word)
    await conn.close()
    return newest, found


async def test_every_statement_of_the_code_prepares(empty: Urls) -> None:
    await run(empty)
    conn = await asyncpg.connect(empty.server)
    refused = []
    for where, sql in statements():
        try:
            await conn.prepare(sql)
        except asyncpg.PostgresError as error:
            refused.append((where, str(error)))
    await conn.close()
    assert refused == []


async def test_the_owner_sees_no_tenants_row_until_it_enters_the_platform(empty: Urls) -> None:
    await run(empty)
    conn = await asyncpg.connect(empty.owner)
    assert await conn.fetchval("SELECT count(*) FROM partners") == 0
    async with conn.transaction():
        await conn.execute("SET LOCAL ROLE cc_platform")
        assert await conn.fetchval("SELECT count(*) FROM partners") == 1
    await conn.close()
