"""All checks together: this very machine, limits, checks that break, plugins, and how parts add up."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ccagent import checks
from ccagent.checks import parts
from ccagent.config import ChecksSettings, PluginSettings
from ccagent.finding import Finding, one_line, passed
from ccagent.host import MAX_OUTPUT, Host, ProgramMissingError
from ccshared import canonical
from ccshared.vocabulary import Family, Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
WATCHED = ("/var/lib/apt", "/var/cache/apt", "/var/log/apt", "/var/lib/dpkg")


def changes() -> dict[str, int]:
    """When whatever the checks could touch by mistake last changed."""
    return {
        path: os.lstat(path).st_mtime_ns
        for top in WATCHED
        for directory, _, names in os.walk(top)
        for path in (directory, *(f"{directory}/{name}" for name in names))
    }


async def test_this_machine_gives_six_findings_within_the_limit_and_is_not_changed() -> None:
    before, start = changes(), time.monotonic()
    found = await checks.run_all(Host.here(), ChecksSettings(), datetime.now(UTC))
    assert time.monotonic() - start < 60
    assert [finding.check for finding in found] == list(Family)
    assert all(finding.reason and "\n" not in finding.reason for finding in found)
    assert not any("exception" in finding.facts for finding in found)
    assert changes() == before


async def test_a_check_that_breaks_is_unknown_and_the_other_five_go_on(tmp_path: Path) -> None:
    settings = ChecksSettings().model_copy(update={"backup": None})
    found = {finding.check: finding for finding in await checks.run_all(Machine(tmp_path).host(), settings, NOW)}
    assert len(found) == 6
    assert found["backup"].status is Status.UNKNOWN
    assert "(AttributeError)" in found["backup"].reason
    assert [name for name, finding in found.items() if "exception" in finding.facts] == ["backup"]


async def test_a_check_that_takes_too_long_is_unknown_and_its_program_is_killed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.file("/var/lib/dpkg/status")
    machine.script("apt-get", f"echo $$ > {tmp_path}/pid; exec /bin/sleep 30")
    found = await checks.run_all(machine.host(), ChecksSettings(time_limit_s=1), NOW)
    assert found[0].status is Status.UNKNOWN
    assert "(TimeoutError)" in found[0].reason
    assert state_of((tmp_path / "pid").read_text().strip()) in ("gone", "Z")


async def test_a_round_that_is_cancelled_stops(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.file("/var/lib/dpkg/status")
    machine.script("apt-get", "exec /bin/sleep 30")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(checks.run_all(machine.host(), ChecksSettings(), NOW), 0.5)


@pytest.mark.parametrize(
    ("code", "status", "severity"),
    [
        (0, Status.PASS, Severity.LOW),
        (1, Status.FAIL, Severity.MEDIUM),
        (2, Status.FAIL, Severity.CRITICAL),
        (3, Status.UNKNOWN, Severity.LOW),
        (127, Status.UNKNOWN, Severity.LOW),
    ],
)
async def test_a_plugin_answers_by_its_exit_code(tmp_path: Path, code: int, status: Status, severity: Severity) -> None:
    machine = Machine(tmp_path)
    machine.program("check_disk", "DISK - free space: / 3326 MB|/=2643MB;5948;5958\nmore\n", code)
    settings = ChecksSettings(plugin=(PluginSettings(name="disk", argv=("check_disk", "-w", "10%"), host_id="nas"),))
    found = (await checks.run_all(machine.host(), settings, NOW))[-1]
    assert (found.check, found.host_id, found.status, found.severity) == ("plugin_disk", "nas", status, severity)
    assert found.reason == "DISK - free space: / 3326 MB"
    assert found.facts == {"exit_code": code, "performance": "/=2643MB;5948;5958"}


@pytest.mark.parametrize("argv", [("nowhere",), ("/bin/sleep", "30")])
async def test_a_plugin_that_is_missing_or_slow_is_unknown(tmp_path: Path, argv: tuple[str, ...]) -> None:
    settings = ChecksSettings(plugin=(PluginSettings(name="ups", argv=argv, timeout_s=1),))
    found = (await checks.run_all(Machine(tmp_path).host(), settings, NOW))[-1]
    assert (found.status, found.host_id) == (Status.UNKNOWN, "front-desk")


@pytest.mark.parametrize(
    ("looked", "status", "drift"),
    [
        ([], Status.UNKNOWN, None),
        ([parts.good("a")], Status.PASS, None),
        ([parts.good("a"), parts.unclear("b")], Status.UNKNOWN, None),
        ([parts.unclear("b"), parts.bad("c", Severity.LOW, "c"), parts.good("a")], Status.FAIL, "c"),
        ([parts.bad("c", Severity.LOW, "c"), parts.bad("d", Severity.HIGH, "d")], Status.FAIL, "d"),
    ],
)
def test_a_failing_part_outranks_an_unknown_one_and_that_a_good_one(
    looked: list[parts.Part], status: Status, drift: str | None
) -> None:
    found = parts.add_up("backup", Host("h"), looked, {})
    assert (found.status, found.drift_type) == (status, drift)


@pytest.mark.parametrize("facts", [{"age": 1.5}, {"Age": 1}, {"list": ["x" * 1024] * 17}, {"who": "\udcff"}])
def test_facts_that_cannot_be_sealed_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        passed("backup", "h", "fine", facts)


def test_a_reason_is_one_printable_line() -> None:
    assert one_line("a\n\tb\x1b[31m \udcff") == "a b [31m ?"
    assert len(one_line("x" * 2000)) == 500


async def test_a_program_gets_no_secrets_of_our_environment_and_speaks_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC_SECRET", "hunter2")
    machine = Machine(tmp_path)
    machine.script("show", 'echo "$CC_SECRET:$LC_ALL"')
    assert (await machine.host().run(["show"], 5)).stdout == ":C\n"


async def test_a_flood_of_output_is_bounded_and_marked(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.script("flood", f"/usr/bin/head -c {MAX_OUTPUT + 100_000} /dev/zero")
    output = await machine.host().run(["flood"], 20)
    assert (len(output.stdout), output.cut, output.complete) == (MAX_OUTPUT, True, False)


async def test_a_program_that_is_too_slow_is_killed_with_its_children(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.script("slow", f"/bin/sleep 30 & echo $! > {tmp_path}/child; echo begun; wait")
    output = await machine.host().run(["slow"], 0.5)
    assert (output.timed_out, output.complete, output.stdout) == (True, False, "begun\n")
    assert state_of((tmp_path / "child").read_text().strip()) in ("gone", "Z")


async def test_a_program_that_leaves_a_child_with_its_output_does_not_hold_us(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.script("daemon", f"/bin/sleep 30 & echo $! > {tmp_path}/child; echo done")
    start = time.monotonic()
    output = await machine.host().run(["daemon"], 20)
    os.kill(int((tmp_path / "child").read_text()), 9)
    assert (output.stdout, output.complete) == ("done\n", True)
    assert time.monotonic() - start < 5


async def test_a_missing_program_has_an_error_of_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.file("/bin/nothing")
    with pytest.raises(ProgramMissingError, match="nothing is not installed"):
        await machine.host().run(["nothing"], 1)


def test_only_regular_files_within_the_limit_are_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    os.mkfifo(machine.file("/etc/x").parent / "fifo")
    machine.file("/etc/long", "x" * 11)
    for name in ("fifo", "long", "missing"):
        with pytest.raises(OSError, match=name):
            machine.host().read_text(f"/etc/{name}", 10)


async def test_every_finding_of_this_machine_can_be_sealed() -> None:
    host, now = Host.here(), datetime.now(UTC)
    answers: list[Awaitable[Finding]] = [
        checks.run_one(name, host, ChecksSettings(), now) for name in ("antivirus", "logging", "firewall")
    ]
    for finding in await asyncio.gather(*answers):
        assert json.loads(canonical.write(finding.facts)) == finding.facts


def state_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"
