"""Incidents and pattern statistics, rule by rule."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccagent import incidents, queue
from ccagent.finding import Finding
from ccagent.incidents import Incident, Resolution, Sighting
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.scrubbing import Scrubbed
from ccagent.store import Store
from ccshared import ids
from ccshared.entries import Draft
from ccshared.messages import IncidentKept
from ccshared.vocabulary import Clock, Kind, Level, Outcome, Severity, Status


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(Places(tmp_path))) as opened:
        yield opened


def failing(reason: str = "the last backup is older than 24 h", **other: Any) -> Scrubbed:
    said = {
        "check": "backup",
        "severity": Severity.MEDIUM,
        "host_id": "clinic-1",
        "drift_type": "backup_stale",
        **other,
    }
    return Scrubbed(Finding(status=Status.FAIL, reason=reason, facts={"source": "status_file"}, **said))


def see(store: Store, at_ms: int, finding: Scrubbed | None = None) -> bool:
    return store.write_now(incidents.see, Sighting(finding or failing(), at_ms, ids.new_id(at_ms), "site-1"))


def close(store: Store, at_ms: int, host: str = "clinic-1", check: str = "backup") -> list[str]:
    return store.write_now(incidents.close_passed, host, check, at_ms)


def the_open_one(store: Store) -> Incident:
    (incident,) = store.read(incidents.open_rows)
    return incident


def open_epoch(store: Store, number: int) -> None:
    name = f"{number}-0a0b0c0d"
    genesis = Draft(Kind.GENESIS, f"{number:032x}", 1, Clock.SYNC, f"{number:032x}", {})
    store.write_now(queue.open_epoch, Epoch(name, f"cc.example/log/ap-1/{name}", "ab" * 32, 1), genesis)


def settled(store: Store) -> tuple[Any, ...]:
    return store.read(
        lambda tx: tx.execute(
            "SELECT resolution_level, outcome, resolved_at, resolution_time_ms FROM incidents WHERE outcome IS NOT NULL"
        ).fetchone()
    )


def totals(store: Store) -> tuple[Any, ...]:
    return store.read(
        lambda tx: tx.execute(
            "SELECT total_count, l1_count, l2_count, l3_count, success_count, promotion_eligible FROM pattern_stats"
        ).fetchone()
    )


def test_a_failing_check_opens_an_incident(store: Store) -> None:
    assert see(store, 1_000)
    incident = the_open_one(store)
    assert (incident.incident_type, incident.check, incident.host_id) == ("backup_stale", "backup", "clinic-1")
    assert (incident.created_at_ms, incident.occurrences, incident.reason) == (1_000, 1, failing().reason)


def test_without_a_drift_type_the_check_names_the_incident(store: Store) -> None:
    see(store, 1_000, failing(drift_type=None))
    assert the_open_one(store).incident_type == "backup"


def test_a_repeat_updates_the_open_incident(store: Store) -> None:
    see(store, 1_000)
    assert not see(store, 2_000, failing("the last backup is older than 48 h", severity=Severity.CRITICAL))
    incident = the_open_one(store)
    assert (incident.created_at_ms, incident.last_seen_at_ms, incident.occurrences) == (1_000, 2_000, 2)
    assert (incident.severity, incident.reason) == ("critical", "the last backup is older than 48 h")


@pytest.mark.parametrize(
    "other", [{"host_id": "clinic-2"}, {"drift_type": "backup_missing"}, {"service_name": "restic"}]
)
def test_another_host_type_or_signature_is_another_incident(store: Store, other: dict[str, str]) -> None:
    see(store, 1_000)
    assert see(store, 2_000, failing(**other))
    assert len(store.read(incidents.open_rows)) == 2


def test_when_the_check_passes_all_its_incidents_close_and_no_others(store: Store) -> None:
    for finding in (failing(), failing(drift_type="backup_missing"), failing(host_id="clinic-2")):
        see(store, 1_000, finding)
    assert len(close(store, 2_000)) == 2
    assert the_open_one(store).host_id == "clinic-2"
    assert close(store, 3_000) == []


def test_one_that_passes_again_by_itself_recovered_and_nobody_gets_it(store: Store) -> None:
    see(store, 1_000)
    close(store, 5_000)
    assert settled(store) == (None, "recovered", 5_000, 4_000)
    assert totals(store) == (1, 0, 0, 0, 0, 0)


def test_one_that_passes_after_an_escalation_is_the_persons_success(store: Store) -> None:
    see(store, 1_000)
    assert store.write_now(incidents.escalate, the_open_one(store).id, 1_500)
    close(store, 5_000)
    assert settled(store) == ("L3", "success", 5_000, 4_000)
    assert totals(store) == (1, 0, 0, 1, 1, 0)


def test_an_incident_is_escalated_once(store: Store) -> None:
    see(store, 1_000)
    incident = the_open_one(store)
    assert store.read(incidents.unanswered) == [incident]
    assert store.write_now(incidents.escalate, incident.id, 1_500)
    assert not store.write_now(incidents.escalate, incident.id, 1_600)
    see(store, 2_000)
    assert store.read(incidents.unanswered) == []
    assert the_open_one(store).escalated_at_ms == 1_500


def test_settling_twice_counts_once(store: Store) -> None:
    see(store, 1_000)
    incident, repaired = the_open_one(store), Resolution(Level.L1, "RB-1", Outcome.SUCCESS)
    assert store.write_now(incidents.settle, incident.id, repaired, 2_000)
    assert not store.write_now(incidents.settle, incident.id, Resolution(Level.L2, "RB-2", Outcome.FAILED), 3_000)
    assert settled(store) == ("L1", "success", 2_000, 1_000)
    assert totals(store) == (1, 1, 0, 0, 1, 0)


def test_the_same_trouble_after_it_was_settled_is_a_new_incident_of_the_same_pattern(store: Store) -> None:
    for at_ms in (1_000, 3_000):
        assert see(store, at_ms)
        close(store, at_ms + 1_000)
    assert totals(store)[0] == 2


def test_a_wall_clock_set_back_makes_no_negative_time(store: Store) -> None:
    see(store, 5_000)
    close(store, 1_000)
    assert settled(store) == (None, "recovered", 1_000, 0)


def settle_l2(store: Store, runbook: str, outcome: Outcome, took_ms: int = 1_000) -> int:
    see(store, 10_000)
    resolution = Resolution(Level.L2, runbook, outcome)
    store.write_now(incidents.settle, the_open_one(store).id, resolution, 10_000 + took_ms)
    return int(totals(store)[5])


def test_five_successes_of_one_runbook_make_a_pattern_eligible_and_a_failure_ends_it(store: Store) -> None:
    assert [settle_l2(store, "RB-1", Outcome.SUCCESS) for _ in range(5)] == [0, 0, 0, 0, 1]
    assert settle_l2(store, "RB-1", Outcome.FAILED) == 0
    assert [settle_l2(store, "RB-1", Outcome.SUCCESS) for _ in range(4)] == [0, 0, 0, 1]


def test_five_different_runbooks_are_not_five_times_the_same(store: Store) -> None:
    assert [settle_l2(store, f"RB-{number}", Outcome.SUCCESS) for number in range(5)] == [0] * 5


def test_a_repair_that_takes_long_is_not_eligible(store: Store) -> None:
    assert [settle_l2(store, "RB-1", Outcome.SUCCESS, 30_001) for _ in range(5)] == [0] * 5


def test_what_the_server_has_not_confirmed_is_reported_critical_and_open_first(store: Store) -> None:
    see(store, 1_000, failing(host_id="old"))
    close(store, 2_000, "old")
    see(store, 3_000, failing(host_id="medium"))
    see(store, 4_000, failing(host_id="critical", severity=Severity.CRITICAL))
    reports = store.read(incidents.changed_since)
    assert [report.host_id for report in reports] == ["critical", "medium", "old"]
    assert [report.host_id for report in store.read(incidents.changed_since, 1)] == ["critical"]
    assert (reports[2].outcome, reports[2].revision, reports[2].epoch) == (Outcome.RECOVERED, 2, 0)


def test_a_confirmed_incident_is_silent_until_it_changes(store: Store) -> None:
    see(store, 1_000)
    (report,) = store.read(incidents.changed_since)
    see(store, 2_000)
    kept = IncidentKept(id=report.id, epoch=report.epoch, revision=report.revision)
    store.write_now(incidents.mark_synced, [kept])
    (newer,) = store.read(incidents.changed_since)
    assert newer.revision == 2
    store.write_now(incidents.mark_synced, [kept.model_copy(update={"revision": 2})])
    assert store.read(incidents.changed_since) == []


def test_in_a_new_epoch_a_change_outranks_what_the_server_kept_of_the_old(store: Store) -> None:
    open_epoch(store, 1)
    see(store, 1_000)
    (report,) = store.read(incidents.changed_since)
    store.write_now(incidents.mark_synced, [IncidentKept(id=report.id, epoch=1, revision=99)])
    store.write_now(queue.close_epoch, "1-0a0b0c0d", 1_500, "rollback")
    open_epoch(store, 2)
    see(store, 2_000)
    assert [(one.epoch, one.revision) for one in store.read(incidents.changed_since)] == [(2, 2)]


def test_pattern_totals_are_reported_until_confirmed_and_again_when_they_change(store: Store) -> None:
    see(store, 1_000)
    close(store, 2_000)
    sent = store.read(incidents.patterns_changed)
    assert sent is not None
    assert [(one.incident_type, one.total_count) for one in sent.patterns] == [("backup_stale", 1)]
    store.write_now(incidents.mark_patterns_synced, sent)
    assert store.read(incidents.patterns_changed) is None
    see(store, 3_000)
    close(store, 4_000)
    again = store.read(incidents.patterns_changed)
    assert again is not None
    assert (again.revision, again.patterns[0].total_count) == (2, 2)


def test_a_new_epoch_reports_all_totals_again(store: Store) -> None:
    see(store, 1_000)
    close(store, 2_000)
    sent = store.read(incidents.patterns_changed)
    assert sent is not None
    store.write_now(incidents.mark_patterns_synced, sent)
    open_epoch(store, 1)
    again = store.read(incidents.patterns_changed)
    assert again is not None
    assert (again.epoch, again.patterns) == (1, sent.patterns)


def attempt(store: Store, rule: str | None, outcome: str | None, level: str = "L1") -> None:
    """Record a try as healing does; without an outcome it has not ended."""
    values = (ids.new_id(), "i", "clinic-1", "backup", "run-backup", level, rule, "why", "{}", "{}", 1, "boot", 1, 1)
    store.write_now(
        lambda tx: tx.execute(
            """
            INSERT INTO attempts (repair_id, incident_id, host_id, check_name, runbook, level, rule, why, parameters,
                pre, began_at, boot_id, boot_ms, order_ms, ended_at, outcome)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (*values, 2 if outcome else None, outcome),
        )
    )


