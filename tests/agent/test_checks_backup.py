"""The backup check: what a status file or a repository says, and where the limits lie."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccagent.checks import backup
from ccagent.config import BackupSettings
from ccagent.finding import Finding
from ccshared.vocabulary import Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
STATUS = "/var/lib/backup/status.json"
BY_FILE = BackupSettings(status_file=Path(STATUS))
BY_RESTIC = BackupSettings(
    restic_repository="rest:https://clinic:hunter2@vault.example/", restic_password_file=Path("/etc/restic.pass")
)
BY_BORG = BackupSettings(
    status_file=Path(STATUS), borg_repository="/srv/borg", borg_passphrase_file=Path("/etc/doctor's.pass")
)


def status(backup_age: timedelta, test_age: timedelta = timedelta(days=1), **changed: object) -> str:
    members = {
        "last_backup": (NOW - backup_age).isoformat(),
        "last_restore_test": (NOW - test_age).isoformat(),
        "checksum": "sha256:9f86d081",
    }
    return json.dumps({**members, **changed})


async def look(tmp_path: Path, text: str | None, settings: BackupSettings = BY_FILE) -> Finding:
    machine = Machine(tmp_path)
    if text is not None:
        machine.file(STATUS, text)
    return await backup.check(machine.host(), settings, NOW)


@pytest.mark.parametrize(
    ("age", "expected", "severity"),
    [
        (timedelta(hours=24), Status.PASS, Severity.LOW),
        (timedelta(hours=24, seconds=1), Status.FAIL, Severity.MEDIUM),
        (timedelta(hours=48), Status.FAIL, Severity.MEDIUM),
        (timedelta(hours=48, seconds=1), Status.FAIL, Severity.CRITICAL),
    ],
)
async def test_a_backup_fails_after_a_day_and_is_critical_after_two(
    tmp_path: Path, age: timedelta, expected: Status, severity: Severity
) -> None:
    found = await look(tmp_path, status(age))
    assert (found.status, found.severity) == (expected, severity)
    assert found.drift_type == (None if expected is Status.PASS else "backup_stale")


@pytest.mark.parametrize(
    ("days", "seconds", "drift"), [(30, 0, None), (30, 1, "restore_test_stale"), (400, 0, "restore_test_stale")]
)
async def test_a_restore_must_have_been_tested_within_thirty_days(
    tmp_path: Path, days: int, seconds: int, drift: str | None
) -> None:
    found = await look(tmp_path, status(timedelta(hours=1), timedelta(days=days, seconds=seconds)))
    assert found.drift_type == drift
    assert found.severity == (Severity.MEDIUM if drift else Severity.LOW)


@pytest.mark.parametrize("checksum", [None, "", "  ", 7])
async def test_a_backup_without_checksum_fails(tmp_path: Path, checksum: object) -> None:
    found = await look(tmp_path, status(timedelta(hours=1), checksum=checksum))
    assert (found.drift_type, found.severity) == ("backup_without_checksum", Severity.MEDIUM)


async def test_a_status_that_knows_no_backup_is_critical(tmp_path: Path) -> None:
    found = await look(tmp_path, '{"last_backup": null, "checksum": "aa"}')
    assert (found.drift_type, found.severity) == ("backup_missing", Severity.CRITICAL)


async def test_a_time_in_seconds_since_1970_is_understood(tmp_path: Path) -> None:
    found = await look(tmp_path, status(timedelta(), last_backup=int(NOW.timestamp()) - 60))
    assert found.status is Status.PASS
    assert found.facts["last_backup_at"] == int(NOW.timestamp()) - 60


@pytest.mark.parametrize(
    "written",
    [(NOW + timedelta(hours=1)).isoformat(), 4102444800000, "2026-03-10T11:00:00", "yesterday", True, "", 1e300],
)
async def test_a_time_that_cannot_be_trusted_is_unknown(tmp_path: Path, written: object) -> None:
    found = await look(tmp_path, status(timedelta(), last_backup=written))
    assert found.status is Status.UNKNOWN
    assert found.reason.startswith("last_backup ")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 50_000, "{}", "x" * 70_000, None])
async def test_a_status_file_that_says_nothing_usable_is_unknown_and_named(tmp_path: Path, text: str | None) -> None:
    found = await look(tmp_path, text)
    assert found.status is Status.UNKNOWN
    assert found.reason.startswith(STATUS)


async def test_a_failure_outranks_what_is_unknown(tmp_path: Path) -> None:
    found = await look(tmp_path, status(timedelta(), last_backup="2099-01-01T00:00:00Z", checksum=None))
    assert (found.status, found.drift_type) == (Status.FAIL, "backup_without_checksum")


async def test_without_settings_the_line_to_add_is_told(tmp_path: Path) -> None:
    found = await look(tmp_path, None, BackupSettings())
    assert found.status is Status.UNKNOWN
    assert "status_file =" in found.reason


async def test_the_newest_restic_snapshot_of_all_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    snapshots = [
        {
            "time": "2026-03-01T01:00:00.123456789+01:00",
            "tree": "t",
            "paths": ["/srv/a"],
            "hostname": "a",
            "id": "aa11",
        },
        {
            "time": "2026-03-10T01:00:00.123456789+01:00",
            "tree": "t",
            "paths": ["/srv/b"],
            "hostname": "a",
            "id": "bb22",
        },
    ]
    machine.program("restic", json.dumps(snapshots))
    machine.file(STATUS, status(timedelta(days=9)))
    settings = BY_RESTIC.model_copy(update={"status_file": Path(STATUS)})
    found = await backup.check(machine.host(), settings, NOW)
    assert (found.status, found.facts["checksum"]) == (Status.PASS, "bb22")
    assert "--no-lock" in machine.calls("restic")[0]


async def test_an_empty_restic_repository_is_critical(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("restic", "[]")
    found = await backup.check(machine.host(), BY_RESTIC, NOW)
    assert (found.drift_type, found.severity) == ("backup_missing", Severity.CRITICAL)


async def test_a_repository_alone_cannot_tell_of_restore_tests(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("restic", '[{"time":"2026-03-10T01:00:00Z","id":"aa11"}]')
    found = await backup.check(machine.host(), BY_RESTIC, NOW)
    assert found.status is Status.UNKNOWN
    assert "add status_file with last_restore_test" in found.reason


async def test_a_repository_that_cannot_be_read_is_unknown_and_its_password_is_not_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("restic", code=1, complaint="Fatal: unable to open rest:https://clinic:hunter2@vault.example/\n")
    found = await backup.check(machine.host(), BY_RESTIC, NOW)
    assert found.status is Status.UNKNOWN
    assert "hunter2" not in repr(found)


async def test_an_old_snapshot_is_critical_though_the_status_file_is_missing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("restic", '[{"time":"2026-03-01T01:00:00Z","id":"aa11"}]')
    found = await backup.check(machine.host(), BY_RESTIC.model_copy(update={"status_file": Path(STATUS)}), NOW)
    assert (found.drift_type, found.severity) == ("backup_stale", Severity.CRITICAL)


async def test_a_missing_program_is_unknown(tmp_path: Path) -> None:
    found = await backup.check(Machine(tmp_path).host(), BY_RESTIC, NOW)
    assert (found.status, found.reason) == (Status.UNKNOWN, "restic is not installed")


async def test_borg_is_asked_in_utc_and_given_its_passphrase_file(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.file(STATUS, status(timedelta(days=9)))
    listing = (
        '{"archives": [{"archive": "daily", "id": "cc33", "time": "2026-03-10T09:00:00.000000"}], "encryption": {}}'
    )
    machine.script("borg", f"[ $TZ = UTC ] && [ -n \"$BORG_PASSCOMMAND\" ] && echo '{listing}'")
    found = await backup.check(machine.host(), BY_BORG, NOW)
    assert (found.status, found.facts["source"]) == (Status.PASS, "borg")
    assert found.facts["last_backup_at"] == int(NOW.timestamp()) - 3 * 3600
