"""A check looks at several parts; this is what it says of each, and how they add up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccagent import finding
from ccagent.finding import Drift, Finding
from ccagent.host import Host
from ccshared.vocabulary import Severity

_MILDEST_FIRST = list(Severity)


@dataclass(frozen=True)
class Part:
    """What one look at the machine showed: in order (`ok`), drifted (`drift`), or not to be told (neither).

    The reason tells no age and no size: a changed reason is sealed as evidence, and those change all the time.
    """

    reason: str
    ok: bool = False
    drift: Drift | None = None


def good(reason: str) -> Part:
    """Return a part that is in order."""
    return Part(reason, ok=True)


def bad(reason: str, severity: Severity, kind: str, service_name: str | None = None) -> Part:
    """Return a part that has drifted; `kind` is a short machine word."""
    return Part(reason, drift=Drift(severity, kind, service_name))


def unclear(reason: str) -> Part:
    """Return a part that could not be told; the reason says what to add."""
    return Part(reason)


def add_up(check: str, host: Host, parts: Sequence[Part], facts: dict[str, Any]) -> Finding:
    """Return the finding: a failing part outranks an unknown one, an unknown one a good one.

    Among failing parts the most severe names the drift, the first of equals; the reasons of all of that rank are told.
    """
    drifted = [(part, part.drift) for part in parts if part.drift is not None]
    if drifted:
        worst = max((drift for _, drift in drifted), key=lambda drift: _MILDEST_FIRST.index(drift.severity))
        told = "; ".join(part.reason for part, _ in drifted)
        return finding.failed(check, host.host_id, told, facts, worst)
    blank = [part.reason for part in parts if not part.ok]
    if blank or not parts:
        return finding.unknown(check, host.host_id, "; ".join(blank) or "nothing was looked at", facts)
    return finding.passed(check, host.host_id, "; ".join(part.reason for part in parts), facts)
