"""The budget of repairs: its rules as functions of values, and its record in a real store."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccagent import attempts
from ccagent.attempts import Attempt, Judged, Moment, Try, Verdict
from ccagent.clock import Boot
from ccagent.places import Places
from ccagent.store import Store
from ccshared.vocabulary import Outcome

KEY = ("box", "backup", "run-backup")
HOUR = 3_600_000
START = Moment(1_800_000_000_000, Boot("boot-1", 1_000_000), 1_800_000_000_000)


def later(then: Moment, ms: int) -> Moment:
    return Moment(then.wall_ms + ms, Boot(then.boot.id, then.boot.ms + ms), then.order_ms + ms)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(Places(tmp_path))) as opened:
        yield opened


def tried(store: Store, number: int, at: Moment, outcome: Outcome | None) -> None:
    attempt = Attempt(f"repair-{number}", "incident", KEY, "L1", "rule", "why", {}, {"status": "fail"})
    store.write_now(attempts.begin, attempt, at)
    if outcome is not None:
        store.write_now(attempts.end, attempt.repair_id, outcome, "because", at.wall_ms)


def verdict(store: Store, at: Moment) -> Judged:
    return store.read(attempts.verdict, KEY, at)


def test_a_pause_follows_every_try_and_doubles_with_each_failure() -> None:
    assert attempts.pause_s([Try(10, True)]) == 300
    assert attempts.pause_s([Try(10, False)]) == 600
    assert attempts.pause_s([Try(10, False), Try(900, False), Try(9_000, True)]) == 1200
    assert attempts.judge([Try(601, False)]).verdict is Verdict.COOLING
    assert attempts.judge([Try(603, False)]).verdict is Verdict.FREE


def test_a_rules_own_pause_is_kept_where_it_is_longer() -> None:
    assert attempts.judge([Try(400, True)], 3600).verdict is Verdict.COOLING
    assert attempts.judge([Try(400, True)], 60).verdict is Verdict.FREE


def test_three_tries_in_a_day_use_the_budget_up_whatever_came_of_them() -> None:
    for succeeded in (True, False):
        day = [Try(age, succeeded) for age in (3_000, 40_000, 86_000)]
        assert attempts.judge(day).verdict is Verdict.USED_UP
        assert attempts.judge([*day[:2], Try(86_401, succeeded)]).verdict is Verdict.FREE


def test_every_threshold_can_be_reached_beside_the_others(store: Store) -> None:
    """Failures end at the third try long before the pause has grown to a day; three successes fit into two hours."""
    at, pauses = START, []
    for number in range(3):
        assert verdict(store, at).verdict is Verdict.FREE
        tried(store, number, at, Outcome.FAILED)
        wait = verdict(store, at)
        pauses.append(wait.wait_s)
        at = later(at, round(wait.wait_s * 1000))
    assert pauses[:2] == [602, 1202]
    assert verdict(store, at).verdict is Verdict.USED_UP
    assert at.wall_ms - START.wall_ms < attempts.DAY_S * 1000
    flapping = [Try(age, True) for age in (0, 305, 610)]
    assert attempts.flaps(flapping)
    assert flapping[-1].age_s < attempts.FLAP_S


def test_three_repairs_that_did_not_last_are_suppressed_until_a_person_clears_them(store: Store) -> None:
    at = START
    for number in range(3):
        tried(store, number, at, Outcome.SUCCESS)
        assert store.write_now(attempts.suppress_if_flapping, KEY, at) is (number == 2)
        at = later(at, 30 * 60_000)
    assert verdict(store, later(at, 100 * HOUR)).verdict is Verdict.SUPPRESSED
    assert store.write_now(attempts.clear, "backup") == 1
    assert verdict(store, at) == Judged(Verdict.FREE, 0)


def test_three_repairs_spread_over_more_than_two_hours_are_no_flapping(store: Store) -> None:
    for number, hours in enumerate((0, 1, 3)):
        tried(store, number, later(START, hours * HOUR), Outcome.SUCCESS)
        assert not store.write_now(attempts.suppress_if_flapping, KEY, later(START, hours * HOUR))


def test_suppressions_survive_a_restart(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(Places(tmp_path))) as store:
        for number in range(3):
            tried(store, number, START, Outcome.SUCCESS)
        store.write_now(attempts.suppress_if_flapping, KEY, START)
    with contextlib.closing(Store.open(Places(tmp_path))) as store:
        assert [one.runbook for one in store.read(attempts.suppressions)] == ["run-backup"]
        assert verdict(store, later(START, 1)).verdict is Verdict.SUPPRESSED


def test_a_try_that_a_crash_cut_short_counts_as_a_failed_one(store: Store) -> None:
    tried(store, 1, START, None)
    assert [one.repair_id for one in store.read(attempts.unended)] == ["repair-1"]
    assert verdict(store, later(START, 400_000)).verdict is Verdict.COOLING


@pytest.mark.parametrize("jump_ms", [-10 * 365 * 24 * HOUR, 10 * 365 * 24 * HOUR])
def test_a_wall_clock_that_was_set_frees_no_budget_within_a_boot(store: Store, jump_ms: int) -> None:
    tried(store, 1, START, Outcome.FAILED)
    moved = later(START, 100_000)
    assert verdict(store, replace(moved, wall_ms=moved.wall_ms + jump_ms)).verdict is Verdict.COOLING


def test_within_a_boot_the_pause_ends_in_time_although_the_wall_clock_was_set_back(store: Store) -> None:
    tried(store, 1, START, Outcome.FAILED)
    over = later(START, 700_000)
    assert verdict(store, replace(over, wall_ms=0)).verdict is Verdict.FREE


def test_after_a_reboot_the_shortest_time_that_any_clock_tells_counts(store: Store) -> None:
    tried(store, 1, START, Outcome.FAILED)
    ahead = Moment(START.wall_ms + 10_000 * HOUR, Boot("boot-2", 5_000), START.order_ms + 60_000)
    assert verdict(store, ahead).verdict is Verdict.COOLING
    set_back = Moment(0, Boot("boot-2", 700_000), START.order_ms)
    assert verdict(store, set_back).verdict is Verdict.FREE  # this boot alone took longer than the pause


def test_budgets_of_other_checks_and_runbooks_are_their_own(store: Store) -> None:
    tried(store, 1, START, Outcome.FAILED)
    for key in (("box", "backup", "other"), ("box", "logging", "run-backup"), ("other", "backup", "run-backup")):
        assert store.read(attempts.verdict, key, START).verdict is Verdict.FREE
