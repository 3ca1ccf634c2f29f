"""Is there a backup of the last day with a checksum, and was a restore tried in the last month?"""

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ccagent.checks import times
from ccagent.checks.parts import Part, add_up, bad, good, unclear
from ccagent.config import BackupSettings
from ccagent.finding import Finding, one_line
from ccagent.host import Host, Output, ProgramMissingError
from ccshared.vocabulary import Severity

_UNSET = (
    'no backup is configured: add status_file = "/path/backup.json", or a restic or borg repository, '
    "under [checks.backup]"
)
MAX_STATUS = 64 * 1024
LIST_S = 45.0
STATUS_FIELDS = ("last_backup", "last_restore_test", "checksum")
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")


class NoAnswerError(Exception):
    """Where the backup should be told of, nothing usable was found."""


@dataclass(frozen=True)
class Record:
    """What was found of the backups, as it was written; no `last_backup` means that there never was one.

    `status_problem`: why a status file that was asked for restore tests alone told nothing.
    """

    source: str
    last_backup: object
    checksum: object
    last_restore_test: object
    status_problem: str = ""


async def check(host: Host, settings: BackupSettings, now: datetime) -> Finding:
    """Fail medium after 24 h, without checksum, or without a restore test in 30 days; critical after 48 h."""
    try:
        record = await _record(host, settings)
    except (NoAnswerError, ProgramMissingError) as error:
        return add_up("backup", host, [unclear(str(error))], {})
    parts = [_age(record, settings, now), _checksum(record), _restore_test(record, settings, now)]
    return add_up("backup", host, parts, _facts(record))


async def _record(host: Host, settings: BackupSettings) -> Record:
    """A repository is asked itself, whatever the status file is like; of restore tests only that file can tell."""
    if settings.restic_repository is None and settings.borg_repository is None:
        return _by_file(await _status(host, settings), settings)
    if settings.restic_repository is not None:
        made, checksum, source = *await _restic(host, settings), "restic"
    else:
        made, checksum, source = *await _borg(host, settings), "borg"
    try:
        tested, problem = (await _status(host, settings)).get("last_restore_test"), ""
    except NoAnswerError as error:
        tested, problem = None, str(error)
    return Record(source, made, checksum, tested, problem)


def _by_file(status: dict[str, Any], settings: BackupSettings) -> Record:
    if settings.status_file is None:
        raise NoAnswerError(_UNSET)
    if "last_backup" not in status:
        raise NoAnswerError(f"{settings.status_file} has no last_backup: mend what writes it")
    return Record("status_file", status["last_backup"], status.get("checksum"), status.get("last_restore_test"))


def status_text(host: Host, settings: BackupSettings) -> str:
    """Return what the status file says; OSError when it cannot be read."""
    return host.read_text(settings.status_file or "", MAX_STATUS)


async def _status(host: Host, settings: BackupSettings) -> dict[str, Any]:
    if settings.status_file is None:
        return {}
    text = await _status_text(host, settings)
    try:
        status = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoAnswerError(f"{settings.status_file} is not JSON: mend what writes it") from error
    if not isinstance(status, dict):
        raise NoAnswerError(f"{settings.status_file} holds no JSON object: mend what writes it")
    return status


async def _status_text(host: Host, settings: BackupSettings) -> str:
    try:
        return status_text(host, settings)
    except OSError as error:
        told = await host.read_as_root("backup_status")
        if told is not None:
            return told
        help_line = ", or run the helper" if isinstance(error, PermissionError) else ""
        raise NoAnswerError(
            f"{settings.status_file} cannot be read ({error.strerror}): let the backup write it{help_line}"
        ) from error


def restic_command(settings: BackupSettings) -> tuple[str, ...]:
    """Return the argument vector that lists the newest snapshots of the configured restic repository."""
    return (
        *("restic", "snapshots", "--json", "--latest", "1", "--no-lock", "--no-cache"),
        *("--repo", str(settings.restic_repository)),
        *("--password-file", str(settings.restic_password_file)),
    )


