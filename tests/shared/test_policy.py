"""Policies: signed for one appliance; what cannot be read in one is left out and said, and the stop is heard anyway."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from ccshared import ed25519, envelope, policy, rules, runbooks
from ccshared.canonical import NotCanonicalError
from ccshared.envelope import PayloadType
from ccshared.policy import ALWAYS, BadPolicyError, Policy, Window

SEED = bytes([7]) * 32
KEY = ed25519.public_key(SEED)
CHECKS_NOW = runbooks.from_dict(
    {
        "id": "run-checks-now",
        "title": "Run the checks",
        "about": "Runs them.",
        "families": [],
        "risk": "low",
        "disruptive": False,
        "action": "run_checks_now",
    }
)
POLICY = Policy(
    site="acme-clinic",
    appliance="box-1",
    version=1_800_000_000_000,
    mode="heal",
    window=Window((5, 6), 1380, 120),
    canary=False,
    settings={"checks.time_limit_s": 60, "healing.mode": "heal"},
    rules=rules.BUILT_IN,
    runbooks=(CHECKS_NOW,),
)


def sealed(value: dict[str, Any], purpose: PayloadType = PayloadType.POLICY) -> dict[str, Any]:
    return envelope.sign(purpose, value, SEED, "cc.example/server/o1").to_json()


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_a_policy_comes_back_as_it_was_made() -> None:
    assert policy.read(sealed(policy.make(POLICY)), [bytes(32), KEY]) == POLICY


@pytest.mark.parametrize("purpose", [PayloadType.ORDER, PayloadType.KEYS])
def test_another_purpose_or_key_is_refused(purpose: PayloadType) -> None:
    for data, keys in ((sealed(policy.make(POLICY), purpose), [KEY]), (sealed(policy.make(POLICY)), [])):
        with pytest.raises(BadPolicyError):
            policy.read(data, keys)


@pytest.mark.parametrize(
    "members",
    [
        {"v": 2},
        {"v": True},
        {"mode": "off"},
        {"canary": 1},
        {"window": {"days": [7], "from_minute": 0, "minutes": 1}},
        {"window": {"days": [0], "from_minute": 1440, "minutes": 1}},
        {"window": {"days": [0], "from_minute": 0, "minutes": 1441}},
        {"settings": {}},
        {"settings": [["a", True]]},
        {"settings": [["A", 1]]},
        {"rules": None},
        {"version": "1"},
    ],
    ids=repr,
)
def test_a_member_of_another_type_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadPolicyError):
        policy.read(sealed({**policy.make(POLICY), **members}), [KEY])


@pytest.mark.parametrize("name", sorted(policy.make(POLICY)))
def test_a_missing_member_is_refused(name: str) -> None:
    if name != "v":
        made = {key: value for key, value in policy.make(POLICY).items() if key != name}
        with pytest.raises(BadPolicyError):
            policy.read(sealed(made), [KEY])


def test_a_rule_of_a_newer_kind_is_left_out_and_the_stop_heard() -> None:
    made = policy.make(replace(POLICY, mode="stop"))
    newer = {**made["rules"][0], "id": "newer", "conditions": [{"field": "a", "operator": "like", "value": "b"}]}
    read = policy.read(sealed({**made, "rules": [newer, *made["rules"]], "more": 1}), [KEY])
    assert (read.mode, read.rules) == ("stop", POLICY.rules)
    assert len(read.refused) == 1
    assert read.refused[0].startswith("rule newer: conditions.0.operator")


def test_a_policy_holds_at_most_256_kib() -> None:
    large = replace(POLICY, rules=tuple(replace(rules.BUILT_IN[0], id=f"r-{n}", name="x" * 200) for n in range(900)))
    with pytest.raises(NotCanonicalError):
        sealed(policy.make(large))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-28T22:59:59", False),  # a Saturday
        ("2026-11-28T23:00:00", True),
        ("2026-11-29T00:59:59", True),
        ("2026-11-29T01:00:00", False),
        ("2026-11-29T23:30:00", True),
        ("2026-11-30T00:30:00", True),  # Monday, in the window of Sunday
        ("2026-11-30T23:30:00", False),
        ("2026-11-28T00:30:00", False),  # Saturday, and Friday has no window
    ],
)
def test_a_window_is_open_on_its_days_and_may_reach_past_midnight(moment: str, is_open: bool) -> None:
    assert policy.window_open(POLICY, at(moment)) is is_open


def test_no_window_is_never_open_and_a_whole_one_always() -> None:
    moments = [at("2026-11-23T00:00:00") + hour * 3_600_000 for hour in range(170)]
    assert not any(policy.window_open(replace(POLICY, window=None), moment) for moment in moments)
    assert all(policy.window_open(replace(POLICY, window=ALWAYS), moment) for moment in moments)


def test_a_runbook_is_found_by_its_id() -> None:
    assert policy.runbook(POLICY, "run-checks-now") == CHECKS_NOW
    assert policy.runbook(POLICY, "other") is None
