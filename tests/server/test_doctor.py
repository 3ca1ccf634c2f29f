"""`ccserver doctor` when things are broken: each is broken for real, and is named with its next step."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from ccserver import diagnosis
from ccserver.config import Config
from ccserver.diagnosis import Level
from ccserver.localpg import Urls
from ccserver.scope import Database
from tests.certificates import authority
from tests.e2e.processes import free_port

COMMAND = [sys.executable, "-c", "from ccserver.cli import main; main()", "doctor", "--json"]


@dataclass
class Doctor:
    """The command with an environment of its own."""

    urls: Urls
    env: dict[str, str] = field(default_factory=dict)

    async def look(self, code: int, **more: str) -> dict[str, dict[str, str]]:
        """Return the findings that are not fine, by part; the command ends with this code and without a traceback."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND, env=self.env | more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert err == b""
        found = json.loads(out)
        assert process.returncode == code, found
        assert [each for each in found if each["level"] != "fine" and not each["next_step"]] == []
        return {each["part"]: each for each in found if each["level"] != "fine"}

    async def alter(self, statement: str) -> None:
        """Break something as the database's superuser."""
        conn = await asyncpg.connect(self.urls.admin)
        await conn.execute(statement)
        await conn.close()


@pytest.fixture
def doctor(database: Urls, settings: Config) -> Doctor:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CCSERVER_", "DATABASE_"))}
    env |= {
        "DATABASE_URL": database.server,
        "DATABASE_OWNER_URL": database.owner,
        "DATABASE_DIRECT_URL": database.owner,
    }
    return Doctor(database, env | {"CCSERVER_DATA_DIR": str(settings.data_dir)})


async def test_a_whole_server_is_fine(doctor: Doctor) -> None:
    assert await doctor.look(0) == {}


async def test_an_unknown_setting_is_named_and_the_rest_is_looked_at(doctor: Doctor) -> None:
    found = await doctor.look(2, DATABASE_OWNR_URL="x")
    assert "DATABASE_OWNR_URL" in found["settings"]["said"]
    assert list(found) == ["settings"]


async def test_a_setting_that_cannot_be_used_is_said(doctor: Doctor) -> None:
    assert "CCSERVER_LISTEN" in (await doctor.look(2, CCSERVER_LISTEN="here"))["settings"]["said"]


async def test_a_secret_that_everybody_can_read_is_a_warning(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(doctor.env.pop("DATABASE_URL") + "\n")
    (tmp_path / "url").chmod(0o644)
    found = await doctor.look(1, DATABASE_URL_FILE=str(tmp_path / "url"))
    assert list(found) == ["settings"]


async def test_a_key_file_that_is_open_garbage_or_away_is_broken(doctor: Doctor, settings: Config) -> None:
    settings.key_file.chmod(0o640)
    assert "chmod 600" in (await doctor.look(2))["key file"]["said"]
    settings.key_file.chmod(0o600)
    settings.key_file.write_bytes(b"\xff{")
    assert "not a whole key file" in (await doctor.look(2))["key file"]["said"]
    settings.key_file.unlink()
    assert "keys init" in (await doctor.look(2))["key file"]["said"]


async def test_another_name_than_the_keys_have_is_a_warning(doctor: Doctor) -> None:
    assert list(await doctor.look(1, CCSERVER_NAME="other.example")) == ["key file"]


async def test_a_certificate_that_ends_soon_is_a_warning_and_one_that_will_not_do_is_broken(
    doctor: Doctor, tmp_path: Path
) -> None:
    ca, folder = authority(tmp_path), tmp_path
    doctor.env |= {"CCSERVER_PUBLIC_URL": "https://cc.example.test", "CCSERVER_TLS_CERT": str(folder / "tls.crt")}
    doctor.env |= {"CCSERVER_TLS_KEY": str(folder / "tls.key")}
    ca.sign(folder, "cc.example.test", days=60)
    assert await doctor.look(0) == {}
    ca.sign(folder, "cc.example.test", days=20)
    assert "18 days from now" in (await doctor.look(1))["certificate"]["said"]
    ca.sign(folder, "cc.example.test", days=1, ago=2)
    assert "expired on" in (await doctor.look(2))["certificate"]["said"]
    ca.sign(folder, "other.example.test")
    assert "is not for cc.example.test" in (await doctor.look(2))["certificate"]["said"]


@pytest.mark.parametrize("url", ["postgresql://cc_server@127.0.0.1:{port}/x", "nonsense", "postgresql://a:b:c@/{port}"])
async def test_a_database_that_is_away_is_broken(doctor: Doctor, url: str) -> None:
    found = await doctor.look(2, DATABASE_URL=url.format(port=free_port()), DATABASE_OWNER_URL="nonsense")
    assert {"database", "owner"} <= set(found)


async def test_the_owner_or_a_superuser_as_the_servers_role_is_broken(doctor: Doctor) -> None:
    for url in (doctor.urls.owner, doctor.urls.admin):
        assert "BYPASSRLS" in (await doctor.look(2, DATABASE_URL=url))["fitness"]["said"]


async def test_the_servers_role_as_the_owner_is_broken(doctor: Doctor) -> None:
    assert "own the tables" in (await doctor.look(2, DATABASE_OWNER_URL=doctor.urls.server))["owner"]["said"]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE incidents NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE incidents DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON incidents",
        "DROP TABLE incidents CASCADE",
    ],
)
async def test_a_table_that_is_not_locked_is_named(doctor: Doctor, statement: str) -> None:
    await doctor.alter(statement)
    assert "incidents" in (await doctor.look(2))["row security"]["said"]


