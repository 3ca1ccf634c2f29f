"""The patching check: what each package manager prints, and where the limits lie."""

import gzip
import hashlib
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccagent.checks import patching
from ccagent.config import PatchingSettings
from ccagent.finding import Finding
from ccshared.vocabulary import Severity, Status
from tests.agent.machine import Machine

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PLAIN = "Inst bash [5.2.15-2+b8] (5.2.15-2+b13 Debian:12.15/oldstable [amd64])\nConf bash (5.2.15-2+b13 Debian:12.15)\n"
SECURITY = (
    "Inst libssl3 [3.0.15-1] (3.0.17-1 Debian:12.11/stable, Debian-Security:12/stable-security [amd64]) []\n"
    "Inst linux-image-6.1.0-37-amd64 (6.1.140-1 Debian-Security:12/stable-security [amd64])\n"
)
MISNAMED = "Inst modsecurity-crs [3.3.4-1] (3.3.5-1security Debian:12.11/stable [all])\n"
HISTORY = (
    "Start-Date: {0}\nCommandline: apt-get upgrade\nUpgrade: bash:amd64 (5.2.15-2+b7, 5.2.15-2+b8)\nEnd-Date: {0}\n\n"
)
SECURITY_LIST = "/var/lib/apt/lists/deb.debian.org_debian-security_dists_bookworm-security_InRelease"
DNF_4 = """FEDORA-2021-83fdddca0f Moderate/Sec.  curl-7.76.1-7.fc34.x86_64
FEDORA-2021-8cdb4dc341 Important/Sec. dhcp-client-12:4.4.2-11.b1.fc34.x86_64
FEDORA-2021-9999999999 Low/Sec.       curl-7.76.1-7.fc34.x86_64
"""
DNF_5 = """Name                   Type     Severity                   Package              Issued
FEDORA-2024-1a2b3c4d5e security Moderate openssl-libs-1:3.2.1-2.fc40.x86_64 2024-06-05 01:02:03
"""
STORE = "/nix/store/0q1y2fjm0h5p9n7k3w8x4z6v5b2c1d0a-nixos-system-front-desk-25.05.20260301"


def local(at: datetime) -> str:
    return time.strftime("%Y-%m-%d  %H:%M:%S", time.localtime(at.timestamp()))


def debian(tmp_path: Path, simulated: str, *, refreshed: timedelta, upgraded: timedelta | None = None) -> Machine:
    machine = Machine(tmp_path)
    machine.program("apt-get", simulated)
    machine.file("/var/lib/dpkg/status")
    machine.file(SECURITY_LIST, at=NOW - refreshed)
    os.utime(machine.place / "root/var/lib/apt/lists", (0, (NOW - refreshed).timestamp()))
    if upgraded is not None:
        machine.file("/var/log/apt/history.log", HISTORY.format(local(NOW - upgraded)))
    return machine


async def look(machine: Machine) -> Finding:
    return await patching.check(machine.host(), PatchingSettings(), NOW)


async def test_pending_security_updates_fail_and_are_named(tmp_path: Path) -> None:
    found = await look(debian(tmp_path, PLAIN + SECURITY, refreshed=timedelta(hours=1), upgraded=timedelta(days=1)))
    assert (found.severity, found.drift_type) == (Severity.MEDIUM, "updates_pending")
    assert found.facts["security_packages"] == ["libssl3", "linux-image-6.1.0-37-amd64"]


async def test_a_machine_for_which_nothing_waits_is_up_to_date_as_of_its_lists(tmp_path: Path) -> None:
    found = await look(debian(tmp_path, "", refreshed=timedelta(days=1), upgraded=timedelta(days=300)))
    assert found.status is Status.PASS


@pytest.mark.parametrize(
    ("age", "severity"),
    [
        (timedelta(days=30), None),
        (timedelta(days=30, seconds=1), Severity.MEDIUM),
        (timedelta(days=60), Severity.MEDIUM),
        (timedelta(days=60, seconds=1), Severity.HIGH),
    ],
)
async def test_the_last_upgrade_fails_after_thirty_days_and_is_high_after_sixty(
    tmp_path: Path, age: timedelta, severity: Severity | None
) -> None:
    found = await look(debian(tmp_path, PLAIN, refreshed=timedelta(days=1), upgraded=age))
    assert (found.severity if found.status is Status.FAIL else None) == severity


@pytest.mark.parametrize(
    ("age", "expected"), [(timedelta(days=7), Status.PASS), (timedelta(days=7, seconds=1), Status.UNKNOWN)]
)
async def test_old_package_lists_do_not_show_that_nothing_is_pending(
    tmp_path: Path, age: timedelta, expected: Status
) -> None:
    assert (await look(debian(tmp_path, "", refreshed=age))).status is expected


async def test_without_a_security_source_it_is_unknown(tmp_path: Path) -> None:
    machine = debian(tmp_path, "", refreshed=timedelta(hours=1))
    (machine.place / "root" / SECURITY_LIST[1:]).rename(machine.place / "root/var/lib/apt/lists/main_InRelease")
    os.utime(machine.place / "root/var/lib/apt/lists", (0, NOW.timestamp()))
    found = await look(machine)
    assert (found.status, "security source" in found.reason) == (Status.UNKNOWN, True)


async def test_an_apt_that_fails_is_unknown_with_its_complaint(tmp_path: Path) -> None:
    machine = debian(tmp_path, "", refreshed=timedelta(hours=1), upgraded=timedelta(days=1))
    machine.program("apt-get", code=100, complaint="E: Unmet dependencies. Try 'apt --fix-broken install'.\n")
    found = await look(machine)
    assert found.status is Status.UNKNOWN
    assert "Unmet dependencies" in found.reason


