"""What evidence makes of check states, snapshots and scores."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ccserver import compliance
from ccserver.compliance import CheckState
from ccserver.queries import check_states
from ccshared.vocabulary import Clock, Kind
from tests.devices import Device, Running


def state(status: str, fresh: bool = True) -> CheckState:
    now = datetime.now(UTC)
    return CheckState("a", "h", "backup", status, "high", "r", now, now, fresh)


def test_no_fresh_state_is_no_score_and_not_a_hundred_percent() -> None:
    assert compliance.score([], []).value is None
    assert compliance.score([state("pass", fresh=False)], []).value is None
    assert compliance.score([state("unknown")], []).value is None


def test_a_stale_state_counts_as_unknown() -> None:
    score = compliance.score([state("pass"), state("fail"), state("pass", fresh=False), state("unknown")], [])
    assert (score.passed, score.failed, score.unknown, score.value) == (1, 1, 2, 0.5)


def test_a_family_that_an_appliance_never_reported_is_unknown() -> None:
    assert compliance.score([state("pass")], ["a", "b"]) == compliance.Score(passed=1, failed=0, unknown=11)


async def states(server: Running) -> dict[str, CheckState]:
    async with server.db.partner("acme") as scope:
        found = await check_states.list_of_sites(scope, ["acme-clinic"], datetime.now(UTC), 100)
    return {state.check_id: state for state in found.get("acme-clinic", [])}


async def snapshots(server: Running) -> list[bool | None]:
    async with server.db.partner("acme") as scope:
        rows = await scope.conn.fetch("SELECT backup_status FROM compliance_snapshots ORDER BY id")
    return [row["backup_status"] for row in rows]


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


async def send_run(device: Device, status: str, at: int | None = None) -> None:
    if not device.payloads:
        device.seal()
    first = len(device.payloads)
    device.check_run("backup", status, at=now_ms() if at is None else at)
    assert (await device.send(device.batch(0 if first == 1 else first))).status_code == 200


async def test_a_check_run_makes_the_state_and_a_snapshot_at_each_change(device: Device, server: Running) -> None:
    for status in ("pass", "pass", "fail", "unknown"):
        await send_run(device, status)
    assert (await states(server))["backup"].status == "unknown"
    assert await snapshots(server) == [True, False, None]


async def test_one_failing_appliance_makes_the_family_fail_whoever_reports_last(
    device: Device, server: Running
) -> None:
    other = await Device.enrolled(server, "acme", "acme-clinic")
    await send_run(device, "pass")
    await send_run(other, "fail")
    await send_run(device, "unknown")
    await send_run(device, "pass")
    assert await snapshots(server) == [True, False]


async def test_an_old_backlog_arrives_stale_and_never_counts_as_passing(device: Device, server: Running) -> None:
    await send_run(device, "pass", at=now_ms() - 3 * 3600 * 1000)
    assert not (await states(server))["backup"].fresh
    assert await snapshots(server) == [None]


async def test_a_clock_in_the_future_makes_nothing_fresher_than_now(device: Device, server: Running) -> None:
    await send_run(device, "pass", at=now_ms() + 10 * 365 * 86400 * 1000)
    assert (await states(server))["backup"].seen_at <= datetime.now(UTC) + timedelta(seconds=5)


@pytest.mark.parametrize("clock", list(Clock))
async def test_an_old_run_is_stale_whatever_the_clock_is_worth(device: Device, server: Running, clock: Clock) -> None:
    device.clock = clock
    await send_run(device, "pass", at=5)
    assert not (await states(server))["backup"].fresh


async def test_what_nobody_receipted_counts_for_nothing(device: Device, server: Running) -> None:
    device.seal()
    device.check_run("backup", "pass", at=now_ms())
    device.seal()
    held = (await device.send(device.batch(0))).json()["receipt"]
    await restore_to_nothing(server)
    assert (await device.send(device.batch(0, 2, held))).status_code == 202
    assert await states(server) == {}


async def restore_to_nothing(server: Running) -> None:
    """Make the database what a backup from before the log holds."""
    admin = await asyncpg.connect(server.urls.admin)
    await admin.execute("SET session_replication_role = replica")
    for table in ("evidence_bundles", "evidence_logs", "check_states", "compliance_snapshots"):
        await admin.execute(f"DELETE FROM {table}")  # noqa: S608  a test's own words
    await admin.close()


async def test_a_lower_epoch_never_overwrites_a_newer_state(device: Device, server: Running) -> None:
    device.epoch = "2-00000002"
    await send_run(device, "fail")
    device.epoch, device.payloads = "1-00000001", []
    await send_run(device, "pass")
    assert (await states(server))["backup"].status == "fail"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"check": 5},
        {"check": "backup", "host": "h", "status": "superb", "severity": "high", "reason": "r", "since": 1},
        {"check": "BACK UP", "host": "h", "status": "pass", "severity": "high", "reason": "r", "since": 1},
        {"check": "backup", "host": "h", "status": "pass", "severity": "high", "reason": "r", "since": True},
        {"check": "backup", "host": "h", "status": "pass", "severity": "high", "reason": "r", "hipaa_controls": 7},
    ],
)
async def test_a_body_it_does_not_understand_is_stored_flagged_and_says_nothing(
    device: Device, server: Running, body: dict[str, object]
) -> None:
    device.seal()
    device.seal(Kind.CHECK_RUN, body)
    assert (await device.send(device.batch(0))).status_code == 200
    async with server.db.partner("acme") as scope:
        flag = await scope.conn.fetchval("SELECT flag FROM evidence_bundles WHERE seq = 1")
    assert flag is not None
    assert await states(server) == {}


async def test_nul_and_the_far_future_in_a_body_are_stored(device: Device, server: Running) -> None:
    device.seal()
    body = {"check": "backup", "host": "h\x00", "status": "fail", "severity": "high", "reason": "a\x00", "since": 2**52}
    device.seal(Kind.CHECK_RUN, body | {"hipaa_controls": ["x\x00"]}, at=2**53 - 1)
    assert (await device.send(device.batch(0))).status_code == 200
    assert (await states(server))["backup"].reason == "a\N{REPLACEMENT CHARACTER}"