async def test_a_table_that_is_not_ours_is_a_warning(doctor: Doctor) -> None:
    await doctor.alter("CREATE TABLE stranger (a int)")
    assert "stranger" in (await doctor.look(1))["row security"]["said"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE schema_migrations SET sha256 = 'edited' WHERE number = 2", "not the file that ran"),
        ("DELETE FROM schema_migrations WHERE number > 5", "older than this release"),
        ("INSERT INTO schema_migrations VALUES (999, '999_future.sql', 'x')", "newer than this release"),
        ("DROP SCHEMA public CASCADE", "older than this release"),
    ],
)
async def test_a_schema_of_another_release_is_broken(doctor: Doctor, statement: str, said: str) -> None:
    await doctor.alter(statement)
    assert said in (await doctor.look(2))["fitness"]["said"]


async def test_a_pool_larger_than_the_database_takes_is_broken(doctor: Doctor) -> None:
    assert "DATABASE_POOL_MAX" in (await doctor.look(2, DATABASE_POOL_MAX="9999"))["connections"]["next_step"]


async def test_an_audit_log_that_was_cut_or_changed_at_its_end_is_broken(doctor: Doctor) -> None:
    await doctor.alter("INSERT INTO audit_heads (partner_id, size, hash) VALUES ('platform', 1, sha256(''))")
    assert "platform" in (await doctor.look(2))["audit"]["said"]


async def test_what_nobody_swept_is_a_warning(doctor: Doctor) -> None:
    await doctor.alter(
        "INSERT INTO idempotency_keys (partner_id, key_hash, request_hash, status, answer, created_at)"
        " VALUES ('platform', repeat('0', 64), repeat('0', 64), 200, '', now() - interval '30 days')"
    )
    assert "1 idempotency keys" in (await doctor.look(1))["sweeps"]["said"]


async def test_a_data_directory_that_is_a_file_makes_no_traceback(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "key file" in await doctor.look(2, CCSERVER_DATA_DIR=str(tmp_path / "file"))


def test_little_room_and_clocks_apart_are_said() -> None:
    rooms = [diagnosis.room_left(Path("/"), mib << 20, 100_000 << 20)[0].level for mib in (100, 4000, 50_000)]
    assert rooms == [Level.BROKEN, Level.WARNING, Level.FINE]
    assert [diagnosis.clocks(apart)[0].level for apart in (-90, 5, 0.1)] == [Level.BROKEN, Level.WARNING, Level.FINE]


async def test_what_goes_wrong_in_looking_is_a_finding(db: Database) -> None:
    async def look() -> list[diagnosis.Finding]:
        async with db.bare() as conn:
            await conn.execute("SELECT 1/0")
        return []

    assert (await diagnosis.guarded("x", look))[0].level is Level.BROKEN