async def test_apt_is_only_ever_asked_to_simulate(tmp_path: Path) -> None:
    machine = debian(tmp_path, "", refreshed=timedelta(hours=1))
    await look(machine)
    (call,) = machine.calls("apt-get")
    assert "-s " in call
    assert "Debug::NoLocking=1" in call


async def test_the_history_of_last_month_is_read_when_this_months_has_no_upgrade(tmp_path: Path) -> None:
    machine = debian(tmp_path, PLAIN, refreshed=timedelta(days=1))
    machine.file("/var/log/apt/history.log", "\nStart-Date: x\nInstall: ninja\nEnd-Date: 2026-03-09  10:00:00\n")
    old = HISTORY.format(local(NOW - timedelta(days=20)))
    machine.file("/var/log/apt/history.log.1.gz", gzip.compress(old.encode()))
    assert (await look(machine)).facts["last_update_at"] == int((NOW - timedelta(days=20)).timestamp())


def test_security_is_read_from_the_source_not_from_the_name() -> None:
    assert patching.apt_pending(MISNAMED) == [("modsecurity-crs", False)]


async def test_a_reboot_that_is_due_is_told(tmp_path: Path) -> None:
    machine = debian(tmp_path, "", refreshed=timedelta(hours=1))
    machine.file("/run/reboot-required")
    assert (await look(machine)).facts["reboot_required"] is True


@pytest.mark.parametrize(
    ("listing", "packages"),
    [
        (DNF_4, ["curl-7.76.1-7.fc34.x86_64", "dhcp-client-12:4.4.2-11.b1.fc34.x86_64"]),
        (DNF_5, ["openssl-libs-1:3.2.1-2.fc40.x86_64"]),
        ("FEDORA-2024-5 bugfix bash-5.2-1.fc40.x86_64\n", []),
    ],
)
def test_dnf_4_and_5_name_their_security_advisories(listing: str, packages: list[str]) -> None:
    assert patching.dnf_security(listing) == packages


def fedora(tmp_path: Path, advisories: str, check_update: int) -> Machine:
    machine = Machine(tmp_path)
    machine.script("dnf", f"case \"$*\" in *updateinfo*) echo '{advisories}';; *) exit {check_update};; esac")
    machine.program("rpm", f"{int((NOW - timedelta(days=3)).timestamp())}\n1700000000\n")
    machine.file("/var/cache/dnf/updates-0123/repodata/repomd.xml", at=NOW - timedelta(hours=5))
    return machine


async def test_dnf_without_advisories_passes(tmp_path: Path) -> None:
    found = await look(fedora(tmp_path, "", 0))
    assert (found.status, found.facts["manager"]) == (Status.PASS, "dnf")


async def test_dnf_with_an_advisory_fails(tmp_path: Path) -> None:
    found = await look(fedora(tmp_path, "FEDORA-2024-1 Important/Sec. bash-5.2.26-3.fc40.x86_64", 100))
    assert (found.drift_type, found.facts["security_pending"]) == ("updates_pending", 1)


async def test_dnf_without_a_cache_is_unknown(tmp_path: Path) -> None:
    assert (await look(fedora(tmp_path, "", 1))).status is Status.UNKNOWN


@pytest.mark.parametrize(("category", "expected"), [("security", Status.FAIL), ("recommended", Status.PASS)])
async def test_zyppers_needed_security_patches_fail(tmp_path: Path, category: str, expected: Status) -> None:
    machine = Machine(tmp_path)
    patch = f'<update kind="patch" name="openSUSE-Leap-16.0-112" status="needed" category="{category}" severity="low">'
    listing = f"<?xml version='1.0'?>\n<stream>\n<update-status version=\"0.6\">\n<update-list>\n{patch}"
    machine.program("zypper", listing + "<summary>Update</summary></update></update-list></update-status></stream>")
    machine.program("rpm", f"{int((NOW - timedelta(days=3)).timestamp())}\n")
    machine.file("/var/cache/zypp/raw/repo-update/cookie", at=NOW - timedelta(hours=5))
    assert (await look(machine)).status is expected
    assert "--no-refresh" in machine.calls("zypper")[0]


def nixos(tmp_path: Path, age: timedelta) -> Machine:
    machine = Machine(tmp_path)
    machine.file("/etc/NIXOS")
    machine.link("/run/current-system", STORE)
    machine.link("/nix/var/nix/profiles/system", "system-42-link")
    machine.link("/nix/var/nix/profiles/system-42-link", STORE)
    made = (NOW - age).timestamp()
    os.utime(machine.place / "root/nix/var/nix/profiles/system-42-link", (made, made), follow_symlinks=False)
    return machine


@pytest.mark.parametrize(
    ("age", "status", "severity"),
    [
        (timedelta(days=30), Status.PASS, Severity.LOW),
        (timedelta(days=31), Status.FAIL, Severity.MEDIUM),
        (timedelta(days=61), Status.FAIL, Severity.HIGH),
    ],
)
async def test_a_nixos_generation_is_judged_by_its_age(
    tmp_path: Path, age: timedelta, status: Status, severity: Severity
) -> None:
    found = await look(nixos(tmp_path, age))
    assert (found.status, found.severity) == (status, severity)


async def test_the_flake_hash_is_that_of_the_running_systems_store_path(tmp_path: Path) -> None:
    found = await look(nixos(tmp_path, timedelta(days=1)))
    assert found.facts["flake_hash"] == hashlib.sha256(STORE.encode()).hexdigest()


async def test_a_machine_without_a_known_package_manager_is_unknown(tmp_path: Path) -> None:
    assert (await look(Machine(tmp_path))).status is Status.UNKNOWN
