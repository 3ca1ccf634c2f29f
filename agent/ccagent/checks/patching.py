"""Are security updates pending, and when was this machine last brought up to date?"""

import gzip
import hashlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ccagent.checks import times
from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.config import PatchingSettings
from ccagent.finding import Finding, one_line
from ccagent.host import MAX_TEXT, Host, ProgramMissingError
from ccshared.vocabulary import Severity

SYSTEM = "/run/current-system"
MAX_NAMED = 50

# Simulates as any user would, with no lock; caches and logs, which even a simulation writes, are turned off.
APT = (
    *("apt-get", "-s", "-qq", "--ignore-hold", "-o", "Debug::NoLocking=1"),
    *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "-o", "Dir::Log::Planner=/dev/null"),
    "dist-upgrade",
)
DNF = ("dnf", "-q", "-C")  # -C: the cache only, no network
ZYPPER = ("zypper", "--no-refresh", "--non-interactive", "--xmlout", "list-patches")

_APT_LINE = re.compile(r"Inst (\S+) (?:\[[^\]]*\] )?\(\S+ (.*) \[[^\]]*\]\)")
_DNF_LINE = re.compile(r"(\S+)\s+(?:\S*/Sec\.|security)\s+.*?(\S+\.\w+)(?:\s+\d{4}-\d\d-\d\d.*)?")
_ZYPPER_ENTRY = re.compile(r"<update (?=[^>]*\bkind=\"patch\")[^>]*>")
_NAME = re.compile(r"\bname=\"([^\"]*)\"")
_GENERATION = re.compile(r"system-(\d+)-link")
_ENDED = re.compile(r"^End-Date: (\d{4}-\d\d-\d\d)\s+(\d\d:\d\d:\d\d)", re.MULTILINE)


@dataclass(frozen=True)
class Survey:
    """What the package manager knows. `security` names pending updates, None when that cannot be told (`why`).

    `pending`: whether anything at all waits. `refreshed`: when its lists were fetched. `upgraded`: when packages were
    last replaced. All times UTC, None when not to be seen.
    """

    manager: str
    security: tuple[str, ...] | None
    pending: bool | None
    refreshed: datetime | None
    upgraded: datetime | None
    why: str = ""

    @property
    def last_update(self) -> datetime | None:
        """When the machine was last known to be up to date: as of its lists if nothing waits, else its last upgrade."""
        moments = [self.upgraded, self.refreshed if self.pending is False else None]
        return max((moment for moment in moments if moment is not None), default=None)


async def check(host: Host, settings: PatchingSettings, now: datetime) -> Finding:
    """Fail medium with security updates pending or a last update over 30 days ago; high over 60 days."""
    facts: dict[str, Any] = {"flake_hash": flake_hash(host), "reboot_required": reboot_required(host)}
    try:
        survey = await _survey(host)
    except ProgramMissingError as error:
        return add_up("patching", host, [unclear(str(error))], facts)
    if survey is None:
        reason = "no package manager that is known here (apt, dnf, zypper, NixOS)"
        return add_up("patching", host, [unclear(reason)], facts)
    parts = [_last_update(survey, settings, now)]
    if survey.manager != "nixos":  # a generation is all or nothing: its age says it
        parts.insert(0, _security(survey, settings, now))
    return add_up("patching", host, parts, {**facts, **_facts(survey)})


def flake_hash(host: Host) -> str | None:
    """Return the hex SHA-256 of the running system's store path, None where there is none."""
    store_path = host.link(SYSTEM)
    return hashlib.sha256(store_path.encode("utf-8", "replace")).hexdigest() if store_path else None


def reboot_required(host: Host) -> bool:
    """Return whether the machine says that it must be booted for its updates to hold."""
    booted, current = host.link("/run/booted-system/kernel"), host.link(f"{SYSTEM}/kernel")
    return host.exists("/run/reboot-required") or (booted is not None and booted != current)


def apt_pending(simulation: str) -> list[tuple[str, bool]]:
    """Return (package, whether a security source offers it) for each line that apt's simulation would install."""
    found = []
    for line in simulation.splitlines():
        match = _APT_LINE.match(line)
        if match:
            found.append((match[1], "security" in match[2].lower()))
    return found


def dnf_security(listing: str) -> list[str]:
    """Return the packages of security advisories, each once, in the listing of dnf 4 or 5."""
    matches = (_DNF_LINE.fullmatch(line.strip()) for line in listing.splitlines())
    return list(dict.fromkeys(match[2] for match in matches if match))


def zypper_patches(listing: str) -> list[tuple[str, bool]]:
    """Return (patch, whether it is a security patch) for each needed patch of zypper's XML."""
    entries = _ZYPPER_ENTRY.findall(listing)
    names = [(_NAME.search(entry), entry) for entry in entries]
    return [(name[1] if name else "unnamed", 'category="security"' in entry) for name, entry in names]


def last_apt_upgrade(history: str) -> datetime | None:
    """Return when (UTC) the newest transaction of apt's history that upgraded something ended; it writes local time."""
    newest = None
    for stanza in history.split("\n\n"):
        ended = _ENDED.search(stanza)
        if ended and re.search(r"^Upgrade: ", stanza, re.MULTILINE):
            newest = _local(f"{ended[1]} {ended[2]}")
    return newest


async def _survey(host: Host) -> Survey | None:
    if host.exists("/etc/NIXOS"):
        return _nixos(host)
    if host.exists("/var/lib/dpkg/status") and host.which("apt-get"):
        return await _apt(host)
    if host.which("dnf"):
        return await _dnf(host)
    if host.which("zypper"):
        return await _zypper(host)
    return None


