"""A migration that changes the rows of two tenants, run by a plain owner under FORCE row security."""

import shutil
from pathlib import Path

import asyncpg
import pytest

from ccserver import errors, migrate
from ccserver.localpg import Urls

README = (migrate.FOLDER / "README.md").read_text(encoding="utf-8")
FORM = README.partition("The form is:")[2].partition("  The constraint")[0]
COLUMN = "ALTER TABLE sites ADD COLUMN IF NOT EXISTS label text;"
NAIVE = "UPDATE sites SET label = name WHERE label IS NULL;"


@pytest.fixture
async def owner(database: Urls) -> asyncpg.Connection:
    """A plain owner, in a database with a site of each of two partners."""
    admin = await asyncpg.connect(database.admin)
    await admin.execute("INSERT INTO partners (id, name) VALUES ('acme', 'Acme'), ('bolt', 'Bolt')")
    await admin.execute("INSERT INTO sites (id, partner_id, name) VALUES ('a', 'acme', 'A'), ('b', 'bolt', 'B')")
    await admin.close()
    conn = await asyncpg.connect(database.owner)
    (plain,) = await conn.fetch("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    assert tuple(plain) == (False, False)
    return conn


async def run(database: Urls, sql: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the shipped migrations and one more."""
    for path in migrate.FOLDER.glob("*.sql"):
        shutil.copy(path, folder)
    number = len(migrate.files()) + 1
    (folder / f"{number:03}_label.sql").write_text(COLUMN + sql)
    known = migrate.files(folder)
    monkeypatch.setattr(migrate, "files", lambda: known)
    assert await migrate.run(database.owner, lambda _: None) == 1


async def labels(database: Urls) -> list[str | None]:
    admin = await asyncpg.connect(database.admin)
    rows = await admin.fetch("SELECT label FROM sites ORDER BY id")
    await admin.close()
    return [row["label"] for row in rows]


async def test_the_form_of_the_readme_fills_the_rows_of_both_partners(
    database: Urls, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(database, FORM, tmp_path, monkeypatch)
    await owner.close()
    assert await labels(database) == ["A", "B"]


async def test_a_plain_owner_without_a_scope_changes_none_and_is_not_told(
    database: Urls, owner: asyncpg.Connection
) -> None:
    await owner.execute(COLUMN)
    assert await owner.execute(NAIVE) == "UPDATE 0"
    await owner.close()
    assert await labels(database) == [None, None]


@pytest.mark.parametrize("sql", [NAIVE, "DELETE FROM sites;", "INSERT INTO partners (id, name) VALUES ('x', 'X');"])
async def test_the_runner_refuses_a_file_that_changes_rows_without_a_scope(
    database: Urls, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    with pytest.raises(errors.MigrationError, match="row-level security"):
        await run(database, sql, tmp_path, monkeypatch)
    assert await owner.fetchval("SELECT max(number) FROM schema_migrations") < len(migrate.files())
    await owner.close()


async def test_a_back_fill_that_leaves_the_scope_too_early_fails_on_its_count(
    database: Urls, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = FORM.replace("UPDATE sites", "RESET ROLE; UPDATE sites")
    with pytest.raises(errors.MigrationError, match="0 of 2 sites"):
        await run(database, early, tmp_path, monkeypatch)
    await owner.close()