def test_what_was_run_for_a_pattern_goes_with_its_totals_by_planner_and_by_order(store: Store) -> None:
    settle_l2(store, "run-backup", Outcome.SUCCESS, took_ms=2_000)
    settle_l2(store, "run-backup", Outcome.FAILED)
    settle_l2(store, "something a person did", Outcome.SUCCESS)
    store.write_now(lambda tx: incidents.count_order(tx, the_pattern(store), "rotate-logs", succeeded=True))
    sent = store.read(incidents.patterns_changed)
    assert sent is not None
    told = {one.runbook: (one.total_count, one.success_count, one.order_count) for one in sent.patterns[0].runbooks}
    assert told == {"run-backup": (2, 1, 0), "rotate-logs": (0, 0, 1)}
    assert sent.patterns[0].runbooks[0].total_resolution_time_ms == 3_000


def the_pattern(store: Store) -> str:
    return str(store.read(lambda tx: tx.execute("SELECT pattern_signature FROM pattern_stats").fetchone()[0]))


def test_how_learned_rules_fare_is_told_though_no_pattern_changed_and_only_once(store: Store) -> None:
    for rule, outcome in (
        ("learned-1", "success"),
        ("learned-1", "failed"),
        ("built-in-1", "failed"),
        (None, "failed"),
    ):
        attempt(store, rule, outcome)
    attempt(store, "learned-1", None)
    sent = store.read(incidents.patterns_changed)
    assert sent is not None
    assert [(one.rule, one.total_count, one.success_count) for one in sent.rules] == [("learned-1", 2, 1)]
    assert (sent.patterns, sent.revision) == ([], 0)
    store.write_now(incidents.mark_patterns_synced, sent)
    assert store.read(incidents.patterns_changed) is None
    attempt(store, "learned-2", "timeout")
    again = store.read(incidents.patterns_changed)
    assert again is not None
    assert {one.rule: one.success_count for one in again.rules} == {"learned-1": 1, "learned-2": 0}