def borg_command(settings: BackupSettings) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the argument vector that lists the newest archive of the borg repository, and its environment."""
    # borg writes local time without a zone, so it is made to live in UTC.
    env = {"TZ": "UTC", "BORG_PASSCOMMAND": f"cat {_quoted(str(settings.borg_passphrase_file))}"}
    return ("borg", "list", "--json", "--last", "1", "--bypass-lock", str(settings.borg_repository)), env


async def _restic(host: Host, settings: BackupSettings) -> tuple[object, object]:
    """Return time and id of the newest snapshot, (None, None) for none; the id is the hash of its content."""
    snapshots = await _listing(host, "restic", restic_command(settings), {})
    if not isinstance(snapshots, list):
        raise NoAnswerError("restic answered with no list of snapshots")
    # One for each host and set of paths: the newest of all is the last backup.
    return _newest([_pair(snapshot, "time", "id") for snapshot in snapshots])


async def _borg(host: Host, settings: BackupSettings) -> tuple[object, object]:
    """Return time and id of the newest archive, (None, None) for none."""
    answer = await _listing(host, "borg", *borg_command(settings))
    archives = answer.get("archives") if isinstance(answer, dict) else None
    if not isinstance(archives, list):
        raise NoAnswerError("borg answered with no list of archives")
    pairs = [_pair(archive, "time", "id") for archive in archives]
    return _newest([(made if _ZONE.search(made) else f"{made}+00:00", name) for made, name in pairs])


async def _listing(host: Host, tool: str, argv: tuple[str, ...], env: dict[str, str]) -> Any:
    output = await host.run_as_root(tool, argv, timeout_s=LIST_S, env=env)
    if not output.complete:
        # The repository's address may hold a password, and the complaint the address: only the program is named.
        raise NoAnswerError(
            f"{tool} could not list the repository ({_how(output.timed_out, output.code)}): "
            f"run it by hand as {_who(output)}, and check repository and password file"
        )
    try:
        return json.loads(output.stdout)
    except (ValueError, RecursionError) as error:
        raise NoAnswerError(f"{tool} answered with no JSON: is it too old?") from error


def _who(output: Output) -> str:
    return "root" if output.as_root else "the agent's user, or run the helper"


def _how(timed_out: bool, code: int) -> str:
    return "it took too long" if timed_out else f"it ended with {code}"


def _quoted(path: str) -> str:
    """borg splits this setting as a shell would, but runs no shell (borg's environment variables, BORG_PASSCOMMAND)."""
    return "'" + path.replace("'", "'\"'\"'") + "'"


def _pair(entry: object, *names: str) -> tuple[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in names):
        raise NoAnswerError("the repository's listing has an entry without time and id")
    return entry[names[0]], entry[names[1]]


def _newest(pairs: list[tuple[str, str]]) -> tuple[object, object]:
    try:
        return max(pairs, key=lambda pair: times.parse(pair[0]), default=(None, None))
    except times.NotATimeError as error:
        raise NoAnswerError(f"the time of a snapshot {error}") from error


def _age(record: Record, settings: BackupSettings, now: datetime) -> Part:
    if record.last_backup is None:
        return bad("no backup was ever made", Severity.CRITICAL, "backup_missing")
    try:
        age = times.age(times.parse(record.last_backup), now)
    except times.NotATimeError as error:
        return unclear(f"last_backup {error}: mend what writes it")
    if age > timedelta(hours=settings.critical_age_hours):
        return bad(
            f"the last backup is older than {settings.critical_age_hours} h",
            Severity.CRITICAL,
            "backup_stale",
        )
    if age > timedelta(hours=settings.max_age_hours):
        return bad(
            f"the last backup is older than {settings.max_age_hours} h",
            Severity.MEDIUM,
            "backup_stale",
        )
    return good("there is a recent backup")


def _checksum(record: Record) -> Part:
    if isinstance(record.checksum, str) and record.checksum.strip():
        return good("it has a checksum")
    return bad("the last backup has no checksum", Severity.MEDIUM, "backup_without_checksum")


def _restore_test(record: Record, settings: BackupSettings, now: datetime) -> Part:
    days = settings.restore_test_max_age_days
    if record.status_problem:
        return unclear(f"restore tests are not told of: {record.status_problem}")
    if record.last_restore_test is None:
        if settings.status_file is None:
            return unclear("no restore test is told of: add status_file with last_restore_test under [checks.backup]")
        return bad("no restore test was ever made", Severity.MEDIUM, "restore_test_missing")
    try:
        age = times.age(times.parse(record.last_restore_test), now)
    except times.NotATimeError as error:
        return unclear(f"last_restore_test {error}: mend what writes it")
    if age > timedelta(days=days):
        return bad(
            f"the last restore test is older than {days} days",
            Severity.MEDIUM,
            "restore_test_stale",
        )
    return good("a restore was tested")


def _facts(record: Record) -> dict[str, Any]:
    checksum = one_line(record.checksum, 256) if isinstance(record.checksum, str) else None
    return {
        "source": record.source,
        "last_backup_at": _epoch(record.last_backup),
        "last_restore_test_at": _epoch(record.last_restore_test),
        "checksum": checksum,
    }


def _epoch(value: object) -> int | None:
    try:
        return times.epoch(times.parse(value))
    except times.NotATimeError:
        return None
