"""Do the log services run, did the canary line arrive in the last two hours, is there room for logs?"""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from ccagent.checks import times
from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.checks.units import Running, Unit, look
from ccagent.config import LoggingSettings
from ccagent.finding import Finding, one_line
from ccagent.host import Host, ProgramMissingError
from ccshared.vocabulary import Severity

_PROCESSES = {"systemd-journald.service": "systemd-journald"}
MAX_CANARIES = 16
_ISO_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\S+")
_OLD_STAMP = re.compile(r"([A-Z][a-z]{2}) {1,2}\d{1,2} \d\d:\d\d:\d\d")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSET = (
    'no canary is configured: let something write one each hour, and add canary_file = "/var/log/…" or '
    'canary_journal = "cc-canary" under [checks.logging]'
)


class NoCanaryError(Exception):
    """Where the canary should be, nothing could be read."""


async def check(host: Host, settings: LoggingSettings, now: datetime) -> Finding:
    """Fail high when a log service does not run, medium when the canary is missing or the volume nearly full."""
    units = [await look(host, name, _process_of(name)) for name in settings.units]
    canary, seen = await _canary(host, settings, now)
    room, free = _room(host, settings)
    facts: dict[str, Any] = {
        "units": [{"name": unit.name, "state": str(unit.running), "told_by": unit.told_by} for unit in units[:32]],
        "canary_at": times.epoch(seen),
        **free,
    }
    return add_up("logging", host, [*(_service(unit) for unit in units), canary, room], facts)


def last_stamp(text: str, canary: str, now: datetime) -> datetime | None:
    """Return when (UTC) the last line that holds the canary was written, None when no line does.

    Stamps are ISO 8601 with a zone, or the older `Nov  4 03:07:09` in local time without a year: then the latest such
    moment that is not in the future. times.NotATimeError when the line begins with neither.
    """
    lines = [line for line in text.splitlines() if canary in line]
    if not lines:
        return None
    iso = _ISO_STAMP.match(lines[-1])
    if iso:
        return times.parse(iso[0])
    old = _OLD_STAMP.match(lines[-1])
    if old and old[1] in _MONTHS:
        return _without_year(old[0], now)
    raise times.NotATimeError("is not at the beginning of its line")


def _process_of(unit: str) -> str:
    """rsyslogd and auditd: the process of rsyslog.service has a d more, that of auditd.service none."""
    name = unit.removesuffix(".service")
    return _PROCESSES.get(unit, name if name.endswith("d") else f"{name}d")


def _service(unit: Unit) -> Part:
    if unit.running is Running.YES:
        return good(f"{unit.name} runs")
    if unit.running is Running.UNTOLD:
        return unclear(f"whether {unit.name} runs is not known: {unit.why}")
    how = "is not installed" if unit.running is Running.ABSENT else "does not run"
    return bad(f"{unit.name} {how}", Severity.HIGH, "logging_inactive", unit.name)


async def _canary(host: Host, settings: LoggingSettings, now: datetime) -> tuple[Part, datetime | None]:
    hours = settings.canary_max_age_hours
    try:
        seen = await _last_canary(host, settings, now)
        if seen is None or times.age(seen, now) > timedelta(hours=hours):
            return bad(f"no canary line of the last {hours} h", Severity.MEDIUM, "canary_missing"), seen
    except (NoCanaryError, ProgramMissingError) as error:
        return unclear(str(error)), None
    except times.NotATimeError as error:
        return unclear(f"the canary's time {error}: mend what writes it"), None
    return good("the canary arrived"), seen


async def _last_canary(host: Host, settings: LoggingSettings, now: datetime) -> datetime | None:
    if settings.canary_file is not None:
        return last_stamp(await _canary_text(host, settings), settings.canary_text, now)
    if settings.canary_journal is not None:
        return await _in_journal(host, settings.canary_journal)
    raise NoCanaryError(_UNSET)


def canary_lines(host: Host, settings: LoggingSettings) -> str:
    """Return the last lines of the canary's file that hold the canary, and no other; OSError when it is not read."""
    text = host.read_tail(settings.canary_file or "")
    return "\n".join([line for line in text.splitlines() if settings.canary_text in line][-MAX_CANARIES:])


async def _canary_text(host: Host, settings: LoggingSettings) -> str:
    try:
        return canary_lines(host, settings)
    except OSError as error:
        told = await host.read_as_root("canary")
        if told is not None:
            return told
        help_line = ": run the helper" if isinstance(error, PermissionError) else ""
        raise NoCanaryError(f"{settings.canary_file} cannot be read ({error.strerror}){help_line}") from error


def journal_command(identifier: str) -> tuple[str, ...]:
    """Return the argument vector that shows the newest line of an identifier in the journal."""
    return ("journalctl", f"--identifier={identifier}", "--lines=1", "--output=json", "--no-pager")


async def _in_journal(host: Host, identifier: str) -> datetime | None:
    """An empty answer with a complaint is no answer: the journal hides lines from a user whom it does not trust."""
    output = await host.run_as_root("canary_journal", journal_command(identifier), timeout_s=30)
    if not output.stdout.strip():
        if output.stderr.strip() or output.timed_out or output.code not in (0, 1):
            raise NoCanaryError(f"the journal cannot be read: {output.complaint()}")
        return None
    try:
        micros = int(json.loads(output.stdout.splitlines()[-1])["__REALTIME_TIMESTAMP"])
        return datetime.fromtimestamp(micros / 1_000_000, UTC)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise NoCanaryError("journalctl gave no JSON entry") from error


def _room(host: Host, settings: LoggingSettings) -> tuple[Part, dict[str, Any]]:
    facts: dict[str, Any] = {"volume": one_line(str(settings.volume), 200), "free_percent": None, "free_mib": None}
    try:
        about = os.statvfs(host.place(settings.volume))
    except OSError as error:
        return unclear(f"{settings.volume} cannot be seen ({error.strerror}): set volume under [checks.logging]"), facts
    percent = 100 * about.f_bavail // max(about.f_blocks, 1)
    facts |= {"free_percent": percent, "free_mib": about.f_bavail * about.f_frsize // 2**20}
    if percent < settings.min_free_percent:
        reason = f"{settings.volume} has less than {settings.min_free_percent} % free"
        return bad(reason, Severity.MEDIUM, "log_volume_full"), facts
    return good(f"{settings.volume} has room"), facts


def _without_year(stamp: str, now: datetime) -> datetime:
    """Months have English names whatever the locale (RFC 3164, 4.1.2), so strptime is not asked."""
    month, day, clock = stamp.split()
    for year in (now.astimezone().year, now.astimezone().year - 1):
        text = f"{year:04}-{_MONTHS.index(month) + 1:02}-{int(day):02}T{clock}"
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:  # 29 February of another year
            continue
        if moment - now <= times.TOLERANCE:
            return moment
    raise times.NotATimeError("lies in the future")
