"""A row for any tenant's table, made from the schema alone: what its types and CHECKs let in is found by asking.

A column that is let in by nothing tried here needs a word in `WORDS`; until it has one, the table has no row and every
test that needs one fails.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ccserver import tables

Connection = Any  # asyncpg's own, or the pool's proxy of one
Tenant = tuple[str, str, str]  # partner, site, appliance
PARTNERS = ("alpha", "beta")
TENANTS: list[Tenant] = [
    (partner, f"{partner}-{site}", f"{partner}-{site}-{box}") for partner in PARTNERS for site in "12" for box in "ab"
]
# What several columns together decide, or what is to be filled although it may be empty.
WORDS: dict[tuple[str, str], Any] = {
    ("users", "role"): "owner",
    ("api_keys", "role"): "owner",
    ("settings", "level"): "partner",
    ("fleet_orders", "life_s"): 3600,
    ("evidence_bundles", "payload"): r"\x00",
}
_BY_TYPE: dict[str, list[Callable[[int], Any]]] = {
    "text": [
        lambda n: f"row-{n}",
        lambda n: f"{n:064x}",
        lambda n: f"{n:032x}",
        lambda n: f"{n:016x}",
        lambda n: f"{n}-0a0b0c0d",
        lambda _: "row",
    ],
    "bigint": [lambda n: n],
    "integer": [lambda n: n],
    "double precision": [lambda n: n],
    "boolean": [lambda _: False],
    "bytea": [lambda n: rf"\x{n:064x}", lambda n: rf"\x{n:02x}"],
    "jsonb": [lambda n: {"row": n}],
    "inet": [lambda n: f"10.0.0.{n % 250}"],
    "timestamp with time zone": [lambda n: f"2026-01-01T00:{n % 60:02}:00Z"],
}


class NoRowError(Exception):
    """Nothing that is tried fits this column: say in WORDS what does."""


@dataclass(frozen=True)
class Column:
    """A column to be filled, and how: the row's number in, its value out."""

    name: str
    value: Callable[[int], Any]


async def tenant_tables(conn: Connection) -> list[str]:
    """Return every table with a tenant, found in the schema and declared in the code, in either alone or in both."""
    rows = await conn.fetch(
        """
        SELECT DISTINCT table_name FROM information_schema.columns
        WHERE table_schema = 'public' AND column_name IN ('partner_id', 'site_id', 'appliance_id')
        """
    )
    declared = tables.SITE_TABLES | tables.PARTNER_TABLES | tables.TENANT_TABLES
    return sorted({row["table_name"] for row in rows} | declared)


async def columns_of(conn: Connection, table: str) -> list[str]:
    rows = await conn.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = $1", table
    )
    if not rows:
        raise NoRowError(f"{table} is declared and not there")
    return [row["column_name"] for row in rows]


async def maker(conn: Connection, table: str) -> list[Column]:
    """Return how to fill the columns of a table that must be filled; NoRowError when that is not known."""
    rows = await conn.fetch(
        """
        SELECT column_name AS name, data_type AS type FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = $1 AND is_identity = 'NO'
          AND (is_nullable = 'NO' AND column_default IS NULL OR column_name = ANY ($2))
        """,
        table,
        [column for owner, column in WORDS if owner == table],
    )
    return [Column(row["name"], await _value(conn, table, row["name"], row["type"])) for row in rows]


async def _value(conn: Connection, table: str, column: str, kind: str) -> Callable[[int], Any]:
    if (table, column) in WORDS:
        word = WORDS[table, column]
        return lambda _: word
    checks = await _checks(conn, table, column)
    known = re.findall(r"'([^']+)'::text", " ".join(checks))
    for candidate in [*_BY_TYPE.get(kind, []), *(_constant(word) for word in known)]:
        if await _fits(conn, table, {column: candidate(7)}, checks):
            return candidate
    raise NoRowError(f"{table}.{column}")


def _constant(word: str) -> Callable[[int], Any]:
    return lambda _: word


async def _checks(conn: Connection, table: str, column: str) -> list[str]:
    """Return the conditions on this column alone."""
    rows = await conn.fetch(
        """
        SELECT pg_get_expr(c.conbin, c.conrelid) AS text FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
        WHERE c.conrelid = $1::regclass AND c.contype = 'c' AND a.attname = $2
        """,
        table,
        column,
    )
    return [row["text"] for row in rows]


async def _fits(conn: Connection, table: str, row: dict[str, Any], checks: list[str]) -> bool:
    condition = " AND ".join(f"({check})" for check in checks) or "true"
    text = sql("SELECT {condition} FROM jsonb_populate_record(NULL::{table}, $1)", condition=condition, table=table)
    fits: bool = await conn.fetchval(text, _json(row))
    return fits


def sql(text: str, **parts: str) -> str:
    """Return a statement with its table and columns put in; they come from the schema, which binds no parameters."""
    return text.format(**parts)


def _json(row: dict[str, Any]) -> str:
    return orjson.dumps(row).decode()


def row_of(table: str, columns: list[Column], names: list[str], tenant: Tenant, number: int) -> dict[str, Any]:
    """Return a tenant's row of a table; `names` are all its columns."""
    row = {column.name: column.value(number) for column in columns}
    own: dict[str, Any] = dict(zip(("partner_id", "site_id", "appliance_id"), tenant, strict=True))
    own |= {"id": dict(zip(("partners", "sites", "appliances"), tenant, strict=True)).get(table, row.get("id"))}
    return row | {name: value for name, value in own.items() if name in names and value is not None}


async def insert(conn: Connection, table: str, row: dict[str, Any]) -> None:
    """Insert a row; one that is there already stays."""
    text = """
        INSERT INTO {table} ({names}) SELECT {names} FROM jsonb_populate_record(NULL::{table}, $1)
        ON CONFLICT DO NOTHING
        """
    await conn.execute(sql(text, table=table, names=", ".join(row)), _json(row))


async def fill(conn: Connection) -> None:
    """Put rows of every tenant into every tenant's table, as superuser, past references and triggers."""
    await conn.execute("SET session_replication_role = replica")
    for table in await tenant_tables(conn):
        columns, names = await maker(conn, table), await columns_of(conn, table)
        for number, tenant in enumerate(TENANTS, 1):
            await insert(conn, table, row_of(table, columns, names, tenant, number))
    await conn.execute("RESET session_replication_role")
