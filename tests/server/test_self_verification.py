"""The server verifies its own logs: what somebody changed in the database is told within a run."""

import logging
from typing import Any

import asyncpg
import pytest

from ccserver import diagnosis, sweeps
from ccserver.config import Config
from ccserver.diagnosis import Level
from ccserver.queries import sweeps as queries
from ccserver.retention import Terms
from ccserver.sweeps import Outcome
from tests import operators
from tests.devices import Device, Running

(VERIFICATION,) = [sweep for sweep in sweeps.SWEEPS if sweep.name == "verification"]


async def admin(server: Running, sql: str) -> list[Any]:
    """Run a statement as the superuser, triggers off: what no part of the server could do."""
    conn = await asyncpg.connect(server.urls.admin)
    try:
        await conn.execute("SET session_replication_role = replica")
        return list(await conn.fetch(sql))
    finally:
        await conn.close()


async def log_of(device: Device, size: int) -> None:
    first = len(device.payloads)
    while len(device.payloads) < size:
        device.check_run("firewall", "pass")
    assert (await device.send(device.batch(first))).status_code == 200


async def run(server: Running, rows: int = 500, chunks: int = 20) -> Outcome:
    sweep = sweeps.Sweep(VERIFICATION.name, "", VERIFICATION.chunk, rows=rows, chunks=chunks)
    return await sweeps.run(server.db, sweep, Terms())


async def found(server: Running) -> list[tuple[int, bool, str | None]]:
    rows = await admin(server, "SELECT size, done_at IS NOT NULL AS done, fault FROM log_verifications")
    return [(row["size"], row["done"], row["fault"]) for row in rows]


async def test_a_whole_log_is_verified_to_its_receipt_once_a_day(server: Running, device: Device) -> None:
    await log_of(device, 12)
    assert await run(server) == Outcome("verification", 12, 2)
    assert await found(server) == [(12, True, None)]
    assert (await run(server)).rows == 0
    await admin(server, "UPDATE log_verifications SET done_at = now() - interval '25 hours'")
    assert (await run(server)).rows == 12


async def test_a_run_is_bounded_and_the_next_carries_on_while_the_log_grows(server: Running, device: Device) -> None:
    await log_of(device, 10)
    assert await run(server, rows=3, chunks=2) == Outcome("verification", 6, 2, more=True)
    assert await found(server) == [(6, False, None)]
    await log_of(device, 14)
    assert (await run(server, rows=3)).rows == 8
    assert await found(server) == [(14, True, None)]


FLIP = "UPDATE evidence_bundles SET payload = set_byte(payload, 9, 255 - get_byte(payload, 9)) WHERE seq = 4"
REHASH = "UPDATE evidence_bundles SET payload = '{}', bundle_hash = sha256('\\x007b7d'::bytea) WHERE seq = 4"
CHANGES = {
    "the payload of entry 4 is not what was hashed": FLIP,
    "entry 4 is missing": "DELETE FROM evidence_bundles WHERE seq = 4",
    "entry 9 is missing": "DELETE FROM evidence_bundles WHERE seq = 9",
    "the leaves do not lead to the root over 10 entries": REHASH,
    "the tree that is kept beside it": "UPDATE evidence_logs SET compact_range = set_byte(compact_range, 3, 7)",
    "its checkpoint is not good": "UPDATE evidence_logs SET checkpoint = replace(checkpoint, '10', '11')",
}


@pytest.mark.parametrize("fault", CHANGES)
async def test_what_somebody_changed_in_the_database_is_told_within_a_run(
    server: Running, device: Device, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    await log_of(device, 10)
    await admin(server, CHANGES[fault])
    with caplog.at_level(logging.ERROR):
        await run(server, rows=7)
    assert [record.levelname for record in caplog.records if fault in record.getMessage()] == ["ERROR"]
    async with server.db.platform() as scope:
        assert (await queries.totals(scope)).logs_not_whole == 1
    owner = await operators.with_key(server, "owner")
    (log,) = (await owner.call("GET", "sites/acme-clinic/logs")).json()["items"]
    assert log["verified_at"] is not None
    assert log["fault"].startswith(fault)


async def test_the_doctor_names_a_log_that_is_not_what_was_receipted(
    server: Running, device: Device, settings: Config
) -> None:
    await log_of(device, 10)
    await admin(server, FLIP)
    await run(server)
    found = await diagnosis.database(settings, server.urls.server, None)
    (evidence,) = [each for each in found if each.part == "evidence"]
    assert evidence.level is Level.BROKEN
    assert "the payload of entry 4 is not what was hashed" in evidence.said


async def test_a_fault_stays_until_a_pass_finds_nothing(server: Running, device: Device) -> None:
    await log_of(device, 10)
    await admin(server, FLIP)
    await run(server)
    await admin(server, FLIP)
    await admin(server, "UPDATE log_verifications SET done_at = now() - interval '25 hours'")
    await run(server, rows=6, chunks=1)
    assert [fault is None for _, _, fault in await found(server)] == [False]
    await run(server)
    assert await found(server) == [(10, True, None)]


async def test_what_retention_let_go_is_no_fault(server: Running, device: Device) -> None:
    await log_of(device, 10)
    await admin(server, "UPDATE evidence_bundles SET payload = NULL, missing_reason = 'pruned' WHERE seq > 0")
    await run(server)
    assert await found(server) == [(10, True, None)]


async def test_a_log_that_was_never_verified_comes_before_one_of_yesterday(server: Running, device: Device) -> None:
    await log_of(device, 4)
    await run(server)
    await admin(server, "UPDATE log_verifications SET done_at = now() - interval '25 hours'")
    await log_of(await Device.enrolled(server, "acme", "acme-clinic"), 7)
    await run(server, rows=100, chunks=1)
    assert sorted(await found(server)) == [(4, True, None), (7, True, None)]
    (first,) = await admin(server, "SELECT size FROM log_verifications WHERE done_at > now() - interval '1 hour'")
    assert first["size"] == 7
