"""What makes a rule of experience, what speaks against it, what a planner proposes, and when a rule is taken back."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ccserver import catalogue, promotion
from ccserver.promotion import Evidence, Fate, Past, Source
from ccshared import wilson
from ccshared.rules import BadRuleError
from ccshared.runbooks import Runbook

RUN = "run-backup"


def told(appliance: str, count: int, successes: int, runbook: str = RUN, time_ms: int = 1000) -> Source:
    """Return an appliance's totals; the site is the first letter of its name."""
    return Source(appliance[0], appliance, runbook, count, successes, count * time_ms)


def weighed(*sources: Source) -> Evidence:
    return promotion.weigh(sources)


@pytest.fixture(scope="module")
def known() -> Mapping[str, Runbook]:
    return catalogue.load()


@pytest.mark.parametrize(
    ("successes", "count", "bound"),
    [(0, 0, 0.0), (0, 5, 0.0), (5, 5, 0.5655), (9, 10, 0.5958), (50, 50, 0.9287), (95, 100, 0.8882)],
)
def test_the_lower_bound_is_wilsons(successes: int, count: int, bound: float) -> None:
    assert wilson.lower_bound(successes, count) == pytest.approx(bound, abs=1e-4)


def test_five_occurrences_on_two_appliances_make_a_candidate() -> None:
    said = weighed(told("a1", 3, 3), told("b1", 2, 2))
    assert (said.eligible, said.count, said.successes, said.appliances, said.sites) == (True, 5, 5, 2, 2)
    assert (said.mean_ms, said.loudest, said.lower_bound_permille) == (1000, 3, 565)


@pytest.mark.parametrize(
    ("sources", "why_not"),
    [
        ((), "0 of at least 5 occurrences"),
        ((told("a1", 2, 2), told("b1", 2, 2)), "4 of at least 5 occurrences"),
        ((told("a1", 5, 4), told("b1", 4, 4)), "8 of 9 succeeded, and 90 % must"),
        ((told("a1", 3, 3, time_ms=45_000), told("b1", 3, 3, time_ms=20_000)), "32 s on the average, and 30 s may be"),
        ((told("a1", 500, 500),), "one appliance alone met it"),
        ((told("a1", 500, 500), told("b1", 1, 1)), "all but 1 are of one appliance"),
        ((told("a1", 500, 500), told("b1", 3, 0)), "without the appliance that met it most it does not hold"),
    ],
)
def test_what_speaks_against_a_rule_is_said(sources: tuple[Source, ...], why_not: str) -> None:
    said = weighed(*sources)
    assert (said.eligible, said.why_not) == (False, why_not)


def test_what_was_reached_does_not_stay_reached() -> None:
    before, later = (told("a1", 3, 3), told("b1", 3, 3)), (told("a1", 5, 3), told("b1", 3, 3))
    assert [weighed(*sources).eligible for sources in (before, later)] == [True, False]


def test_what_was_never_tried_is_no_appliance() -> None:
    assert weighed(told("a1", 5, 5), told("b1", 0, 0)).appliances == 1


def test_five_different_runbooks_are_not_five_times_the_same() -> None:
    names = {promotion.rule_id("acme", "a" * 16, name) for name in ("one", "two")}
    assert len(names | {promotion.rule_id("zeta", "a" * 16, "one")}) == 3


@pytest.mark.parametrize(
    ("runbook", "may"),
    [(RUN, True), ("encrypt-volume", False), ("run-checks-now", False), ("start-logging", False), ("none", False)],
)
def test_only_what_runs_by_itself_with_its_defaults_may_be_a_rule(
    known: Mapping[str, Runbook], runbook: str, may: bool
) -> None:
    assert promotion.may_be_rule(known.get(runbook)) is may


