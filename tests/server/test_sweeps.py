"""Sweeps: bounded, resumable, one process at a time; evidence goes after six years, its leaves never."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from ccserver import sweeps
from ccserver.errors import SweepWithoutScopeError
from ccserver.queries import sweeps as queries
from ccserver.retention import Swept, Terms
from ccserver.scope import Database, PlatformScope
from ccserver.sweeps import Outcome, Sweep
from ccshared import merkle
from tests.devices import Device, Running

BY_NAME = {sweep.name: sweep for sweep in sweeps.SWEEPS}
Rows = list[Any]


async def admin(server: Running, sql: str, *values: Any) -> Rows:
    """Run a statement as the superuser, triggers off: what no part of the server could do."""
    conn = await asyncpg.connect(server.urls.admin)
    try:
        await conn.execute("SET session_replication_role = replica")
        return list(await conn.fetch(sql, *values))
    finally:
        await conn.close()


async def sweep(server: Running, name: str, **changes: Any) -> Outcome:
    return await sweeps.run(server.db, replace(BY_NAME[name], **changes), Terms())


async def check_in(device: Device) -> None:
    """Check in with a clock that agrees with the server's."""
    body = {"version": "1", "hostname": "box", "clock": "sync", "epoch": device.epoch, "size": 0}
    body |= {"waiting": 0, "waiting_bytes": 0, "oldest_at_ms": None, "alarms": []}
    sent = await admin(device.server, "SELECT (extract(epoch FROM now()) * 1000)::bigint AS now")
    answer = await device.call("POST", "checkin", json=body | {"sent_at_ms": sent[0]["now"]})
    assert answer.status_code == 200, answer.text


async def log_of(device: Device, size: int) -> None:
    while len(device.payloads) < size:
        device.check_run("firewall", "pass")
    assert (await device.send(device.batch(0))).status_code == 200


async def age(server: Running, years: float, below: int = 10**9) -> None:
    """Let the log have been opened, and its first entries have arrived, so many years ago."""
    await admin(server, "UPDATE evidence_logs SET opened_at = now() - $1 * interval '1 year'", years)
    await admin(
        server, "UPDATE evidence_bundles SET received_at = now() - $1 * interval '1 year' WHERE seq < $2", years, below
    )


async def payloads(server: Running) -> list[bool]:
    rows = await admin(server, "SELECT payload IS NOT NULL AS kept FROM evidence_bundles ORDER BY log_id, seq")
    return [row["kept"] for row in rows]


async def test_payloads_older_than_six_years_go_and_the_root_stays_computable(server: Running, device: Device) -> None:
    await log_of(device, 20)
    await check_in(device)
    await age(server, 6.1)
    assert await sweep(server, "evidence") == Outcome("evidence", 20, 2)
    assert await payloads(server) == [True] + [False] * 19  # the genesis names the log's key, and stays
    rows = await admin(server, "SELECT bundle_hash, host_id, missing_reason FROM evidence_bundles ORDER BY seq")
    assert merkle.root([row["bundle_hash"] for row in rows]) == merkle.root(device.leaves())
    assert {row["missing_reason"] for row in rows[1:]} == {"pruned"}
    assert {row["host_id"] for row in rows[1:]} == {None}


@pytest.mark.parametrize("kind", ["genesis", "key_rotation", "redaction"])
async def test_what_names_keys_or_tells_of_a_redaction_stays_whole(server: Running, device: Device, kind: str) -> None:
    await log_of(device, 5)
    await admin(server, "UPDATE evidence_bundles SET bundle_type = $1 WHERE seq = 3", kind)
    await check_in(device)
    await age(server, 6.1)
    await sweep(server, "evidence")
    assert await payloads(server) == [True, False, False, True, False]


async def test_the_log_goes_on_after_its_old_payloads_went(server: Running, device: Device) -> None:
    await log_of(device, 5)
    await check_in(device)
    await age(server, 7)
    await sweep(server, "evidence")
    device.check_run("backup", "fail")
    answer = await device.send(device.batch(3))
    assert answer.status_code == 200
    assert device.receipt(answer).checkpoint.size == 6


