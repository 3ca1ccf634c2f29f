"""A server is lost and put back from a backup taken while agents uploaded: nothing that was receipted is lost."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ccserver import roles
from ccserver.localpg import Urls
from ccshared import merkle, notes
from tests.e2e.processes import Clinic

FLEET = 4
SCENARIO = """
server_url = "{url}"
appliances = 4
clock = "{clock}"
duration_s = 300
ramp_s = 1
settle_s = 120
checkin_interval_s = 5
evidence_per_hour = {rate}
incidents_per_hour = 60
[objectives]
all_receipted = true
"""
_LEAVES = """
    SELECT b.bundle_hash FROM evidence_logs l JOIN evidence_bundles b ON b.site_id = l.site_id AND b.log_id = l.id
    WHERE l.origin = $1 AND b.payload IS NOT NULL ORDER BY b.seq
"""
Receipts = dict[str, dict[int, str]]


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    made.server.env |= {"DATABASE_BACKUP_URL": database.backup, "CCSERVER_SWEEP_SECONDS": "0"}
    made.serve()
    codes = [made.server.json("enroll-code", "create", "--site", "clinic")["code"] for _ in range(FLEET)]
    made.agent.env["CC_ENROLL_CODES"] = "code,site\n" + "\n".join(f"{code},clinic" for code in codes)
    yield made
    made.stop()


async def sql(url: str, statement: str, *values: str) -> list[Any]:
    conn = await asyncpg.connect(url)
    found = await conn.fetch(statement, *values)
    await conn.close()
    return list(found)


async def arrived(clinic: Clinic, least: int) -> None:
    """Wait until so many entries of all appliances are stored."""
    until = time.monotonic() + 60
    counted = "SELECT count(*) AS entries, count(DISTINCT log_id) AS logs FROM evidence_bundles"
    while (row := (await sql(clinic.urls.admin, counted))[0])["entries"] < least or row["logs"] < FLEET:
        assert time.monotonic() < until, f"only {row['entries']} entries arrived"
        await asyncio.sleep(0.2)


def scenario(clinic: Clinic, folder: Path, clock: str, rate: int) -> str:
    file = folder / f"{clock}.toml"
    file.write_text(SCENARIO.format(url=clinic.url, clock=clock, rate=rate), "utf-8")
    return str(file)


def receipts(fleet: Path) -> Receipts:
    """Return what each appliance holds receipts for, by its log's origin and the size: the root."""
    held: Receipts = {}
    for path in sorted(fleet.glob("*/agent.db")):
        with contextlib.closing(sqlite3.connect(path)) as store:
            for (receipt,) in store.execute("SELECT receipt FROM receipts").fetchall():
                origin, size, root = receipt.split("\n")[:3]
                held.setdefault(origin, {})[int(size)] = root
    return held


async def lose(clinic: Clinic) -> None:
    """End the server by force and put an empty database in the place of its own."""
    clinic.server.end(signal.SIGKILL)
    name = clinic.urls.admin.partition("?")[0].rpartition("/")[2]
    postgres = clinic.urls.admin.replace(f"/{name}?", "/postgres?")
    await sql(postgres, f'DROP DATABASE "{name}" WITH (FORCE)')
    for statement in roles.database_statements(name):
        await sql(postgres, statement)


async def roots(clinic: Clinic, sizes: Receipts) -> Receipts:
    """Return the root of each log of the server at each size, over the leaves that are stored now."""
    found: Receipts = {}
    for origin, wanted in sizes.items():
        stored = await sql(clinic.urls.admin, _LEAVES, origin)
        leaves = [row["bundle_hash"] for row in stored]
        found[origin] = {size: root(leaves, size) for size in wanted if size <= len(leaves)}
    return found


def root(leaves: list[bytes], size: int) -> str:
    text = notes.Checkpoint("", size, merkle.root_of(merkle.extend(0, [], leaves[:size])[1])).text
    return text.split("\n")[2]


async def test_a_lost_server_is_put_back_and_agents_fill_up_all_that_was_receipted(
    clinic: Clinic, tmp_path: Path
) -> None:
    fleet, file = tmp_path / "fleet", tmp_path / "cc.backup"
    clinic.agent.start("simulate", scenario(clinic, tmp_path, "real", 36000), "--state", str(fleet))
    await arrived(clinic, 100)
    backed_up = clinic.server.json("backup", "-o", str(file))["tables"]["evidence_bundles"]
    await arrived(clinic, backed_up + 100)
    assert clinic.agent.end(signal.SIGINT) == 130
    held = receipts(fleet)
    await lose(clinic)
    told = json.loads(clinic.server.run("restore", str(file), "--yes", "--json").stdout)
    assert (told["logs"], told["faults"], told["tables"]["evidence_bundles"]) == (FLEET, [], backed_up)
    receipted = sum(max(sizes) for sizes in held.values())
    assert receipted > backed_up
    clinic.serve()
    clinic.agent.run("simulate", scenario(clinic, tmp_path, "simulated", 60), "--state", str(fleet))
    after = receipts(fleet)
    for origin, sizes in held.items():
        assert {size: after[origin].get(size, kept) for size, kept in sizes.items()} == sizes
    assert await roots(clinic, after) == after
    assert await roots(clinic, held) == held
