"""Every tenant's table × every operation × every wrong scope, as the server's own role: nothing leaks or is written.

The tables come from the schema, and the rows are made from it: a new table is in the matrix when a migration makes it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from ccserver import tables
from ccserver.localpg import Urls
from ccserver.scope import Database, open_pool
from tests.architecture import rows
from tests.architecture.rows import Connection, Tenant
from tests.databases import Server

FILLED = "cc_filled"
HERE: Tenant = ("alpha", "alpha-1", "alpha-1-a")
KEYS = {("partners", "partner_id"): "id", ("sites", "site_id"): "id"}


@dataclass(frozen=True)
class Wrong:
    """A scope, whose row it reaches for, and which column tells that row from its own; None: every row is foreign."""

    opened: Callable[[Database], AbstractAsyncContextManager[Any]]
    there: Tenant
    column: str | None = None


WRONG = {
    "no scope": Wrong(lambda db: db.bare(), HERE),
    "a credential that nobody has": Wrong(lambda db: db.credential("nobody"), HERE),
    "another partner": Wrong(lambda db: db.partner("alpha"), ("beta", "beta-1", "beta-1-a"), "partner_id"),
    "another partner's site": Wrong(lambda db: db.site("alpha", "beta-1"), ("beta", "beta-1", "beta-1-a"), "site_id"),
    "another site": Wrong(lambda db: db.site("alpha", "alpha-1"), ("alpha", "alpha-2", "alpha-2-a"), "site_id"),
    "another site's partner": Wrong(
        lambda db: db.site("alpha", "alpha-1"), ("beta", "beta-1", "beta-1-a"), "partner_id"
    ),
    "another appliance": Wrong(
        lambda db: db.appliance("alpha-1", "alpha-1-a"), ("alpha", "alpha-1", "alpha-1-b"), "appliance_id"
    ),
    "another appliance's site": Wrong(
        lambda db: db.appliance("alpha-1", "alpha-1-a"), ("alpha", "alpha-2", "alpha-2-a"), "site_id"
    ),
}


@dataclass(frozen=True)
class Case:
    """One table seen from one wrong scope: the value of the column that foreign rows have (None: all), a new row."""

    table: str
    column: str
    value: str | None
    row: dict[str, Any]

    def sql(self, text: str) -> str:
        """Return a statement on this table; FOREIGN stands for the condition that finds foreign rows, by $1."""
        foreign = "($1::text IS NULL OR {column}::text = $1)"
        return rows.sql(text.replace("FOREIGN", foreign), table=self.table, column=self.column)


@pytest.fixture(scope="module")
def filled(postgres: Server, template: str) -> Iterator[str]:
    """A template with rows of two partners, two sites each and two appliances each in every table."""
    urls = postgres.create_database(FILLED, template)
    asyncio.run(_fill(urls))
    return FILLED


async def _fill(urls: Urls) -> None:
    conn = await asyncpg.connect(urls.admin)
    await rows.fill(conn)
    for table in await rows.tenant_tables(conn):  # a trigger may refuse first; here row security is alone on trial
        await conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    await conn.close()


@pytest.fixture
async def two(postgres: Server, filled: str, numbers: Iterator[int]) -> AsyncIterator[Urls]:
    """A database of the test's own with the rows of two partners."""
    name = f"cc_two_{next(numbers)}"
    yield postgres.create_database(name, filled)
    admin = await asyncpg.connect(postgres.urls("postgres").admin)
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def schema(two: Urls) -> AsyncIterator[Connection]:
    """The superuser, who sees what is really there."""
    conn = await asyncpg.connect(two.admin)
    yield conn
    await conn.close()


@pytest.fixture
async def here(two: Urls) -> AsyncIterator[Database]:
    """The server's own pool on the filled database."""
    pool = await open_pool(two.server, min_size=1, max_size=2)
    yield pool
    await pool.close()


def key_of(table: str, column: str, names: list[str]) -> str | None:
    """Return the column by which a table names a tenant of this kind."""
    own = KEYS.get((table, column), column)
    return own if own in names else None


async def cases(schema: Connection, wrong: Wrong) -> list[Case]:
    """Return the tables that have such rows; each really has some, or the matrix would prove nothing."""
    found = []
    named = dict(zip(("partner_id", "site_id", "appliance_id"), wrong.there, strict=True))
    for table in await rows.tenant_tables(schema):
        names = await rows.columns_of(schema, table)
        row = rows.row_of(table, await rows.maker(schema, table), names, wrong.there, 99)
        column = key_of(table, wrong.column, names) if wrong.column else names[0]
        if column is not None:
            case = Case(table, column, named.get(wrong.column or ""), row)
            assert await schema.fetchval(case.sql("SELECT count(*) FROM {table} WHERE FOREIGN"), case.value), table
            found.append(case)
    return found