def _nixos(host: Host) -> Survey:
    """The profile's newest generation is what this machine would boot; its link is as old as the last switch."""
    link = host.link("/nix/var/nix/profiles/system") or ""
    made = host.changed(f"/nix/var/nix/profiles/{link}") if _GENERATION.fullmatch(link) else None
    return Survey("nixos", None, None, None, made)


async def _apt(host: Host) -> Survey:
    output = await host.run(APT, timeout_s=45)
    found = apt_pending(output.stdout)
    security: tuple[str, ...] | None = tuple(name for name, is_security in found if is_security)
    why = ""
    if not output.complete:
        security, why = None, f"apt-get: {output.complaint()}"
    elif not security and host.newest("/var/lib/apt/lists/*security*Release") is None:
        security, why = None, "apt has no list of a security source: add one and run apt-get update"
    lists = ("/var/lib/apt/periodic/update*stamp", "/var/lib/apt/lists", "/var/lib/apt/lists/*Release")
    return Survey(
        manager="apt",
        security=security,
        pending=bool(found) if output.complete else None,
        refreshed=host.newest(*lists),
        upgraded=_apt_upgraded(host),
        why=why,
    )


def _apt_upgraded(host: Host) -> datetime | None:
    """The history begins anew each month, so the one before is looked at too."""
    for name in ("history.log", "history.log.1.gz"):
        try:
            newest = last_apt_upgrade(_history(host, f"/var/log/apt/{name}"))
        except (OSError, EOFError):
            continue
        if newest is not None:
            return newest
    return None


def _history(host: Host, path: str) -> str:
    if not path.endswith(".gz"):
        return host.read_tail(path)
    with gzip.open(host.place(path)) as file:
        return file.read(MAX_TEXT).decode("utf-8", "replace")


async def _dnf(host: Host) -> Survey:
    advisories = await host.run([*DNF, "updateinfo", "list", "--security"], timeout_s=45)
    updates = await host.run([*DNF, "check-update"], timeout_s=45)
    told = advisories.complete and updates.code in (0, 100)  # 100: updates wait (dnf(8))
    why = "" if told else f"dnf: {(updates if advisories.complete else advisories).complaint()}"
    return Survey(
        manager="dnf",
        security=tuple(dnf_security(advisories.stdout)) if told else None,
        pending=updates.code == 100 if told else None,
        refreshed=host.newest("/var/cache/dnf/*/repodata/repomd.xml", "/var/cache/libdnf5/*/repodata/repomd.xml"),
        upgraded=await _rpm_upgraded(host),
        why=why,
    )


async def _zypper(host: Host) -> Survey:
    output = await host.run(ZYPPER, timeout_s=45)
    patches = zypper_patches(output.stdout)
    return Survey(
        manager="zypper",
        security=tuple(name for name, security in patches if security) if output.complete else None,
        pending=bool(patches) if output.complete else None,
        refreshed=host.newest("/var/cache/zypp/raw/*/cookie", "/var/cache/zypp/solv/*/cookie"),
        upgraded=await _rpm_upgraded(host),
        why="" if output.complete else f"zypper: {output.complaint()}",
    )


async def _rpm_upgraded(host: Host) -> datetime | None:
    try:
        output = await host.run(["rpm", "-qa", "--qf", "%{INSTALLTIME}\\n"], timeout_s=45)
    except ProgramMissingError:
        return None
    moments = [int(line) for line in output.stdout.split() if line.isdecimal()]
    return datetime.fromtimestamp(max(moments), UTC) if output.complete and moments else None


def _security(survey: Survey, settings: PatchingSettings, now: datetime) -> Part:
    if survey.security is None:
        return unclear(f"whether security updates are pending is not known: {survey.why}")
    if survey.security:
        return bad(f"{len(survey.security)} security updates are pending", Severity.MEDIUM, "updates_pending")
    days = settings.lists_max_age_days
    if not _is_within(survey.refreshed, days, now):
        return unclear(
            f"no security updates are known, but the package lists are not of the last {days} days: fetch them"
        )
    return good("no security updates are pending")


def _last_update(survey: Survey, settings: PatchingSettings, now: datetime) -> Part:
    if survey.last_update is None:
        return unclear("when this machine was last updated cannot be seen")
    try:
        age = times.age(survey.last_update, now)
    except times.NotATimeError as error:
        return unclear(f"the time of the last update {error}: correct the clock")
    for days, severity in ((settings.high_age_days, Severity.HIGH), (settings.max_age_days, Severity.MEDIUM)):
        if age > timedelta(days=days):
            return bad(f"the last update is older than {days} days", severity, "updates_stale")
    return good("the last update is recent")


def _is_within(moment: datetime | None, days: int, now: datetime) -> bool:
    try:
        return moment is not None and times.age(moment, now) <= timedelta(days=days)
    except times.NotATimeError:
        return False


def _facts(survey: Survey) -> dict[str, Any]:
    named = survey.security or ()
    return {
        "manager": survey.manager,
        "security_pending": None if survey.security is None else len(survey.security),
        "security_packages": [one_line(name, 128) for name in named[:MAX_NAMED]],
        "updates_pending": survey.pending,
        "lists_at": times.epoch(survey.refreshed),
        "last_update_at": times.epoch(survey.last_update),
    }


def _local(text: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S")), UTC)
    except (ValueError, OverflowError):
        return None
