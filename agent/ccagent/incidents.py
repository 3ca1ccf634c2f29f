"""Incidents and what their patterns taught: one open incident per host, type and signature, settled once.

A row carries (epoch number, revision), bumped by every change the server should hear of; the newest wins there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ccagent.scrubbing import Scrubbed
from ccagent.store import Rows, Tx
from ccshared import patterns
from ccshared.messages import (
    MAX_INCIDENTS,
    MAX_PATTERNS,
    MAX_RULES,
    MAX_RUNBOOKS,
    IncidentKept,
    IncidentReport,
    PatternReport,
    PatternReports,
    RuleTotals,
    RunbookTotals,
)
from ccshared.vocabulary import Level, Outcome

# Thresholds of promotion: occurrences, share of successes, mean time.
ELIGIBLE_COUNT = 5
ELIGIBLE_PERCENT = 90
ELIGIBLE_MEAN_MS = 30_000

RECOVERED = "passed again without us"
HANDLED = "passed again after a person was asked"


@dataclass(frozen=True)
class Incident:
    """An incident as the agent keeps it; `raw_data` is the scrubbed finding that was newest.

    `healing` is what was tried or would have been, `held_by` is "mode" or "helper" where nothing else keeps it from
    being repaired.
    """

    id: str
    host_id: str
    check: str
    incident_type: str
    severity: str
    raw_data: dict[str, Any]
    pattern_signature: str
    created_at_ms: int
    last_seen_at_ms: int
    occurrences: int
    escalated_at_ms: int | None
    resolved_at_ms: int | None
    healing: dict[str, Any] | None = None
    held_by: str | None = None

    @property
    def reason(self) -> str:
        """The newest finding's reason, for people."""
        return str(self.raw_data["reason"])


@dataclass(frozen=True)
class Sighting:
    """A failing finding, when it was seen (ms UTC), and the id that the incident gets if it is new."""

    finding: Scrubbed
    at_ms: int
    new_id: str
    site_id: str | None = None


@dataclass(frozen=True)
class Resolution:
    """How an incident was answered: by whom (None: by nobody, it passed again), what was done, how it ended."""

    level: Level | None
    action: str
    outcome: Outcome


def type_of(finding: Scrubbed) -> str:
    """Return the incident's type: what drifted, else which check failed."""
    return finding.drift_type or finding.check


def signature_of(finding: Scrubbed) -> str:
    """Return the 16 hex digits of the finding's pattern."""
    return patterns.signature(type_of(finding), finding.check, finding.drift_type, finding.service_name, finding.reason)


def see(tx: Tx, sighting: Sighting) -> bool:
    """Open an incident for a failing finding, or update the open one; return whether it is new."""
    finding = sighting.finding
    tx.execute(
        """
        INSERT INTO incidents (id, site_id, host_id, check_name, incident_type, severity, raw_data, pattern_signature,
            created_at, last_seen_at, epoch)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(number), 0) FROM epochs))
        ON CONFLICT (host_id, incident_type, pattern_signature) WHERE resolved_at IS NULL DO UPDATE SET
            site_id = coalesce(excluded.site_id, site_id), severity = excluded.severity, raw_data = excluded.raw_data,
            last_seen_at = excluded.last_seen_at, occurrences = occurrences + 1,
            epoch = excluded.epoch, revision = revision + 1
        """,
        (
            sighting.new_id,
            sighting.site_id,
            finding.host_id,
            finding.check,
            type_of(finding),
            str(finding.severity),
            orjson.dumps(_raw_data(finding), option=orjson.OPT_SORT_KEYS).decode(),
            signature_of(finding),
            sighting.at_ms,
            sighting.at_ms,
        ),
    )
    return tx.execute("SELECT 1 FROM incidents WHERE id = ?", (sighting.new_id,)).fetchone() is not None


def planned_before(tx: Tx, signature: str) -> list[tuple[str, int, int]]:
    """Return which runbooks were run for a pattern here, by the planner or an order: id, how often, with success."""
    rows = tx.execute(
        """
        SELECT action, sum(total_count), sum(success_count) FROM (
            SELECT action, total_count, success_count FROM pattern_runbooks WHERE pattern_signature = ?1
            UNION ALL
            SELECT action, total_count, success_count FROM pattern_orders WHERE pattern_signature = ?1
        ) GROUP BY action ORDER BY action
        """,
        (signature,),
    )
    return [(action, total, success) for action, total, success in rows]