async def digest(schema: Connection) -> dict[str, str]:
    """Return a hash of every table's rows, in platform tables too."""
    found = {}
    for table in [*await rows.tenant_tables(schema), *tables.PLATFORM_TABLES]:
        text = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} t"
        found[table] = await schema.fetchval(rows.sql(text, table=table))
    return found


async def select(conn: Connection, case: Case) -> bool:
    return bool(await conn.fetchval(case.sql("SELECT count({column}) FROM {table} WHERE FOREIGN"), case.value))


async def select_all(conn: Connection, case: Case) -> bool:
    """Reach for rows without naming them, as a query that forgot its WHERE would."""
    found = await conn.fetch(case.sql("SELECT {column} FROM {table}"))
    return any(case.value is None or row[0] == case.value for row in found)


async def insert(conn: Connection, case: Case) -> bool:
    await rows.insert(conn, case.table, case.row)
    return True


async def update(conn: Connection, case: Case) -> bool:
    done = await conn.execute(case.sql("UPDATE {table} SET {column} = {column} WHERE FOREIGN"), case.value)
    return bool(done != "UPDATE 0")


async def delete(conn: Connection, case: Case) -> bool:
    return bool(await conn.execute(case.sql("DELETE FROM {table} WHERE FOREIGN"), case.value) != "DELETE 0")


async def move(conn: Connection, case: Case) -> bool:
    """Give an own row away."""
    if case.value is None:
        return False
    return bool(await conn.execute(case.sql("UPDATE {table} SET {column} = $1"), case.value) != "UPDATE 0")


OPERATIONS = {each.__name__: each for each in (select, select_all, insert, update, delete, move)}


async def leaks(here: Database, schema: Connection, wrong: Wrong, operation: str) -> list[str]:
    """Return the tables where an operation reached a foreign row; any error but a refusal is raised."""
    reached = []
    for case in await cases(schema, wrong):
        try:
            async with wrong.opened(here) as scope:
                if await OPERATIONS[operation](getattr(scope, "conn", scope), case):
                    reached.append(case.table)
        except asyncpg.InsufficientPrivilegeError:
            continue
    return reached


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", WRONG)
async def test_no_foreign_row_is_reached(here: Database, schema: Connection, name: str, operation: str) -> None:
    before = await digest(schema)
    assert await leaks(here, schema, WRONG[name], operation) == []
    assert await digest(schema) == before


async def test_a_presented_credential_shows_the_one_equal_row_in_each_table_that_knows_credentials(
    here: Database, schema: Connection
) -> None:
    shown = {}
    for table in await rows.tenant_tables(schema):
        column = await schema.fetchval(
            "SELECT (regexp_match(qual, '\\((\\w+) = '))[1] FROM pg_policies"
            " WHERE tablename = $1 AND policyname = 'credential'",
            table,
        )
        if column:
            text = rows.sql("SELECT {column} FROM {table}", table=table, column=column)
            value = await schema.fetchval(text)
            async with here.credential(value) as scope:
                shown[table] = [row[0] for row in await scope.conn.fetch(text)] == [value]
    assert shown == dict.fromkeys(shown, True)
    assert {"users", "sessions", "api_keys", "appliances", "enrollment_codes", "invitations"} <= shown.keys()


async def test_own_rows_are_seen_so_that_the_matrix_proves_something(here: Database, schema: Connection) -> None:
    async with here.partner("alpha") as scope:
        for table in await rows.tenant_tables(schema):
            assert await scope.conn.fetchval(rows.sql("SELECT count(*) FROM {table}", table=table)), table


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_new_table_without_row_security_leaks_at_once(
    here: Database, schema: Connection, operation: str
) -> None:
    await schema.execute("CREATE TABLE forgotten (site_id text NOT NULL, partner_id text NOT NULL, id text NOT NULL)")
    await schema.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON forgotten TO cc_server")
    await rows.fill(schema)
    assert await leaks(here, schema, WRONG["another site"], operation) == ["forgotten"]


async def test_a_new_table_whose_rows_nobody_can_make_fails(schema: Connection) -> None:
    await schema.execute(
        "CREATE TABLE odd (partner_id text NOT NULL, shape text NOT NULL CHECK (length(shape) = 3 AND shape ~ '^z'))"
    )
    with pytest.raises(rows.NoRowError, match=r"odd\.shape"):
        await rows.fill(schema)


async def test_a_declared_table_that_is_not_there_fails(schema: Connection) -> None:
    await schema.execute("DROP TABLE waivers")
    with pytest.raises(rows.NoRowError, match="waivers"):
        await cases(schema, WRONG["no scope"])
