"""What the ladder proposes: rules first, then the planner, whose answers are proposals and nothing more."""

from dataclasses import replace
from typing import Any

import pytest

from ccagent.incidents import Incident
from ccagent.resolvers import Proposal, UnfitError, fit, level1, level2
from ccagent.resolvers.level2 import NonsenseError, Planners
from ccshared import rules
from ccshared.messages import PlanAnswer, PlanRequest
from ccshared.vocabulary import Level
from tests.agent.directing import policy_of, rule, runbook

INCIDENT = Incident(
    id="i-1",
    host_id="box",
    check="backup",
    incident_type="backup_stale",
    severity="high",
    raw_data={"reason": "30 h old", "drift_type": "backup_stale", "service_name": None, "facts": {"age_h": 30}},
    pattern_signature="0123456789abcdef",
    created_at_ms=1,
    last_seen_at_ms=1,
    occurrences=1,
    escalated_at_ms=None,
    resolved_at_ms=None,
)


def says(answer: Any) -> Any:
    async def answered(_: Any) -> Any:
        return answer

    return answered


async def planned(planners: Planners, before: Any = (), tried: Any = ()) -> Proposal | None:
    return await level2.propose(planners, INCIDENT, policy_of(), before, tried)


def endpoint(content: Any) -> Planners:
    return Planners(None, says({"choices": [{"message": {"content": content}}]}), "m")


def test_the_first_matching_rule_by_priority_proposes() -> None:
    old = rule(conditions=[{"field": "facts.age_h", "operator": "gt", "value": 24}], priority=5, id="old")
    compiled = rules.compile([old, rule(priority=9)], {"run-backup"})
    found = level1.propose(compiled, INCIDENT)
    assert found is not None
    assert (found.level, found.rule, found.runbook) == (Level.L1, "old", "run-backup")


def test_what_a_finding_does_not_say_never_matches() -> None:
    absent = rule(conditions=[{"field": "service_name", "operator": "ne", "value": "x"}])
    assert level1.propose(rules.compile([absent], {"run-backup"}), INCIDENT) is None


async def test_the_servers_history_goes_before_our_own() -> None:
    asked: list[PlanRequest] = []

    async def server(request: PlanRequest) -> PlanAnswer:
        asked.append(request)
        return PlanAnswer(runbook="run-backup", parameters={}, why="9 of 9")

    found = await planned(Planners(server), [("other", 5, 5)], ["bad"])
    assert found is not None
    assert (found.level, found.runbook) == (Level.L2, "run-backup")
    assert (asked[0].pattern_signature, asked[0].tried) == (INCIDENT.pattern_signature, ["bad"])


async def test_offline_the_own_record_answers_by_what_is_proved_best() -> None:
    found = await planned(Planners(says(None)), [("lucky", 1, 1), ("proved", 20, 18), ("worse", 30, 10)])
    assert found is not None
    assert found.runbook == "proved"
    assert await planned(Planners(), [("proved", 20, 18)], ["proved"]) is None


async def test_who_knows_nothing_proposes_nothing() -> None:
    assert await planned(Planners(says(PlanAnswer(runbook=None))), [("lucky", 1, 1)]) is None
    assert await planned(Planners()) is None
    assert await planned(endpoint('{"runbook": null}')) is None


async def test_an_endpoint_is_given_the_scrubbed_finding_and_only_fitting_runbooks() -> None:
    asked: list[dict[str, Any]] = []

    async def complete(question: dict[str, Any]) -> Any:
        asked.append(question)
        return {"choices": [{"message": {"content": '{"runbook": "run-backup", "parameters": {}, "why": "old"}'}}]}

    known = policy_of(runbook(), runbook("other", families=["logging"]))
    found = await level2.propose(Planners(None, complete, "m"), INCIDENT, known, (), ())
    assert found is not None
    assert found.runbook == "run-backup"
    said = asked[0]["messages"][1]["content"]
    assert "run-backup" in said
    assert "other" not in said


@pytest.mark.parametrize(
    "content",
    [
        '{"runbook": "x", "parameters": {"a": 1.5}}',
        '{"runbook": "x", "parameters": {"A b": 1}}',
        '{"runbook": "x", "parameters": {"a": {"b": 1}}}',
        '{"runbook": "; rm -rf /"}',
        "as you wish",
        "[]",
        "{}",
        '{"runbook": 7}',
        '{"runbook": "x", "parameters": []1}',
        None,
        7,
        "[" * 5000,
    ],
)
async def test_nonsense_from_an_endpoint_is_said_to_be_nonsense(content: Any) -> None:
    with pytest.raises(NonsenseError):
        await planned(endpoint(content))


@pytest.mark.parametrize("answer", [None, [], {}, {"choices": []}, {"choices": [{}]}, "text"])
async def test_an_answer_of_another_form_is_nonsense(answer: Any) -> None:
    with pytest.raises(NonsenseError):
        await planned(Planners(None, says(answer)))


@pytest.mark.parametrize(
    ("proposed", "says_what"),
    [
        (Proposal(Level.L2, "rm-rf", {}, "why"), "not in the signed catalogue"),
        (Proposal(Level.L2, "other", {}, "why"), "not for the check"),
        (Proposal(Level.L2, "run-backup", {"path": "/etc"}, "why"), "does not take"),
        (Proposal(Level.L1, "encrypt", {}, "why"), "for people only"),
        (Proposal(Level.L1, "look", {}, "why"), "repairs nothing"),
        (Proposal(Level.L1, "reboot", {}, "why"), "high risk"),
        (Proposal(Level.L2, "reboot", {}, "why"), "high risk"),
    ],
)
def test_only_what_the_signed_catalogue_allows_can_run(proposed: Proposal, says_what: str) -> None:
    known = policy_of(
        runbook(),
        runbook("other", families=["logging"]),
        runbook("encrypt", people_only=True),
        runbook("reboot", risk="high"),
        runbook("look", action="run_checks_now", families=[], proves=None),
    )
    with pytest.raises(UnfitError, match=says_what):
        fit(proposed, known, "backup")
    assert fit(replace(proposed, runbook="run-backup", parameters={}), known, "backup").runbook.id == "run-backup"