def count_order(tx: Tx, signature: str, runbook: str, *, succeeded: bool) -> None:
    """Count that a person's order ran a runbook for a pattern: the planner learns from it."""
    tx.execute(
        """
        INSERT INTO pattern_orders (pattern_signature, action, total_count, success_count) VALUES (?, ?, 1, ?)
        ON CONFLICT (pattern_signature, action) DO UPDATE SET
            total_count = total_count + 1, success_count = success_count + excluded.success_count
        """,
        (signature, runbook, succeeded),
    )


def close_passed(tx: Tx, host_id: str, check: str, at_ms: int) -> list[str]:
    """Settle the open incidents of a check that passes again and return their ids.

    A person who was asked gets the success (L3); else it recovered, and nobody gets it.
    """
    rows = tx.execute(
        """
        SELECT id, escalated_at FROM incidents
        WHERE host_id = ? AND check_name = ? AND resolved_at IS NULL ORDER BY created_at, id
        """,
        (host_id, check),
    ).fetchall()
    for incident_id, escalated_at in rows:
        settle(tx, incident_id, _passed_again(escalated_at), at_ms)
    return [row[0] for row in rows]


def escalate(tx: Tx, incident_id: str, at_ms: int, held_by: str | None = None) -> bool:
    """Note that a person is asked; False when one was already, or the incident is settled.

    `held_by` is "mode" or "helper" where it would be repaired if that were allowed, or possible: such a one is asked
    about anew when it was tried in vain since.
    """
    done = tx.execute(
        """
        UPDATE incidents SET escalated_at = coalesce(escalated_at, ?1), held_by = ?3,
            epoch = (SELECT coalesce(max(number), 0) FROM epochs), revision = revision + 1
        WHERE id = ?2 AND resolved_at IS NULL
            AND (escalated_at IS NULL OR (held_by IS NOT NULL AND held_by IS NOT ?3))
        """,
        (at_ms, incident_id, held_by),
    )
    return done.rowcount == 1


def note_healing(tx: Tx, incident_id: str, said: dict[str, Any]) -> bool:
    """Keep what healing says of an open incident; False when it says the same as before."""
    done = tx.execute(
        """
        UPDATE incidents SET healing = ?1, epoch = (SELECT coalesce(max(number), 0) FROM epochs),
            revision = revision + 1
        WHERE id = ?2 AND resolved_at IS NULL AND healing IS NOT ?1
        """,
        (orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode(), incident_id),
    )
    return done.rowcount == 1


def settle(tx: Tx, incident_id: str, resolution: Resolution, at_ms: int) -> bool:
    """Resolve an incident and count it into its pattern, in this transaction; False when it was settled before."""
    done = tx.execute(
        """
        UPDATE incidents SET resolved_at = ?, resolution_level = ?, resolution_action = ?, outcome = ?,
            resolution_time_ms = max(0, ? - created_at), epoch = (SELECT coalesce(max(number), 0) FROM epochs),
            revision = revision + 1
        WHERE id = ? AND resolved_at IS NULL
        """,
        (at_ms, resolution.level, resolution.action, resolution.outcome, at_ms, incident_id),
    )
    if done.rowcount == 0:
        return False
    signature, incident_type, took_ms = tx.execute(
        "SELECT pattern_signature, incident_type, resolution_time_ms FROM incidents WHERE id = ?", (incident_id,)
    ).fetchone()
    if resolution.level is Level.L2:
        _count_runbook(tx, signature, resolution, took_ms)
    _count_pattern(tx, (signature, incident_type), resolution, took_ms)
    return True


def unanswered(tx: Tx, *, may_repair: bool = False) -> list[Incident]:
    """Return the open incidents that nobody was asked about yet, oldest first.

    Where repairs are allowed, also those that were held back only because they were not, or nobody could.
    """
    return [one for one in open_rows(tx) if one.escalated_at_ms is None or (may_repair and one.held_by is not None)]


def open_rows(tx: Tx) -> list[Incident]:
    """Return the open incidents, oldest first."""
    rows = tx.execute(
        """
        SELECT id, host_id, check_name AS "check", incident_type, severity, raw_data, pattern_signature,
            created_at AS created_at_ms, last_seen_at AS last_seen_at_ms, occurrences,
            escalated_at AS escalated_at_ms, resolved_at AS resolved_at_ms, healing, held_by
        FROM incidents WHERE resolved_at IS NULL ORDER BY created_at, id
        """
    )
    return [
        Incident(
            **{
                **row,
                "raw_data": orjson.loads(row["raw_data"]),
                "healing": orjson.loads(row["healing"]) if row["healing"] else None,
            }
        )
        for row in _named(rows)
    ]


