"""A payload is erased when two persons said so, and only then; its leaf and place stay, and every root with them."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ccserver import auth, redacting
from ccserver.config import Config
from ccserver.errors import BadBodyError, NotFoundError, NotPendingError, SecondPersonNeededError
from ccserver.localpg import Urls
from ccserver.queries import users
from ccserver.queries.users import User
from ccserver.scope import SiteScope
from ccserver.self_verification import advance
from ccshared.vocabulary import Role
from tests.devices import Device, Running
from tests.server.test_backup import Host, rows

REASON = "a patient's name in the reason"
ERASE = """
    UPDATE evidence_bundles
    SET payload = NULL, missing_reason = 'erased', host_id = NULL, check_id = NULL, hipaa_controls = NULL
    WHERE seq = {}
"""
PASSWORD = "correct horse battery staple"


@pytest.fixture
async def log(device: Device) -> Device:
    """A log of five entries."""
    for status in ("pass", "pass", "fail", "pass", "fail"):
        device.check_run("firewall", status, f"because of {status}")
    assert (await device.send(device.batch(0))).status_code == 200
    return device


@pytest.fixture
async def scope(server: Running, log: Device) -> AsyncIterator[SiteScope]:
    async with server.db.site("acme", "acme-clinic") as opened:
        yield opened


async def stored(scope: SiteScope, seq: int) -> tuple[bytes | None, str | None, bytes, str]:
    row = await scope.conn.fetchrow("SELECT * FROM evidence_bundles WHERE seq = $1", seq)
    assert row is not None
    return row["payload"], row["missing_reason"], row["bundle_hash"], row["bundle_type"]


async def test_two_persons_erase_a_payload_and_its_leaf_stays(scope: SiteScope, log: Device) -> None:
    before = await stored(scope, 3)
    asked, _ = await redacting.request(scope, log.origin, 3, REASON, "user:one")
    assert await stored(scope, 3) == before
    done = await redacting.approve(scope, asked.id, "user:two")
    assert (done.approved_by, done.appliance_erased_at) == ("user:two", None)
    assert await stored(scope, 3) == (None, "erased", *before[2:])


async def test_one_person_alone_erases_nothing(scope: SiteScope, log: Device) -> None:
    asked, _ = await redacting.request(scope, log.origin, 3, REASON, "user:one")
    with pytest.raises(SecondPersonNeededError):
        await redacting.approve(scope, asked.id, "user:one")
    assert (await stored(scope, 3))[0] is not None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE redactions SET approved_by = 'user:one', approved_at = now()",
        "UPDATE redactions SET requested_by = 'user:two'",
        "UPDATE redactions SET seq = 2",
        "DELETE FROM redactions",
        ERASE.format(3),
    ],
)
async def test_the_database_itself_asks_for_two_persons(server: Running, log: Device, statement: str) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with server.db.site("acme", "acme-clinic") as scope:
            await redacting.request(scope, log.origin, 3, REASON, "user:one")
            await scope.conn.execute(statement)


async def test_an_approval_erases_nothing_but_the_entry_it_names(server: Running, log: Device) -> None:
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with server.db.site("acme", "acme-clinic") as scope:
            asked, _ = await redacting.request(scope, log.origin, 3, REASON, "user:one")
            await redacting.approve(scope, asked.id, "user:two")
            await scope.conn.execute(ERASE.format(2))


async def test_what_names_keys_stays_and_nothing_is_asked_twice(scope: SiteScope, log: Device) -> None:
    with pytest.raises(BadBodyError):
        await redacting.request(scope, log.origin, 0, REASON, "user:one")
    with pytest.raises(NotFoundError):
        await redacting.request(scope, log.origin, 99, REASON, "user:one")
    asked, _ = await redacting.request(scope, log.origin, 2, REASON, "user:one")
    with pytest.raises(NotPendingError):
        await redacting.request(scope, log.origin, 2, REASON, "user:two")
    await redacting.approve(scope, asked.id, "user:two")
    with pytest.raises(NotPendingError):
        await redacting.approve(scope, asked.id, "user:three")


async def test_the_words_of_the_latest_state_go_with_the_entry_that_said_them(scope: SiteScope, log: Device) -> None:
    asked, _ = await redacting.request(scope, log.origin, 4, REASON, "user:one")
    await redacting.approve(scope, asked.id, "user:two")
    row = await scope.conn.fetchrow("SELECT status, reason FROM check_states")
    assert row is not None
    assert tuple(row) == ("fail", "erased")


async def test_another_partner_neither_sees_nor_approves_it(server: Running, log: Device) -> None:
    async with server.db.site("acme", "acme-clinic") as scope:
        asked, _ = await redacting.request(scope, log.origin, 3, REASON, "user:one")
    await server.add_site("beta", "beta-clinic")
    async with server.db.site("beta", "beta-clinic") as other:
        with pytest.raises(NotFoundError):
            await redacting.approve(other, asked.id, "user:two")
        with pytest.raises(NotFoundError):
            await redacting.request(other, log.origin, 3, REASON, "user:two")


@pytest.fixture
async def host(server: Running, log: Device, settings: Config) -> Host:
    made = Host(server.urls, settings)
    async with server.db.platform() as platform:
        for name in ("one", "two", "viewer"):
            role = Role.VIEWER if name == "viewer" else Role.OWNER
            await users.insert(platform, User("acme", name, f"{name}@acme.example", role), auth.hash_password(PASSWORD))
    return made


def by(name: str, tmp_path: Path, password: str = PASSWORD) -> list[str]:
    file = tmp_path / "password"
    file.write_text(password)
    return ["--site", "acme-clinic", "--login", f"{name}@acme.example", "--password-file", str(file), "--yes"]


async def test_redaction_and_retention_work_on_a_restored_copy(
    host: Host, log: Device, empty_database: Urls, tmp_path: Path
) -> None:
    conn = await asyncpg.connect(host.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE evidence_bundles SET received_at = now() - interval '7 years'")
    await conn.execute("UPDATE evidence_logs SET opened_at = now() - interval '7 years'")
    await conn.execute("UPDATE appliances SET last_checkin = now(), clock_offset_ms = 0")
    await conn.close()
    await host.run("backup", "-o", str(tmp_path / "copy"))
    restored = Host(empty_database, host.settings)
    await restored.run("restore", str(tmp_path / "copy"), "--yes")
    what = ("--log", log.origin, "--seq", "3", "--reason", REASON)
    assert "not those of a person" in await restored.refused("evidence", "redact", *what, *by("one", tmp_path, "wrong"))
    assert "Owners" in await restored.refused("evidence", "redact", *what, *by("viewer", tmp_path))
    asked = await restored.json("evidence", "redact", *what, *by("one", tmp_path))
    again = ("evidence", "redact", "--approve", asked["id"])
    assert "Another person" in await restored.refused(*again, *by("one", tmp_path))
    assert (await restored.json(*again, *by("two", tmp_path)))["approved_by"] == "user:two@acme.example"
    await restored.run("sweep", "evidence")
    found = await rows(restored.urls, "SELECT missing_reason AS why FROM evidence_bundles ORDER BY seq")
    assert [row["why"] for row in found] == [None, "pruned", "pruned", "erased", "pruned"]
    assert (await restored.json("evidence", "redactions", "--site", "acme-clinic"))[0]["reason"] == REASON
    told = await rows(restored.urls, "SELECT action FROM audit_log WHERE action LIKE 'evidence.redact%' ORDER BY seq")
    assert [row["action"] for row in told] == ["evidence.redact.request", "evidence.redact"]


async def test_the_verifier_lists_an_erased_entry_and_still_proves_the_root(
    host: Host, server: Running, log: Device, tmp_path: Path
) -> None:
    async with server.db.site("acme", "acme-clinic") as scope:
        asked, _ = await redacting.request(scope, log.origin, 3, REASON, "user:one")
        await redacting.approve(scope, asked.id, "user:two")
    async with server.db.platform() as platform:
        assert (await advance(platform, 100)).done == 5
    assert [row["fault"] for row in await rows(host.urls, "SELECT fault FROM log_verifications")] == [None]
    await host.run("evidence", "export", "--site", "acme-clinic", "-o", str(tmp_path / "site.zip"))
    (tmp_path / "trust").write_bytes((await host.run("keys", "trust"))[0])
    done = verified(tmp_path / "site.zip", tmp_path / "trust")
    assert "erased" in done.stdout
    assert "BROKEN" not in done.stdout


def verified(path: Path, trust: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "ccserver.verify", str(path), "--trust", str(trust)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
