"""What a check answers: one finding, fit to be shown to a person and sealed as evidence."""

from dataclasses import dataclass
from typing import Any

from ccshared import canonical
from ccshared.vocabulary import Severity, Status

MAX_FACTS_BYTES = 16 * 1024
MAX_REASON = 500


@dataclass(frozen=True)
class Finding:
    """One answer of one check about one host.

    `reason` is one line for a person and says what to add when the answer is unknown. `facts` is canonical JSON of at
    most 16 KiB (no floats, keys `[a-z0-9_]{1,64}`), else NotCanonicalError. `severity` says something of a failure
    only. `drift_type` is a short machine word such as `backup_stale`.
    """

    check: str
    status: Status
    severity: Severity
    reason: str
    host_id: str
    facts: dict[str, Any]
    drift_type: str | None = None
    service_name: str | None = None

    def __post_init__(self) -> None:
        canonical.write({"reason": self.reason}, MAX_FACTS_BYTES)
        canonical.write(self.facts, MAX_FACTS_BYTES)


@dataclass(frozen=True)
class Drift:
    """What went wrong, in words for machines: a `kind` such as `service_inactive`, and the service if it is one."""

    severity: Severity
    kind: str
    service_name: str | None = None


def passed(check: str, host_id: str, reason: str, facts: dict[str, Any]) -> Finding:
    """Return a passing finding."""
    return Finding(check, Status.PASS, Severity.LOW, one_line(reason), host_id, facts)


def failed(check: str, host_id: str, reason: str, facts: dict[str, Any], drift: Drift) -> Finding:
    """Return a failing finding."""
    return Finding(
        check=check,
        status=Status.FAIL,
        severity=drift.severity,
        reason=one_line(reason),
        host_id=host_id,
        facts=facts,
        drift_type=drift.kind,
        service_name=drift.service_name,
    )


def unknown(check: str, host_id: str, reason: str, facts: dict[str, Any]) -> Finding:
    """Return a finding that could not be told; its reason says why, and what to add."""
    return Finding(check, Status.UNKNOWN, Severity.LOW, one_line(reason), host_id, facts)


def one_line(text: str, limit: int = MAX_REASON) -> str:
    """Return `text` on one line of at most `limit` characters, without control characters or lone surrogates."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    line = " ".join("".join(c if c.isprintable() else " " for c in plain).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
