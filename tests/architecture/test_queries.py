"""Queries: a scope first, one literal statement, and every statement of the code is PREPAREd on the migrated schema."""

import ast
from pathlib import Path

import asyncpg
import pytest

from ccserver.localpg import Urls
from tests.architecture.source import ROOT, database_calls, functions, literal

QUERIES = sorted((ROOT / "server/ccserver/queries").glob("*.py"))
OTHERS = [ROOT / "server/ccserver" / name for name in ("scope.py", "migrate.py", "pooler.py", "scratch.py")]
SCOPES = {"PartnerScope", "SiteScope", "ApplianceScope", "PlatformScope", "CredentialScope"}
# Run before any tenant is known, or set their own scope in SQL: they take the bare connection, each for that reason.
BARE = {
    "server.role",
    "server.settings",
    "server.ledger",
    "appliances.check_in",
    "sessions.signed_in",
    "witness_marks.mark",
    "witness_marks.move",
    "witness_marks.begin_generation",
} | {f"catalog.{name}" for name in ("memberships", "unlocked", "strangers", "clock", "room", "compression")}
# A backup reads past row security as a role of its own; a restore is the owner of an empty database.
BARE |= {
    f"backups.{name}"
    for name in (
        "make_plain",
        "relations",
        "receipted",
        "is_empty",
        "may_create_databases",
        "open_tables",
        "close_tables",
        "forget_sessions",
        "analyse",
    )
}


def test_every_query_takes_a_scope_first() -> None:
    wrong = []
    for path in QUERIES:
        for function in functions(path):
            if not any(True for _ in database_calls(function)) or f"{path.stem}.{function.name}" in BARE:
                continue
            first = function.args.args[0] if function.args.args else None
            kinds = ast.unparse(first.annotation or ast.Constant("")).split(" | ") if first else []
            if first is None or first.arg != "scope" or not set(kinds) <= SCOPES:
                wrong.append(f"{path.stem}.{function.name}")
    assert wrong == []


def test_every_query_runs_one_literal_statement() -> None:
    wrong = []
    for path in QUERIES:
        for function in functions(path):
            calls = list(database_calls(function))
            if any(literal(call) is None for call in calls) or len(calls) > 2:
                wrong.append(f"{path.stem}.{function.name}")
    assert wrong == []


def test_sql_stands_in_queries_and_nowhere_else() -> None:
    elsewhere = [path for path in (ROOT / "server/ccserver").rglob("*.py") if path not in {*QUERIES, *OTHERS}]
    assert [path for path in elsewhere if any(True for _ in database_calls(ast.parse(path.read_text())))] == []


def statements() -> list[tuple[str, str]]:
    found = []
    for path in [*QUERIES, *OTHERS]:
        for call in database_calls(ast.parse(path.read_text())):
            sql = literal(call)
            if sql is not None:
                found.append((f"{path.stem}:{call.lineno}", sql))
    return found


async def test_every_statement_prepares_on_the_migrated_schema(database: Urls) -> None:
    conn = await asyncpg.connect(database.server)
    refused = []
    for where, sql in statements():
        for role in ("NONE", "cc_platform", "cc_credential"):
            await conn.execute(f"SET ROLE {role}")
            try:
                await conn.prepare(sql)
            except asyncpg.PostgresError as error:
                refused.append((where, str(error)))
    await conn.close()
    assert refused == []
    assert len(statements()) > 30


def test_the_walk_finds_a_statement_that_is_no_literal(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("async def f(scope):\n    await scope.conn.fetch(sql)\n")
    (function,) = functions(tmp_path / "bad.py")
    assert [literal(call) for call in database_calls(function)] == [None]


if not QUERIES:
    pytest.exit("no queries found: the architecture tests look in the wrong place")
