"""How often a repair may be tried: rules of values first, then the record of tries, made before each of them begins.

Per host, check and runbook: a pause after every try that doubles with each failure, three tries in a day, and three
repairs within two hours that did not last mean that a person must look.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ccagent.clock import Boot
from ccagent.store import Tx
from ccshared.vocabulary import Outcome

COOLDOWN_S = 300
SLACK_S = 2.0  # the helper keeps the same pause by itself, from when it was asked, which is a little later
MOST_IN_A_DAY = 3
DAY_S = 24 * 3600
FLAPS = 3
FLAP_S = 120 * 60
KEPT_MS = 90 * 24 * 3_600_000

Key = tuple[str, str, str]


class Verdict(StrEnum):
    """What the budget says of one more try."""

    FREE = "free"
    COOLING = "cooling"
    USED_UP = "used_up"
    SUPPRESSED = "suppressed"


@dataclass(frozen=True)
class Try:
    """One try as the budget sees it: how many seconds ago it began, and whether the check passed afterwards."""

    age_s: float
    succeeded: bool


@dataclass(frozen=True)
class Judged:
    """The verdict, how many tries the last day saw, and in how many seconds the pause is over."""

    verdict: Verdict
    tries: int
    wait_s: float = 0.0


@dataclass(frozen=True)
class Moment:
    """When something is: wall clock (ms UTC), time since boot, order clock (ms UTC, 0: it does not run yet)."""

    wall_ms: int
    boot: Boot
    order_ms: int


@dataclass(frozen=True)
class Attempt:
    """A try as it is recorded before it begins; `pre` is the finding that it is for."""

    repair_id: str
    incident_id: str
    key: Key
    level: str
    rule: str | None
    why: str
    parameters: dict[str, Any]
    pre: dict[str, Any]


@dataclass(frozen=True)
class Suppression:
    """A runbook that is not tried any more for a check of a host, until a person clears it; `since_ms` is ms UTC."""

    host: str
    check: str
    runbook: str
    since_ms: int
    reason: str


def pause_s(history: Sequence[Try], least_s: float = COOLDOWN_S) -> float:
    """Return how long to wait after the newest try: the least, doubled for each failure in a row up to now."""
    failures = 0
    for one in sorted(history, key=lambda one: one.age_s):
        if one.succeeded:
            break
        failures += 1
    return least_s * float(2 ** min(failures, 10))


def judge(history: Sequence[Try], rule_cooldown_s: float = 0) -> Judged:
    """Return what the tries of one host, check and runbook leave room for; suppression is not among them."""
    day = [one for one in history if one.age_s < DAY_S]
    if len(day) >= MOST_IN_A_DAY:
        return Judged(Verdict.USED_UP, len(day))
    if not day:
        return Judged(Verdict.FREE, 0)
    wait = pause_s(day, max(COOLDOWN_S, rule_cooldown_s)) + SLACK_S - min(one.age_s for one in day)
    return Judged(Verdict.COOLING if wait > 0 else Verdict.FREE, len(day), max(wait, 0.0))


def flaps(history: Sequence[Try]) -> bool:
    """Return whether so many repairs held so shortly that one more would hide what is wrong."""
    return sum(one.succeeded and one.age_s <= FLAP_S for one in history) >= FLAPS


def age_s(then: Moment, now: Moment) -> float:
    """Return how long ago a moment was, in seconds.

    Within one boot the clock since boot tells. After a reboot it is at least as long ago as that, and what wall clock
    and order clock say counts only where both say it: one that was set ahead must not free the budget.
    """
    if then.boot.id == now.boot.id and then.boot.id and now.boot.ms >= then.boot.ms:
        return (now.boot.ms - then.boot.ms) / 1000
    told = [now.wall_ms - then.wall_ms]
    if then.order_ms:
        told.append(now.order_ms - then.order_ms)
    since_boot = now.boot.ms if then.boot.id != now.boot.id else 0
    return max(min(told), since_boot, 0) / 1000


def begin(tx: Tx, attempt: Attempt, now: Moment) -> None:
    """Record a try; nothing of it may begin before this is committed."""
    tx.execute(
        """
        INSERT INTO attempts (repair_id, incident_id, host_id, check_name, runbook, level, rule, why, parameters, pre,
            began_at, boot_id, boot_ms, order_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            attempt.repair_id,
            attempt.incident_id,
            *attempt.key,
            attempt.level,
            attempt.rule,
            attempt.why,
            json.dumps(attempt.parameters, sort_keys=True),
            json.dumps(attempt.pre, sort_keys=True),
            now.wall_ms,
            now.boot.id,
            now.boot.ms,
            now.order_ms,
        ),
    )


def end(tx: Tx, repair_id: str, outcome: Outcome, reason: str, at_ms: int) -> bool:
    """Note how a try ended; False when that was noted before."""
    done = tx.execute(
        "UPDATE attempts SET ended_at = ?, outcome = ?, reason = ? WHERE repair_id = ? AND ended_at IS NULL",
        (at_ms, outcome, reason, repair_id),
    )
    return done.rowcount == 1


def withdraw(tx: Tx, repair_id: str) -> None:
    """Take back a try that is known not to have begun, because there was nobody to begin it."""
    tx.execute("DELETE FROM attempts WHERE repair_id = ? AND ended_at IS NULL", (repair_id,))