def changed_since(tx: Tx, limit: int = MAX_INCIDENTS) -> list[IncidentReport]:
    """Return what the server has not confirmed: open ones first, of these the critical first, then the oldest."""
    rows = tx.execute(
        """
        SELECT id, epoch, revision, host_id, incident_type, severity, raw_data, pattern_signature,
            created_at AS created_at_ms, last_seen_at AS last_seen_at_ms, occurrences,
            escalated_at AS escalated_at_ms, resolved_at AS resolved_at_ms,
            resolution_level, resolution_action, outcome, resolution_time_ms, healing
        FROM incidents
        WHERE synced_epoch < epoch OR (synced_epoch = epoch AND synced_revision < revision)
        ORDER BY resolved_at IS NOT NULL,
            CASE severity WHEN 'critical' THEN 0 WHEN 'high' THEN 1 WHEN 'medium' THEN 2 ELSE 3 END, created_at, id
        LIMIT ?
        """,
        (limit,),
    )
    return [IncidentReport(**{**row, "raw_data": _told(row["raw_data"], row["healing"])}) for row in _named(rows)]


def mark_synced(tx: Tx, kept: Sequence[IncidentKept]) -> None:
    """Note which revisions the server holds; a row that changed meanwhile stays to be sent."""
    for one in kept:
        tx.execute(
            "UPDATE incidents SET synced_epoch = ?, synced_revision = ? WHERE id = ?",
            (one.epoch, one.revision, one.id),
        )


def patterns_changed(tx: Tx, limit: int = MAX_PATTERNS) -> PatternReports | None:
    """Return the totals that the server has not confirmed, None when it has all; a new epoch sends all again."""
    epoch, confirmed, told = tx.execute(
        """
        SELECT number, CASE WHEN pattern_sync.epoch = number THEN revision ELSE 0 END,
            CASE WHEN pattern_sync.epoch = number THEN rules_revision ELSE 0 END
        FROM pattern_sync, (SELECT coalesce(max(number), 0) AS number FROM epochs)
        """
    ).fetchone()
    rows = tx.execute(
        """
        SELECT revision, pattern_signature, incident_type, total_count, l1_count, l2_count, l3_count, success_count,
            total_resolution_time_ms
        FROM pattern_stats WHERE revision > ? ORDER BY revision LIMIT ?
        """,
        (confirmed, limit),
    )
    found, (rules_revision, rules) = _named(rows), _learned_rules(tx)
    if not found and rules_revision <= told:
        return None
    return PatternReports(
        epoch=epoch,
        revision=found[-1]["revision"] if found else confirmed,
        patterns=[PatternReport(**row, runbooks=_runbooks(tx, row["pattern_signature"])) for row in found],
        rules_revision=rules_revision,
        rules=rules,
    )


def mark_patterns_synced(tx: Tx, sent: PatternReports) -> None:
    """Note that the server holds these totals."""
    tx.execute(
        "UPDATE pattern_sync SET epoch = ?, revision = ?, rules_revision = ?",
        (sent.epoch, sent.revision, sent.rules_revision),
    )


def _runbooks(tx: Tx, signature: str) -> list[RunbookTotals]:
    """Return what was run for a pattern, the most often first: by the planner, and by order."""
    rows = tx.execute(
        """
        SELECT action AS runbook, sum(total) AS total_count, sum(success) AS success_count,
            sum(time_ms) AS total_resolution_time_ms, sum(ordered) AS order_count,
            sum(helped) AS order_success_count
        FROM (
            SELECT action, total_count AS total, success_count AS success, total_resolution_time_ms AS time_ms,
                0 AS ordered, 0 AS helped
            FROM pattern_runbooks WHERE pattern_signature = ?1
            UNION ALL
            SELECT action, 0, 0, 0, total_count, success_count FROM pattern_orders WHERE pattern_signature = ?1
        )
        WHERE action NOT GLOB '*[^0-9a-z_.-]*' AND length(action) BETWEEN 1 AND 64
        GROUP BY action ORDER BY sum(total) + sum(ordered) DESC, action LIMIT ?2
        """,
        (signature, MAX_RUNBOOKS),
    )
    return [RunbookTotals(**row) for row in _named(rows)]