async def test_evidence_younger_than_six_years_stays(server: Running, device: Device) -> None:
    await log_of(device, 6)
    await check_in(device)
    await age(server, 5.99)
    assert (await sweep(server, "evidence")).rows == 0
    await age(server, 6.1, below=3)
    assert (await sweep(server, "evidence")).rows == 3
    assert await payloads(server) == [True, False, False, True, True, True]


async def test_a_run_that_ends_early_is_carried_on_by_the_next(server: Running, device: Device) -> None:
    await log_of(device, 20)
    await check_in(device)
    await age(server, 7)
    assert await sweep(server, "evidence", rows=4, chunks=3) == Outcome("evidence", 12, 3, more=True)
    assert await payloads(server) == [True] + [False] * 11 + [True] * 8
    assert (await sweep(server, "evidence", rows=4, chunks=3)).rows == 8


async def test_evidence_without_a_receipt_stays(server: Running, device: Device) -> None:
    await log_of(device, 6)
    await check_in(device)
    await age(server, 7)
    await admin(server, "UPDATE evidence_logs SET held_size = 9, held_root = sha256('')")
    assert (await sweep(server, "evidence")).rows == 0


async def test_nothing_goes_while_no_appliance_confirms_the_clock(server: Running, device: Device) -> None:
    await log_of(device, 6)
    await age(server, 7)
    assert str((await sweep(server, "evidence")).error).startswith("Nothing was let go: no appliance confirms")
    await check_in(device)
    await admin(server, "UPDATE appliances SET clock_offset_ms = -86400000 * 3650::bigint")
    assert (await sweep(server, "evidence")).error
    assert await payloads(server) == [True] * 6


async def test_a_database_whose_clock_is_not_the_servers_is_not_confirmed(server: Running, device: Device) -> None:
    await check_in(device)
    async with server.db.platform() as scope:
        assert await queries.clock_is_confirmed(scope, time.time())
        assert not await queries.clock_is_confirmed(scope, time.time() + 2 * 86_400)
        assert not await queries.clock_is_confirmed(scope, time.time() - 2 * 86_400)


async def test_the_database_itself_refuses_to_let_go_of_younger_evidence(server: Running, device: Device) -> None:
    await log_of(device, 3)
    await check_in(device)
    await age(server, 5.9)
    outcome = await sweeps.run(server.db, BY_NAME["evidence"], Terms(evidence=1))
    assert outcome.error == "IntegrityConstraintViolationError"
    assert await payloads(server) == [True] * 3


ALLOWED = (
    "UPDATE evidence_bundles SET payload = NULL, missing_reason = 'pruned', hipaa_controls = NULL, check_id = NULL"
)
HOST = ", host_id = NULL"


@pytest.mark.parametrize(
    "change",
    [HOST + ", bundle_hash = sha256('')", HOST + ", seq = 99", HOST + ", generated_at = now()", ", host_id = 'other'"],
)
async def test_nothing_else_changes_with_a_payload_that_goes(server: Running, device: Device, change: str) -> None:
    await log_of(device, 3)
    await age(server, 7)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        async with server.db.platform() as scope:
            await scope.conn.execute(ALLOWED + change + " WHERE seq = 1")
    async with server.db.platform() as scope:
        assert await scope.conn.execute(ALLOWED + HOST + " WHERE seq = 1") == "UPDATE 1"


async def test_a_sweep_outside_platform_scope_is_an_error(server: Running) -> None:
    async with server.db.partner("acme") as scope:
        with pytest.raises(SweepWithoutScopeError):
            await queries.lock(PlatformScope(scope.conn), "liveness")


async def test_two_processes_never_run_the_same_sweep_at_once(server: Running) -> None:
    async with server.db.platform() as scope:
        assert await queries.lock(scope, "sessions")
        assert await sweep(server, "sessions") == Outcome("sessions", more=True, busy=True)
    assert not (await sweep(server, "sessions")).busy