def history(tx: Tx, key: Key, now: Moment) -> list[Try]:
    """Return the tries of a host, check and runbook that count, oldest first; one not ended counts as a failure."""
    rows = tx.execute(
        """
        SELECT began_at, boot_id, boot_ms, order_ms, outcome FROM attempts
        WHERE host_id = ? AND check_name = ? AND runbook = ? AND NOT cleared ORDER BY id
        """,
        key,
    )
    return [
        Try(age_s(Moment(wall, Boot(boot, ms), order), now), outcome == Outcome.SUCCESS)
        for wall, boot, ms, order, outcome in rows
    ]


def verdict(tx: Tx, key: Key, now: Moment, rule_cooldown_s: float = 0) -> Judged:
    """Return what the record of tries and the suppressions say of one more."""
    judged = judge(history(tx, key, now), rule_cooldown_s)
    if is_suppressed(tx, key):
        return Judged(Verdict.SUPPRESSED, judged.tries)
    return judged


def suppress_if_flapping(tx: Tx, key: Key, now: Moment) -> bool:
    """Suppress a runbook whose repairs do not last, until a person clears it; return whether it is now."""
    if not flaps(history(tx, key, now)):
        return False
    reason = f"{FLAPS} repairs within {FLAP_S // 60} min did not last"
    done = tx.execute(
        "INSERT OR IGNORE INTO suppressions (host_id, check_name, runbook, since, reason) VALUES (?, ?, ?, ?, ?)",
        (*key, now.wall_ms, reason),
    )
    return done.rowcount == 1


def is_suppressed(tx: Tx, key: Key) -> bool:
    """Return whether a person must look first."""
    found = tx.execute("SELECT 1 FROM suppressions WHERE host_id = ? AND check_name = ? AND runbook = ?", key)
    return found.fetchone() is not None


def suppressions(tx: Tx) -> list[Suppression]:
    """Return what is suppressed, oldest first."""
    rows = tx.execute(
        "SELECT host_id, check_name, runbook, since, reason FROM suppressions ORDER BY since, host_id, check_name"
    )
    return [Suppression(*row) for row in rows]


def clear(tx: Tx, check: str, runbook: str | None = None) -> int:
    """Let what is suppressed for a check be tried again, with a budget that begins anew; return how many were."""
    found = [
        (one.host, one.check, one.runbook)
        for one in suppressions(tx)
        if one.check == check and runbook in (None, one.runbook)
    ]
    for key in found:
        tx.execute("DELETE FROM suppressions WHERE host_id = ? AND check_name = ? AND runbook = ?", key)
        tx.execute(
            "UPDATE attempts SET cleared = 1 WHERE host_id = ? AND check_name = ? AND runbook = ?"
            " AND ended_at IS NOT NULL",
            key,
        )
    tx.execute(
        """
        UPDATE incidents SET held_by = 'cleared'
        WHERE check_name = ? AND resolved_at IS NULL AND escalated_at IS NOT NULL AND ?
        """,
        (check, bool(found)),
    )
    return len(found)


def of_incident(tx: Tx, incident_id: str) -> list[dict[str, Any]]:
    """Return the tries for an incident, oldest first, as people and evidence are shown them."""
    rows = tx.execute(
        """
        SELECT runbook, level, rule, began_at, ended_at, outcome, reason FROM attempts
        WHERE incident_id = ? ORDER BY id
        """,
        (incident_id,),
    )
    names = ("runbook", "level", "rule", "began", "ended", "outcome", "reason")
    return [dict(zip(names, row, strict=True)) for row in rows]


def tried(tx: Tx, host: str, check: str) -> list[str]:
    """Return the runbooks that were ever tried for a check of a host and still count."""
    rows = tx.execute(
        "SELECT DISTINCT runbook FROM attempts WHERE host_id = ? AND check_name = ? AND NOT cleared ORDER BY runbook",
        (host, check),
    )
    return [row[0] for row in rows]


def counts(tx: Tx) -> dict[str, int]:
    """Return how many tries were made, and how many of them succeeded, of those that are still recorded."""
    made, succeeded = tx.execute("SELECT count(*), coalesce(sum(outcome = 'success'), 0) FROM attempts").fetchone()
    return {"made": made, "succeeded": succeeded}


def unended(tx: Tx) -> list[Attempt]:
    """Return the tries whose end is not known: what a crash leaves."""
    rows = tx.execute(
        """
        SELECT repair_id, incident_id, host_id, check_name, runbook, level, rule, why, parameters, pre
        FROM attempts WHERE ended_at IS NULL ORDER BY id
        """
    )
    return [
        Attempt(repair_id, incident_id, (host, check, runbook), level, rule, why, json.loads(given), json.loads(pre))
        for repair_id, incident_id, host, check, runbook, level, rule, why, given, pre in rows
    ]


def floor(tx: Tx) -> int:
    """Return the place in the record from which on tries are under way or still to come."""
    oldest, newest = tx.execute(
        "SELECT (SELECT min(id) FROM attempts WHERE ended_at IS NULL), (SELECT max(id) FROM attempts)"
    ).fetchone()
    return int(oldest if oldest is not None else (newest or 0) + 1)


def touched(tx: Tx, since: int) -> set[tuple[str, str]]:
    """Return the hosts and checks that a try from that place on is for: what was found meanwhile may be half done."""
    rows = tx.execute("SELECT DISTINCT host_id, check_name FROM attempts WHERE id >= ?", (since,))
    return {(host, check) for host, check in rows}


def prune(tx: Tx, now_ms: int) -> int:
    """Delete tries that ended long ago and whose incident is over; return how many."""
    done = tx.execute(
        """
        DELETE FROM attempts WHERE ended_at < ?
            AND NOT EXISTS (SELECT 1 FROM incidents WHERE id = incident_id AND resolved_at IS NULL)
        """,
        (now_ms - KEPT_MS,),
    )
    return done.rowcount