def _learned_rules(tx: Tx) -> tuple[int, list[RuleTotals]]:
    """Return how the rules fare that the server taught, the last tried first, and the newest try that is counted."""
    rows = tx.execute(
        """
        SELECT rule, count(*) AS total_count, sum(outcome = 'success') AS success_count, max(id) AS newest
        FROM attempts
        WHERE rule IS NOT NULL AND rule NOT LIKE 'built-in-%' AND outcome IS NOT NULL
        GROUP BY rule ORDER BY max(id) DESC LIMIT ?
        """,
        (MAX_RULES,),
    )
    found = _named(rows)
    totals = [
        RuleTotals(rule=row["rule"], total_count=row["total_count"], success_count=row["success_count"])
        for row in found
    ]
    return max((row["newest"] for row in found), default=0), totals


def count_failed_plan(tx: Tx, signature: str, runbook: str, took_ms: int) -> None:
    """Count that the planner's runbook did not help, so that what is told of it is not its successes alone."""
    _count_runbook(tx, signature, Resolution(Level.L2, runbook, Outcome.FAILED), took_ms)
    tx.execute(
        """
        UPDATE pattern_stats SET revision = (SELECT max(revision) + 1 FROM pattern_stats) WHERE pattern_signature = ?
        """,
        (signature,),
    )


def _passed_again(escalated_at: int | None) -> Resolution:
    if escalated_at is None:
        return Resolution(None, RECOVERED, Outcome.RECOVERED)
    return Resolution(Level.L3, HANDLED, Outcome.SUCCESS)


def _told(raw_data: str, healing: str | None) -> dict[str, Any]:
    """Return the finding, with what healing says of it, as the server is told."""
    told: dict[str, Any] = orjson.loads(raw_data)
    return told if healing is None else {**told, "healing": orjson.loads(healing)}


def _raw_data(finding: Scrubbed) -> dict[str, Any]:
    return {
        "check": finding.check,
        "status": finding.status,
        "severity": finding.severity,
        "reason": finding.reason,
        "drift_type": finding.drift_type,
        "service_name": finding.service_name,
        "facts": finding.facts,
    }


def _named(rows: Rows) -> list[dict[str, Any]]:
    names = [column[0] for column in rows.description]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _count_pattern(tx: Tx, pattern: tuple[str, str], resolution: Resolution, took_ms: int) -> None:
    tx.execute(
        """
        INSERT INTO pattern_stats (pattern_signature, incident_type, total_count, l1_count, l2_count, l3_count,
            success_count, total_resolution_time_ms, revision)
        VALUES (?, ?, 1, ?, ?, ?, ?, ?, (SELECT coalesce(max(revision), 0) + 1 FROM pattern_stats))
        ON CONFLICT (pattern_signature) DO UPDATE SET
            total_count = total_count + 1,
            l1_count = l1_count + excluded.l1_count,
            l2_count = l2_count + excluded.l2_count,
            l3_count = l3_count + excluded.l3_count,
            success_count = success_count + excluded.success_count,
            total_resolution_time_ms = total_resolution_time_ms + excluded.total_resolution_time_ms,
            revision = excluded.revision,
            promotion_eligible = EXISTS (
                SELECT 1 FROM pattern_runbooks AS tried
                WHERE tried.pattern_signature = excluded.pattern_signature AND tried.total_count >= ?
                    AND tried.success_count * 100 >= tried.total_count * ?
                    AND tried.total_resolution_time_ms <= tried.total_count * ?
            )
        """,
        (
            *pattern,
            resolution.level is Level.L1,
            resolution.level is Level.L2,
            resolution.level is Level.L3,
            resolution.outcome is Outcome.SUCCESS,
            took_ms,
            ELIGIBLE_COUNT,
            ELIGIBLE_PERCENT,
            ELIGIBLE_MEAN_MS,
        ),
    )


def _count_runbook(tx: Tx, signature: str, resolution: Resolution, took_ms: int) -> None:
    tx.execute(
        """
        INSERT INTO pattern_runbooks (pattern_signature, action, total_count, success_count, total_resolution_time_ms)
        VALUES (?, ?, 1, ?, ?)
        ON CONFLICT (pattern_signature, action) DO UPDATE SET
            total_count = total_count + 1,
            success_count = success_count + excluded.success_count,
            total_resolution_time_ms = total_resolution_time_ms + excluded.total_resolution_time_ms
        """,
        (signature, resolution.action, resolution.outcome is Outcome.SUCCESS, took_ms),
    )
