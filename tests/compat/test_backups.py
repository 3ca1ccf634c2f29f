"""Backups that earlier releases made, kept as they were written: today's `restore` puts each back and proves it."""

import shutil
from pathlib import Path

import pytest

from ccserver import migrate
from ccserver.config import Config
from ccserver.localpg import Urls
from tests.server.test_backup import Host, rows

BACKUPS = sorted((Path(__file__).parent / "backups").glob("*.backup"))


@pytest.fixture(params=BACKUPS, ids=lambda path: path.stem)
def made(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def host(made: Path, empty_database: Urls, settings: Config) -> Host:
    """A host with the key file of the server that was backed up, and an empty database."""
    settings.key_file.unlink()
    shutil.copy(made.with_name(f"{made.stem}.keys.json"), settings.key_file)
    settings.key_file.chmod(0o600)
    return Host(empty_database, settings)


async def test_a_backup_of_an_earlier_schema_is_restored_brought_up_to_date_and_verified(
    made: Path, host: Host
) -> None:
    told = await host.json("restore", str(made), "--yes")
    assert (told["logs"], told["entries"], told["audit_chains"], told["faults"]) == (2, 10, 3, [])
    ledger = await rows(host.urls, "SELECT number FROM schema_migrations ORDER BY number")
    assert [row["number"] for row in ledger] == [each.number for each in migrate.files()]
    assert int(made.stem) < len(ledger)


async def test_what_it_holds_is_verified_by_the_server_of_today_too(made: Path, host: Host) -> None:
    await host.run("restore", str(made), "--yes")
    await host.run("sweep", "verification")
    assert [row["fault"] for row in await rows(host.urls, "SELECT fault FROM log_verifications")] == [None, None]
    await host.run("audit", "verify")
    assert {each["level"] for each in await host.json("doctor")} == {"fine"}


async def test_it_is_tried_in_a_scratch_database(made: Path, host: Host) -> None:
    assert (await host.json("restore", str(made), "--verify"))["faults"] == []
