"""What check runs say of a site, and how it is scored. One function computes a score; unknown is never compliant."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ccshared.entries import Entry
from ccshared.vocabulary import Family, Kind, Severity, Status

# Twice the hourly check run: what no receipted run has named for so long is not known any more.
FRESH_FOR = timedelta(hours=2)
_STATUSES = frozenset(Status)
_SEVERITIES = frozenset(Severity)
_KINDS = frozenset(Kind)
_TEXT = frozenset({str})
_WORD = re.compile("[0-9a-z_.-]{0,64}")


@dataclass(frozen=True)
class CheckRun:
    """What one check_run entry says of one check on one host; `flake_hash` names the running system, if it has one.

    (`epoch_number`, `seq`) is its place, which orders runs: clocks may lie.
    """

    check_id: str
    host_id: str
    status: str
    severity: str
    reason: str
    since: datetime
    seen_at: datetime
    epoch_number: int
    seq: int
    flake_hash: str | None


@dataclass(frozen=True)
class CheckState:
    """The latest known state of a check on a host, as pages show it; `fresh` is false when it is too old to count.

    `waived`: a person said, with a reason and until when, that it does not count.
    """

    appliance_id: str
    host_id: str
    check_id: str
    status: str
    severity: str
    reason: str
    since: datetime
    seen_at: datetime
    fresh: bool
    waived: bool = False

    @property
    def counts(self) -> bool:
        """Whether what it says is in a sum of the score."""
        return self.fresh and not self.waived


@dataclass(frozen=True)
class Score:
    """How many fresh checks pass, fail and are not known; waived ones are in none of these."""

    passed: int
    failed: int
    unknown: int
    waived: int = 0

    @property
    def value(self) -> float | None:
        """The share of passing checks among those known, 0 … 1."""
        known = self.passed + self.failed
        return self.passed / known if known else None


def score(states: Iterable[CheckState], appliances: Iterable[str]) -> Score:
    """Return a site's score over its check states; a stale one counts as unknown, a waived one in neither sum.

    A family of which an appliance never reported a run is unknown too: silence is not compliance.
    """
    every = list(states)
    counted = [state.status if state.fresh else Status.UNKNOWN for state in every if not state.waived]
    passed, failed, unknown = (counted.count(status) for status in (Status.PASS, Status.FAIL, Status.UNKNOWN))
    reported = {(state.appliance_id, state.check_id) for state in every}
    silent = sum((appliance, family) not in reported for appliance in appliances for family in Family)
    return Score(passed, failed, unknown + silent, len(every) - len(counted))


def is_fresh(seen_at: datetime, now: datetime) -> bool:
    """Return whether a check run seen then still says something now."""
    return now - seen_at < FRESH_FOR


def flag_of(entry: Entry) -> str | None:
    """Return why this server does not understand an entry, or None. A flagged entry is stored all the same."""
    if entry.kind not in _KINDS:
        return "unknown kind"
    if entry.kind == Kind.CHECK_RUN and _words(entry) is None:
        return "not a check run of a known shape"
    return None


def controls_of(entry: Entry) -> list[str] | None:
    """Return the HIPAA controls that an entry names, or None when it names none."""
    controls = entry.body.get("hipaa_controls")
    if not isinstance(controls, list) or not controls:
        return None
    named = [_clean(control, 64) for control in controls if isinstance(control, str)]
    return named[:64] or None


def host_of(entry: Entry) -> str | None:
    """Return the host that an entry is about, or None."""
    host = entry.body.get("host")
    return _clean(host, 255) if isinstance(host, str) and host else None


def check_of(entry: Entry) -> str | None:
    """Return the check that an entry is about, or None."""
    check = entry.body.get("check")
    return check if isinstance(check, str) and _WORD.fullmatch(check) else None


def check_runs(entries: Sequence[Entry], received_at: datetime) -> list[CheckRun]:
    """Return the last run of each (host, check) by its place; entries of several logs may be mixed."""
    latest: dict[tuple[str, str], tuple[tuple[int, int], Entry, _Words]] = {}
    for entry in entries:
        words = _words(entry) if entry.kind == Kind.CHECK_RUN else None
        if words is None:
            continue
        key, place = (_clean(words.host, 255), words.check), (_epoch_number(entry.log), entry.seq)
        if key not in latest or latest[key][0] < place:
            latest[key] = (place, entry, words)
    return [_check_run(entry, words, received_at) for _, entry, words in latest.values()]


class _Words(NamedTuple):
    """What a check run says in words, once it is known to have the shape of one."""

    check: str
    host: str
    status: str
    severity: str
    reason: str


def _words(entry: Entry) -> _Words | None:
    words = list(map(entry.body.get, _Words._fields))
    since = entry.body.get("since")
    if not all(words) or set(map(type, words)) != _TEXT or type(since) is not int or since < 0:
        return None
    said = _Words._make(words)
    if said.status not in _STATUSES or said.severity not in _SEVERITIES or not _WORD.fullmatch(said.check):
        return None
    return said


def _check_run(entry: Entry, words: _Words, received_at: datetime) -> CheckRun:
    seen_at = min(_moment(entry.at), received_at)  # a clock that lags makes a run stale, and none makes it fresher
    return CheckRun(
        check_id=words.check,
        host_id=_clean(words.host, 255),
        status=words.status,
        severity=words.severity,
        reason=_clean(words.reason, 4000),
        since=min(_moment(entry.body["since"]), seen_at),
        seen_at=seen_at,
        epoch_number=_epoch_number(entry.log),
        seq=entry.seq,
        flake_hash=_flake_hash(entry.body),
    )


def _epoch_number(origin: str) -> int:
    return int(origin.rpartition("/")[2].partition("-")[0])


def _flake_hash(body: dict[str, Any]) -> str | None:
    facts = body.get("facts")
    found = facts.get("flake_hash") if isinstance(facts, dict) else None
    return _clean(found, 128) if isinstance(found, str) and found else None


def _clean(text: str, limit: int) -> str:
    """PostgreSQL's text holds no NUL, and a column has a length."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:limit]


def _moment(milliseconds: int) -> datetime:
    """Return the moment, the far future cut to a year that every library can hold."""
    return datetime.fromtimestamp(min(milliseconds, 4_102_444_800_000) / 1000, UTC)