async def test_one_of_two_processes_begins_a_sweep_in_each_interval(server: Running) -> None:
    ran = await asyncio.gather(*(sweeps.run_due(server.db, Terms()) for _ in range(2)))
    names = sorted(outcome.name for outcomes in ran for outcome in outcomes)
    assert names == sorted(sweeps.NAMES)
    assert await sweeps.run_due(server.db, Terms()) == []


async def test_a_sweep_that_fails_is_written_down_and_ends_no_other(server: Running) -> None:
    async def broken(scope: PlatformScope, _rows: int, _terms: Terms) -> Swept:
        await scope.conn.execute("SELECT 1/0")
        return Swept(0, 0)

    every = timedelta(hours=1)
    both = [Sweep("broken", "", broken, every), BY_NAME["sessions"]]
    done = await sweeps.run_due(server.db, Terms(), both)
    assert [(one.name, one.error) for one in done] == [("broken", "DivisionByZeroError"), ("sessions", None)]
    async with server.db.platform() as scope:
        kept = {row.name: row for row in await queries.ledger(scope)}
    assert (kept["broken"].failure_count, kept["broken"].done_at) == (1, None)
    assert kept["sessions"].done_at is not None


async def test_a_sweep_that_changes_other_rows_than_it_chose_is_undone(server: Running) -> None:
    async def wrong(scope: PlatformScope, _rows: int, _terms: Terms) -> Swept:
        await scope.conn.execute("UPDATE partners SET name = 'Gone'")
        return Swept(1, 2)

    outcome = await sweeps.run(server.db, Sweep("wrong", "", wrong), Terms())
    assert outcome.error == "A sweep changed another number of rows than it chose: nothing of this chunk was kept."
    assert await admin(server, "SELECT FROM partners WHERE name = 'Gone'") == []


async def test_an_appliance_that_stopped_checking_in_is_not_online(server: Running, device: Device) -> None:
    await check_in(device)
    assert (await sweep(server, "liveness")).rows == 0
    await admin(server, "UPDATE appliances SET last_checkin = now() - interval '4 minutes'")
    assert (await sweep(server, "liveness")).rows == 1
    assert [row["is_online"] for row in await admin(server, "SELECT is_online FROM appliances")] == [False]


async def test_an_appliance_that_checks_in_without_receipts_is_silent_until_one_comes(
    server: Running, device: Device
) -> None:
    await check_in(device)
    await admin(server, "UPDATE appliances SET enrolled_at = now() - interval '49 hours'")
    assert (await sweep(server, "silence")).rows == 1
    assert (await admin(server, "SELECT silent_since FROM appliances"))[0]["silent_since"] is not None
    assert (await sweep(server, "silence")).rows == 0
    await log_of(device, 2)
    assert (await sweep(server, "silence")).rows == 1
    assert (await admin(server, "SELECT silent_since FROM appliances"))[0]["silent_since"] is None


ORDER = """
    INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, status, created_by, expires_at)
    SELECT site_id, partner_id, id, $1, 'restart', $2, 'test', now() + $3::text::interval FROM appliances
"""


async def test_orders_whose_time_is_over_expire_and_those_that_run_do_not(server: Running, device: Device) -> None:
    assert device.appliance_id
    for name, status, left in (
        ("late", "pending", "-1 minute"),
        ("good", "pending", "1 minute"),
        ("fetched", "acknowledged", "-1 minute"),
        ("forgotten", "acknowledged", "-2 hours"),
        ("runs", "running", "-2 days"),
    ):
        await admin(server, ORDER, name, status, left)
    assert (await sweep(server, "orders")).rows == 2
    expired = await admin(server, "SELECT id FROM orders WHERE status = 'expired' ORDER BY id")
    assert [row["id"] for row in expired] == ["forgotten", "late"]


INCIDENT = """
    INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
        pattern_signature, occurrences, created_at, last_seen_at, resolved_at, epoch_number, revision, received_at)
    SELECT site_id, partner_id, id, $1, 'box', 'firewall', 'high', '{}', repeat('a', 16), 1, $2, $2, $3, 1, 1, $2
    FROM appliances
"""


