"""The logging check: services, canary, room."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccagent.checks import logging
from ccagent.config import LoggingSettings
from ccagent.finding import Finding
from ccshared.vocabulary import Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
CANARY = "/var/log/canary.log"
BY_FILE = LoggingSettings(canary_file=Path(CANARY), min_free_percent=0)
BY_JOURNAL = LoggingSettings(canary_journal="cc-canary", min_free_percent=0)


def logged(tmp_path: Path, at: datetime) -> Machine:
    machine = Machine(tmp_path)
    machine.unit("active")
    machine.file(CANARY, f"{at.isoformat()} front-desk cc-canary: 17\n{NOW.isoformat()} front-desk sshd: hello\n")
    return machine


async def look(machine: Machine, settings: LoggingSettings = BY_FILE) -> Finding:
    return await logging.check(machine.host(), settings, NOW)


@pytest.mark.parametrize(
    ("age", "drift"), [(timedelta(hours=2), None), (timedelta(hours=2, seconds=1), "canary_missing")]
)
async def test_the_canary_may_be_two_hours_old(tmp_path: Path, age: timedelta, drift: str | None) -> None:
    found = await look(logged(tmp_path, NOW - age))
    assert found.drift_type == drift
    assert found.severity == (Severity.MEDIUM if drift else Severity.LOW)


async def test_a_log_without_canary_fails(tmp_path: Path) -> None:
    machine = logged(tmp_path, NOW)
    machine.file(CANARY, f"{NOW.isoformat()} front-desk sshd: hello\n")
    assert (await look(machine)).drift_type == "canary_missing"


async def test_a_canary_from_the_future_is_unknown(tmp_path: Path) -> None:
    assert (await look(logged(tmp_path, NOW + timedelta(hours=1)))).status is Status.UNKNOWN


def test_a_stamp_without_year_is_local_time_and_the_latest_that_can_be() -> None:
    then = NOW - timedelta(hours=1)
    local = time.strftime("%b %e %H:%M:%S", time.localtime(then.timestamp()))
    assert logging.last_stamp(f"{local} host cc-canary", "cc-canary", NOW) == then


def test_a_stamp_of_december_read_in_january_is_of_last_year() -> None:
    seen = logging.last_stamp("Dec 31 12:00:00 host cc-canary", "cc-canary", datetime(2026, 1, 2, tzinfo=UTC))
    assert seen is not None
    assert seen.year == 2025


async def test_without_a_canary_configured_it_is_unknown_and_says_so(tmp_path: Path) -> None:
    found = await look(logged(tmp_path, NOW), LoggingSettings(min_free_percent=0))
    assert found.status is Status.UNKNOWN
    assert "canary_file =" in found.reason


@pytest.mark.parametrize(("active", "load"), [("inactive", "loaded"), ("failed", "loaded"), ("inactive", "not-found")])
async def test_a_service_that_does_not_run_is_high_though_no_canary_is_configured(
    tmp_path: Path, active: str, load: str
) -> None:
    machine = logged(tmp_path, NOW)
    machine.unit(active, load)
    found = await look(machine, LoggingSettings())
    assert (found.severity, found.drift_type) == (Severity.HIGH, "logging_inactive")
    assert found.service_name == "systemd-journald.service"


async def test_one_inactive_service_among_three_is_named(tmp_path: Path) -> None:
    machine = logged(tmp_path, NOW)
    answer = "echo LoadState=loaded; case $3 in auditd*) echo ActiveState=inactive;; *) echo ActiveState=active;; esac"
    machine.script("systemctl", answer)
    assert (await look(machine)).service_name == "auditd.service"


async def test_without_systemd_a_service_that_is_not_seen_is_unknown(tmp_path: Path) -> None:
    machine = logged(tmp_path, NOW)
    machine.without_systemd()
    machine.process("rsyslogd")
    found = await look(machine)
    assert found.status is Status.UNKNOWN
    assert [unit["state"] for unit in found.facts["units"]] == ["unknown", "active", "unknown"]


async def test_a_nearly_full_log_volume_fails(tmp_path: Path) -> None:
    found = await look(logged(tmp_path, NOW), LoggingSettings(canary_file=Path(CANARY), min_free_percent=100))
    assert (found.severity, found.drift_type) == (Severity.MEDIUM, "log_volume_full")


async def test_a_canary_in_the_journal_is_found(tmp_path: Path) -> None:
    machine = logged(tmp_path, NOW)
    micros = int((NOW - timedelta(minutes=90)).timestamp()) * 1_000_000
    machine.program("journalctl", json.dumps({"__REALTIME_TIMESTAMP": str(micros), "MESSAGE": "17"}) + "\n")
    found = await look(machine, BY_JOURNAL)
    assert (found.status, found.facts["canary_at"]) == (Status.PASS, micros // 1_000_000)


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        ("", Status.FAIL),
        ("No journal files were found.\n", Status.UNKNOWN),
        ("Hint: You are currently not seeing messages from other users and the system.\n", Status.UNKNOWN),
    ],
)
async def test_an_empty_journal_fails_but_one_we_may_not_read_is_unknown(
    tmp_path: Path, complaint: str, expected: Status
) -> None:
    machine = logged(tmp_path, NOW)
    machine.program("journalctl", complaint=complaint)
    assert (await look(machine, BY_JOURNAL)).status is expected
