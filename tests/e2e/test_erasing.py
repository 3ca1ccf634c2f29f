"""The real programs when two persons have a payload erased: here, on the appliance, and for whoever verifies."""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ccserver import redacting
from ccserver.localpg import Urls
from ccserver.scope import open_pool
from tests.e2e.processes import Clinic


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    made.server.env["CCSERVER_SWEEP_SECONDS"] = "1"
    made.serve()
    made.enroll()
    made.command("once")
    yield made
    made.stop()


async def rows(clinic: Clinic, sql: str) -> list[Any]:
    conn = await asyncpg.connect(clinic.urls.admin)
    found = await conn.fetch(sql)
    await conn.close()
    return found


async def redact(clinic: Clinic, seq: int) -> None:
    """Have two persons redact an entry of the appliance's log."""
    (log,) = await rows(clinic, "SELECT origin FROM evidence_logs")
    db = await open_pool(clinic.urls.server, min_size=1, max_size=1)
    async with db.site("acme", "clinic") as scope:
        asked, _ = await redacting.request(scope, log["origin"], seq, "a name", "user:one")
    async with db.site("acme", "clinic") as scope:
        await redacting.approve(scope, asked.id, "user:two")
    await db.close()


async def carried_on(clinic: Clinic) -> None:
    """Let the agent run until the server knows that it erased."""
    until = time.monotonic() + 60
    while not await rows(clinic, "SELECT FROM redactions WHERE appliance_erased_at IS NOT NULL"):
        assert time.monotonic() < until
        clinic.command("once")


def verdict(clinic: Clinic, folder: Path) -> dict[str, Any]:
    clinic.server.run("evidence", "export", "--site", "clinic", "-o", str(folder / "site.zip"))
    told = clinic.command("verify", "--json", code=None)
    assert told.returncode == 0, told.stdout + told.stderr
    (folder / "trust").write_text(clinic.server.run("keys", "trust").stdout)
    command = [sys.executable, "-m", "ccserver.verify", str(folder / "site.zip"), "--trust", str(folder / "trust")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_redacted_payload_is_erased_on_the_appliance_too_and_explained(clinic: Clinic, tmp_path: Path) -> None:
    (entry,) = await rows(clinic, "SELECT payload FROM evidence_bundles WHERE seq = 2")
    await redact(clinic, 2)
    await carried_on(clinic)
    files = [path.read_bytes() for path in (tmp_path / "agent").glob("agent.db*")]
    assert not any(entry["payload"][-300:] in one for one in files)
    clinic.command("once")
    found = verdict(clinic, tmp_path)
    codes = {one["code"] for one in found["findings"]}
    assert {"erased", "redaction"} <= codes
    assert not {"erased_unexplained", "entry", "root"} & codes
    assert clinic.status()["alarms"] == []


async def test_a_server_put_back_is_refilled_with_the_stub_of_what_was_erased(clinic: Clinic, tmp_path: Path) -> None:
    await redact(clinic, 2)
    await carried_on(clinic)
    clinic.command("once")
    conn = await asyncpg.connect(clinic.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    for table in ("redactions", "check_states", "evidence_bundles", "log_verifications", "evidence_logs"):
        await conn.execute(f"DELETE FROM {table}")  # noqa: S608  ours
    await conn.close()
    clinic.command("once")
    clinic.command("once")
    erased = await rows(clinic, "SELECT seq FROM evidence_bundles WHERE missing_reason = 'erased' AND payload IS NULL")
    assert [row["seq"] for row in erased] == [2]
    assert clinic.status()["waiting"] == 0