async def test_old_closed_incidents_go_with_their_comments_and_open_ones_stay(server: Running, device: Device) -> None:
    assert device.appliance_id
    old = (await admin(server, "SELECT now() - interval '5 years' AS at"))[0]["at"]
    async with server.db.platform() as scope:
        await scope.conn.execute(INCIDENT, "closed", old, old)
        await scope.conn.execute(INCIDENT, "open", old, None)
        await scope.conn.execute(
            "INSERT INTO incident_comments (site_id, partner_id, incident_id, id, author, body)"
            " SELECT site_id, partner_id, id, 'c', 'a', 'b' FROM incidents"
        )
    assert str((await sweep(server, "comments")).error).startswith("Nothing was let go: no appliance confirms")
    await check_in(device)
    assert (await sweep(server, "incidents")).rows == 0  # a comment goes first
    assert (await sweep(server, "comments")).rows == 1
    assert (await sweep(server, "incidents")).rows == 1
    totals = await admin(server, "SELECT incidents, open_high FROM site_totals")
    assert [tuple(row) for row in totals] == [(1, 1)]


async def test_spent_credentials_and_old_answers_go(server: Running, db: Database) -> None:
    await server.code("acme", "acme-clinic")
    await server.code("acme", "acme-clinic", hours=1)
    async with db.platform() as scope:
        await scope.conn.execute(
            "UPDATE enrollment_codes SET expires_at = now() - interval '40 days'"
            " WHERE expires_at < now() + interval '2 hours'"
        )
        await scope.conn.execute(
            "INSERT INTO idempotency_keys (partner_id, key_hash, request_hash, status, answer, created_at) VALUES"
            " ('acme', repeat('a', 64), repeat('b', 64), 200, '', now() - interval '25 hours'),"
            " ('acme', repeat('b', 64), repeat('b', 64), 200, '', now() - interval '23 hours')"
        )
    assert ((await sweep(server, "codes")).rows, (await sweep(server, "idempotency_keys")).rows) == (1, 1)


SNAPSHOT = """
    INSERT INTO compliance_snapshots (site_id, partner_id, snapshot_at)
    SELECT id, partner_id, now() - n * interval '1 year' FROM sites, generate_series(4, 6) n
"""


async def test_a_site_keeps_its_newest_snapshot_however_old(server: Running, device: Device) -> None:
    await admin(server, SNAPSHOT)
    assert (await sweep(server, "snapshots")).error  # nobody confirms the clock
    await check_in(device)
    assert (await sweep(server, "snapshots")).rows == 2
    assert len(await admin(server, "SELECT FROM compliance_snapshots")) == 1


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(server: Running, device: Device) -> None:
    await admin(server, SNAPSHOT)
    await check_in(device)
    outcome = await sweeps.run(server.db, BY_NAME["snapshots"], Terms(), dry_run=True)
    assert (outcome.rows, outcome.more) == (2, True)
    assert len(await admin(server, "SELECT FROM compliance_snapshots")) == 3
    assert await admin(server, "SELECT FROM sweeps") == []


@pytest.mark.parametrize("name", sweeps.NAMES)
async def test_every_sweep_runs_on_an_empty_database(server: Running, name: str) -> None:
    outcome = await sweep(server, name)
    assert outcome.rows == 0
    assert outcome.error is None or name == "evidence"


async def test_what_a_clock_that_ran_ahead_left_behind_stops_no_sweep(server: Running) -> None:
    await sweeps.run_due(server.db, Terms())
    await admin(server, "UPDATE sweeps SET begun_at = now() + interval '10 years'")
    assert len(await sweeps.run_due(server.db, Terms())) == len(sweeps.SWEEPS)
    assert await sweeps.run_due(server.db, Terms()) == []


async def test_what_a_clock_that_ran_ahead_left_behind_uses_up_no_quota(device: Device) -> None:
    await log_of(device, 1)
    await admin(device.server, "UPDATE appliance_quotas SET counted_at = now() + interval '10 years'")
    device.check_run("firewall", "pass")
    assert (await device.send(device.batch(1))).status_code == 200
