"""Rules: conditions are ANDed, what is missing never matches, expressions cost linear time, the index no answer."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccshared import rules
from ccshared.rules import BUILT_IN, BadRuleError, Condition, Rule
from ccshared.vocabulary import Severity

FIELDS: dict[str, Any] = {
    "incident_type": "backup_stale",
    "check": "backup",
    "host_id": "box-1",
    "reason": "the last backup is older than 24 h",
    "pattern_signature": "0123456789abcdef",
    "facts": {"age_hours": 30, "source": "restic", "tags": ["a", "b"], "fresh": False, "deep": {"er": 1}, "gone": None},
}
GOOD: dict[str, Any] = {
    "id": "r-1",
    "name": "backups",
    "priority": 10,
    "conditions": [{"field": "incident_type", "operator": "eq", "value": "backup_stale"}],
    "runbook": "run-backup",
}


def rule(*conditions: Condition, priority: int = 10, name: str = "r-1", severities: Any = ()) -> Rule:
    return Rule(name, "a rule", priority, conditions, "run-backup", severities=severities)


def holds(field: str, operator: Any, value: Any, fields: dict[str, Any] = FIELDS) -> bool:
    return rules.matches(rule(Condition(field, operator, value)), fields, "high")


def refused(**members: Any) -> None:
    with pytest.raises(BadRuleError):
        rules.from_dict({**GOOD, **members})


@pytest.mark.parametrize(
    ("field", "operator", "value", "other"),
    [
        ("incident_type", "eq", "backup_stale", "backup_missing"),
        ("incident_type", "ne", "backup_missing", "backup_stale"),
        ("reason", "contains", "older", "newer"),
        ("facts.tags", "contains", "a", "c"),
        ("reason", "regex", r"older than \d+ h$", "^older"),
        ("facts.age_hours", "gt", 29, 30),
        ("facts.age_hours", "lt", 31, 30),
        ("host_id", "in", ("box-0", "box-1"), ("box-2",)),
        ("host_id", "not_in", ("box-2",), ("box-1",)),
        ("facts.fresh", "eq", False, 0),
        ("facts.deep.er", "eq", 1, True),
    ],
)
def test_each_operator_holds_for_one_value_and_not_for_another(
    field: str, operator: Any, value: Any, other: Any
) -> None:
    assert (holds(field, operator, value), holds(field, operator, other)) == (True, False)


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("eq", "x"),
        ("ne", "x"),
        ("contains", ""),
        ("regex", ".*"),
        ("gt", -1),
        ("lt", 1),
        ("in", ("x",)),
        ("not_in", ("x",)),
        ("exists", True),
    ],
)
@pytest.mark.parametrize(
    "field", ["service_name", "facts.none", "facts.gone", "facts.tags.a", "host_id.x", "facts.deep.er.x"]
)
def test_a_missing_field_never_matches(field: str, operator: Any, value: Any) -> None:
    assert not holds(field, operator, value)


def test_what_is_there_exists() -> None:
    assert all(holds(field, "exists", True) for field in ("host_id", "facts.fresh", "facts.deep", "facts.tags"))


@pytest.mark.parametrize(
    ("field", "operator", "value"), [("facts.source", "gt", 1), ("facts.fresh", "lt", 5), ("facts", "ne", "x")]
)
def test_a_field_of_another_type_does_not_match(field: str, operator: Any, value: Any) -> None:
    assert not holds(field, operator, value)


def test_all_conditions_must_hold() -> None:
    both = (Condition("host_id", "eq", "box-1"), Condition("check", "eq", "logging"))
    assert [rules.matches(rule(*those), FIELDS, "low") for those in (both[:1], both[1:], both)] == [True, False, False]


def test_only_the_named_severities_match() -> None:
    only = rule(Condition("host_id", "eq", "box-1"), severities=(Severity.HIGH, Severity.CRITICAL))
    assert [severity for severity in Severity if rules.matches(only, FIELDS, severity)] == ["high", "critical"]


@pytest.mark.parametrize(
    "conditions",
    [
        [],
        None,
        [{}],
        [{"field": "check", "operator": "like", "value": "x"}],
        [{"field": "check", "operator": "eq"}],
        [{"field": "check", "operator": "eq", "value": None}],
        [{"field": "check", "operator": "eq", "value": ["x"]}],
        [{"field": "check", "operator": "in", "value": "x"}],
        [{"field": "check", "operator": "in", "value": []}],
        [{"field": "check", "operator": "gt", "value": "1"}],
        [{"field": "check", "operator": "gt", "value": True}],
        [{"field": "check", "operator": "contains", "value": 1}],
        [{"field": "check", "operator": "exists", "value": False}],
        [{"field": "", "operator": "eq", "value": "x"}],
        [{"field": "a..b", "operator": "eq", "value": "x"}],
        [{"field": "__class__", "operator": "eq", "value": "x"}],
        [{"field": "check", "operator": "eq", "value": "x", "more": 1}],
    ],
    ids=repr,
)
def test_a_rule_without_conditions_or_with_wrong_ones_is_refused(conditions: Any) -> None:
    refused(conditions=conditions)


@pytest.mark.parametrize(
    "text", ["(", "(a", "[z-a]", r"(a)\1", "(?=a)", "(?:a{1000}){1000}", "((a{100}){100}){100}", "a" * 501]
)
def test_an_expression_that_is_none_or_too_large_is_refused_without_a_word_on_stderr(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(conditions=[{"field": "reason", "operator": "regex", "value": text}])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["(a+)+$", "(a|aa)+$", "(.*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "(a?){50}a{50}"])
def test_a_catastrophic_expression_costs_no_more_than_the_text_is_long(text: str) -> None:
    def seconds(length: int) -> float:
        begun = time.perf_counter()
        holds("reason", "regex", text, {"reason": "a" * length + "!"})
        return time.perf_counter() - begun

    seconds(10)
    assert seconds(4000) < 1000 * min(seconds(10) for _ in range(5)) + 0.5


@pytest.mark.parametrize(
    "members",
    [
        {"priority": -1},
        {"priority": True},
        {"runbook": ""},
        {"runbook": "../x"},
        {"cooldown_s": -1},
        {"source": "mine"},
        {"severities": ["bad"]},
        {"id": ""},
        {"more": 1},
        {"parameters": {"a": True}},
        {"parameters": {"A": 1}},
    ],
    ids=repr,
)
def test_a_member_of_another_type_is_refused(members: dict[str, Any]) -> None:
    refused(**members)


def test_the_first_by_priority_answers_whatever_field_it_is_found_by() -> None:
    by_type = rule(Condition("incident_type", "eq", "backup_stale"), priority=30, name="by-type")
    by_pattern = rule(Condition("pattern_signature", "eq", "0123456789abcdef"), priority=20, name="by-pattern")
    by_host = rule(Condition("host_id", "ne", "x"), priority=10, name="by-host")
    found = []
    for known in ((by_type,), (by_type, by_pattern), (by_type, by_pattern, by_host)):
        first = rules.first_match(rules.compile(known, {"run-backup"}), FIELDS, "high")
        found.append(first.id if first else None)
    assert found == ["by-type", "by-pattern", "by-host"]


def test_a_rule_for_an_unknown_runbook_is_left_out_and_said() -> None:
    compiled = rules.compile([rule(Condition("host_id", "eq", "box-1"))], {"other"})
    assert rules.first_match(compiled, FIELDS, "high") is None
    assert compiled.refused == ("rule r-1: runbook run-backup is not in the catalogue",)


_words = st.sampled_from(["a", "b", "c"])
_conditions = st.one_of(
    st.builds(
        Condition,
        st.sampled_from(["incident_type", "pattern_signature", "check"]),
        st.sampled_from(["eq", "ne"]),
        _words,
    ),
    st.builds(Condition, st.just("incident_type"), st.just("in"), st.lists(_words, min_size=1, max_size=3).map(tuple)),
)
_rules = st.lists(
    st.tuples(st.integers(0, 3), st.lists(_conditions, min_size=1, max_size=3).map(tuple)), max_size=8
).map(
    lambda made: [rule(*conditions, priority=priority, name=f"r-{n}") for n, (priority, conditions) in enumerate(made)]
)


@given(_rules, st.dictionaries(st.sampled_from(["incident_type", "pattern_signature", "check"]), _words))
def test_the_index_finds_what_asking_one_by_one_finds(made: list[Rule], fields: dict[str, Any]) -> None:
    slow = next((one for one in sorted(made, key=lambda one: one.priority) if rules.matches(one, fields, "low")), None)
    assert rules.first_match(rules.compile(made, {"run-backup"}), fields, "low") == slow


@pytest.mark.parametrize("one", BUILT_IN, ids=lambda one: one.id)
def test_a_built_in_rule_comes_back_as_it_was_written(one: Rule) -> None:
    assert rules.from_dict(rules.to_dict(one)) == one


def test_built_in_rules_have_ids_of_their_own() -> None:
    assert len({one.id for one in BUILT_IN}) == len(BUILT_IN)