@pytest.mark.parametrize(
    ("status", "fate", "after"),
    [
        ("canary", Fate(2, 2), None),
        ("canary", Fate(2, 0), None),
        ("canary", Fate(3, 3), "active"),
        ("canary", Fate(3, 2), "demoted"),
        ("canary", Fate(5, 4), "active"),
        ("active", Fate(5, 4), None),
        ("active", Fate(9, 7), "demoted"),
        ("active", Fate(100, 80), None),
        ("active", Fate(100, 79), "demoted"),
        ("candidate", Fate(9, 9), None),
        ("rejected", Fate(9, 0), None),
        ("demoted", Fate(9, 9), None),
        ("", Fate(9, 0), None),
    ],
)
def test_a_rule_goes_on_or_is_taken_back_by_how_it_fares(status: str, fate: Fate, after: str | None) -> None:
    assert promotion.next_status(status, fate) == after


def proposed(
    known: Mapping[str, Runbook], *sources: Source, tried: tuple[str, ...] = ()
) -> tuple[str, str, int, int] | None:
    plan = promotion.plan(sources, ("a", "a1"), tried, known)
    return (plan.runbook_id, plan.level, plan.successes, plan.count) if plan else None


def test_the_nearest_experience_counts_most(known: Mapping[str, Runbook]) -> None:
    other, far = "rotate-logs", told("b1", 50, 50, "apply-all-updates")
    assert proposed(known, told("a1", 1, 1), told("a2", 9, 9, other), far) == (RUN, "appliance", 1, 1)
    assert proposed(known, told("a2", 9, 9, other), far) == (other, "site", 9, 9)
    assert proposed(known, far, told("b2", 1, 1, other)) == ("apply-all-updates", "partner", 50, 50)


def test_what_does_not_help_here_is_not_proposed_because_it_helps_elsewhere(known: Mapping[str, Runbook]) -> None:
    assert proposed(known, told("a1", 3, 0), told("b1", 50, 50)) is None
    assert proposed(known, told("a1", 2, 0), told("b1", 50, 50)) == (RUN, "partner", 50, 52)


def test_what_was_tried_or_helps_less_than_half_or_may_not_run_is_not_proposed(known: Mapping[str, Runbook]) -> None:
    assert proposed(known, told("a1", 9, 9), tried=(RUN,)) is None
    assert proposed(known, told("b1", 9, 4)) is None
    assert proposed(known, told("b1", 9, 9, "encrypt-volume"), told("b1", 9, 9, "none")) is None
    assert proposed(known) is None


def test_of_two_the_surer_one_is_proposed_not_the_one_with_the_better_share(known: Mapping[str, Runbook]) -> None:
    assert proposed(known, told("b1", 1, 1), told("b1", 50, 48, "rotate-logs")) == ("rotate-logs", "partner", 48, 50)


def test_a_persons_orders_count_for_the_planner_and_not_for_a_rule(known: Mapping[str, Runbook]) -> None:
    ordered = [replace(told(name, 0, 0), order_count=5, order_successes=5) for name in ("b1", "c1")]
    assert proposed(known, *ordered) == (RUN, "partner", 10, 10)
    assert weighed(*ordered).count == 0


def past(signature: str, site: str, host: str, outcome: str | None, severity: str = "high") -> Past:
    level = None if outcome in (None, "recovered") else "L3"
    return Past(site, host, "backup_stale", severity, signature, {"check": "backup", "facts": {"n": 1}}, level, outcome)


def test_a_replay_says_what_a_rule_would_have_answered() -> None:
    rule = promotion.as_rule("r", "a" * 16, RUN, promotion.conditions("a" * 16, "backup_stale"))
    ended = [("a", "success"), ("a", "success"), ("a", None), ("b", "recovered")]
    history = [past("a" * 16, site, f"h-{n}", outcome) for n, (site, outcome) in enumerate(ended)]
    seen = promotion.replay(rule, [*history, past("b" * 16, "a", "h", "success")])
    assert (seen.looked_at, seen.matched, seen.hosts, seen.sites) == (5, 4, 4, 2)
    assert seen.ended == {"L3 success": 2, "nobody recovered": 1, "open": 1}


def test_a_stored_rule_whose_conditions_are_none_is_refused() -> None:
    for said in (
        [],
        [{"field": "check"}],
        [{"field": "check", "eq": "backup"}],
        [{"field": 1, "operator": 2, "value": 3}],
    ):
        with pytest.raises(BadRuleError):
            promotion.as_rule("r", "a" * 16, RUN, said)
