"""The anti-virus check: service, binary, age of signatures."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccagent.checks import antivirus
from ccagent.config import AntivirusSettings
from ccagent.finding import Finding
from ccshared.vocabulary import Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
APPROVED = AntivirusSettings(binary_sha256=hashlib.sha256(b"the engine").hexdigest())


def header(built: datetime, *, seconds: str | None = None) -> bytes:
    """The first 512 bytes of a ClamAV database."""
    stamp = str(int(built.timestamp())) if seconds is None else seconds
    text = (
        f"ClamAV-VDB:{built:%d %b %Y %H-%M %z}:27934:2076000:90:d41d8cd98f00b204e9800998ecf8427e:dsig:raynman:{stamp}"
    )
    return text.encode().ljust(512, b" ")


def protected(tmp_path: Path, signatures: bytes, unit: str = "active") -> Machine:
    machine = Machine(tmp_path)
    machine.unit(unit)
    machine.file("/usr/sbin/clamd", "the engine")
    machine.file("/var/lib/clamav/daily.cld", signatures)
    machine.file("/var/lib/clamav/main.cvd", header(datetime(2021, 9, 16, tzinfo=UTC)))
    return machine


async def look(machine: Machine, settings: AntivirusSettings = APPROVED) -> Finding:
    return await antivirus.check(machine.host(), settings, NOW)


@pytest.mark.parametrize(
    ("age", "drift"),
    [(timedelta(days=7), None), (timedelta(days=7, seconds=1), "signatures_stale")],
)
async def test_signatures_may_be_seven_days_old(tmp_path: Path, age: timedelta, drift: str | None) -> None:
    found = await look(protected(tmp_path, header(NOW - age)))
    assert found.drift_type == drift
    assert found.severity == (Severity.HIGH if drift else Severity.LOW)


async def test_the_build_time_counts_when_it_is_written_in_words_only(tmp_path: Path) -> None:
    found = await look(protected(tmp_path, header(NOW - timedelta(days=8), seconds="")))
    assert found.drift_type == "signatures_stale"


@pytest.mark.parametrize("content", [b"", b"no database", header(NOW + timedelta(days=1))])
async def test_signatures_whose_age_is_not_to_be_told_are_unknown(tmp_path: Path, content: bytes) -> None:
    assert (await look(protected(tmp_path, content))).status is Status.UNKNOWN


async def test_an_inactive_engine_is_critical_even_with_old_signatures(tmp_path: Path) -> None:
    found = await look(protected(tmp_path, header(NOW - timedelta(days=90)), unit="inactive"))
    assert (found.severity, found.drift_type) == (Severity.CRITICAL, "antivirus_inactive")
    assert found.service_name == "clamav-daemon.service"
    assert "older than 7 days" in found.reason


async def test_an_engine_that_is_not_installed_is_critical_and_says_what_to_do(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.unit("inactive", load="not-found")
    found = await look(machine)
    assert found.severity is Severity.CRITICAL
    assert "install it, or set unit" in found.reason


async def test_another_binary_than_the_approved_one_is_high(tmp_path: Path) -> None:
    machine = protected(tmp_path, header(NOW))
    machine.file("/usr/sbin/clamd", "another engine")
    found = await look(machine)
    assert (found.severity, found.drift_type) == (Severity.HIGH, "antivirus_binary_changed")


async def test_without_an_approved_binary_the_line_to_add_is_told(tmp_path: Path) -> None:
    found = await look(protected(tmp_path, header(NOW)), AntivirusSettings())
    assert found.status is Status.UNKNOWN
    assert f'binary_sha256 = "{APPROVED.binary_sha256}"' in found.reason


async def test_without_systemd_a_living_process_shows_that_the_engine_runs(tmp_path: Path) -> None:
    machine = protected(tmp_path, header(NOW))
    machine.without_systemd()
    machine.process("clamd")
    found = await look(machine)
    assert (found.status, found.facts["told_by"]) == (Status.PASS, "process")


@pytest.mark.parametrize(("name", "state"), [("clamd", "Z"), ("clamdtop", "S"), ("evil (clamd) S", "S")])
async def test_without_systemd_and_a_living_process_it_is_unknown(tmp_path: Path, name: str, state: str) -> None:
    machine = protected(tmp_path, header(NOW))
    machine.without_systemd()
    machine.process(name, state)
    assert (await look(machine)).status is Status.UNKNOWN


async def test_an_engine_without_signatures_of_its_own_is_judged_without_them(tmp_path: Path) -> None:
    settings = AntivirusSettings(
        unit="falcon-sensor.service",
        process="falcon-sensor",
        binary=Path("/opt/sensor"),
        binary_sha256=hashlib.sha256(b"sensor").hexdigest(),
        signature_dir="",
    )
    machine = Machine(tmp_path)
    machine.unit("active")
    machine.file("/opt/sensor", "sensor")
    assert (await look(machine, settings)).status is Status.PASS
