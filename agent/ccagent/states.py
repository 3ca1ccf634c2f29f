"""The latest answer of each check about each host: since when it stands, and when it was last sealed."""

import dataclasses
from dataclasses import dataclass

from ccagent.scrubbing import Scrubbed
from ccagent.store import Tx

SEAL_EVERY_MS = 3_600_000

Key = tuple[str, str]


@dataclass(frozen=True)
class State:
    """What a check says of a host; `since_ms` is when it began to say this status, `sealed_at_ms` None for never."""

    host_id: str
    check: str
    status: str
    severity: str
    reason: str
    since_ms: int
    seen_at_ms: int
    sealed_at_ms: int | None = None

    @property
    def key(self) -> Key:
        """Which host and which check."""
        return self.host_id, self.check


def known(tx: Tx) -> dict[Key, State]:
    """Return every state."""
    rows = tx.execute(
        """
        SELECT host_id, check_name, status, severity, reason, since, seen_at, sealed_at
        FROM check_states ORDER BY host_id, check_name
        """
    )
    states = [State(*row) for row in rows]
    return {state.key: state for state in states}


def following(before: State | None, finding: Scrubbed, at_ms: int) -> State:
    """Return the state after a finding; it is still that of the evidence sealed last until more is sealed."""
    goes_on = before is not None and before.status == finding.status
    return State(
        host_id=finding.host_id,
        check=finding.check,
        status=str(finding.status),
        severity=str(finding.severity),
        reason=finding.reason,
        since_ms=before.since_ms if before is not None and goes_on else at_ms,
        seen_at_ms=at_ms,
        sealed_at_ms=before.sealed_at_ms if before is not None else None,
    )


def is_due(before: State | None, after: State) -> bool:
    """Return whether the state is to be sealed: it is new, says something else, or was sealed an hour ago.

    A wall clock that was set back makes it due too.
    """
    if before is None or before.sealed_at_ms is None or _said(before) != _said(after):
        return True
    return not 0 <= after.seen_at_ms - before.sealed_at_ms < SEAL_EVERY_MS


def sealed(state: State) -> State:
    """Return the state as just sealed."""
    return dataclasses.replace(state, sealed_at_ms=state.seen_at_ms)


def save(tx: Tx, state: State) -> None:
    """Keep the state in place of the one before."""
    tx.execute(
        """
        INSERT INTO check_states (host_id, check_name, status, severity, reason, since, seen_at, sealed_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (host_id, check_name) DO UPDATE SET status = excluded.status, severity = excluded.severity,
            reason = excluded.reason, since = excluded.since, seen_at = excluded.seen_at, sealed_at = excluded.sealed_at
        """,
        dataclasses.astuple(state),
    )


def _said(state: State) -> tuple[str, str, str]:
    return state.status, state.severity, state.reason
