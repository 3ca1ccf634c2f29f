"""Runbooks: read strictly, their parameters typed, nothing in them that a shell could read."""

from typing import Any

import pytest

from ccshared import runbooks
from ccshared.runbooks import BadParametersError, BadRunbookError, Runbook

STEP = {"argv": ["/usr/bin/systemctl", "restart", "--", "{unit}"], "time_limit_s": 60, "about": "restart it"}
WAIT = {"argv": ["/usr/bin/sleep", "{seconds}"], "time_limit_s": 60, "about": "wait"}
GOOD: dict[str, Any] = {
    "id": "restart-unit",
    "title": "Restart a unit",
    "about": "Restarts it.",
    "families": ["logging"],
    "risk": "low",
    "disruptive": False,
    "proves": "logging",
    "parameters": [
        {"name": "unit", "kind": "word", "about": "which"},
        {"name": "seconds", "kind": "integer", "about": "how long", "least": 0, "most": 60, "default": 5},
    ],
    "variants": [
        {"platform": "any", "steps": [STEP, WAIT]},
        {"platform": "nixos", "steps": [WAIT, STEP], "rollback": [STEP]},
    ],
}


def changed(**members: Any) -> dict[str, Any]:
    return {**GOOD, **members}


def stepped(**members: Any) -> dict[str, Any]:
    return changed(variants=[{"platform": "any", "steps": [{**STEP, **members}, STEP, WAIT]}])


def parameter(**members: Any) -> dict[str, Any]:
    return changed(parameters=[{**GOOD["parameters"][0], **members}, GOOD["parameters"][1]])


def refused(value: Any) -> None:
    with pytest.raises(BadRunbookError):
        runbooks.from_dict(value)


@pytest.fixture
def runbook() -> Runbook:
    return runbooks.from_dict(GOOD)


def test_a_runbook_comes_back_as_it_was_written_and_its_digest_with_it(runbook: Runbook) -> None:
    again = runbooks.from_dict(runbooks.to_dict(runbook))
    assert (again, runbooks.digest(again)) == (runbook, runbooks.digest(runbook))
    assert len(runbooks.digest(runbook)) == 64


def test_every_member_counts_in_the_digest(runbook: Runbook) -> None:
    others = [changed(title="Other"), changed(disruptive=True), changed(risk="high"), stepped(time_limit_s=61)]
    assert runbooks.digest(runbook) not in {runbooks.digest(runbooks.from_dict(other)) for other in others}


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"proves"}))
def test_a_member_that_is_missing_or_of_another_type_is_refused(name: str) -> None:
    if name not in ("variants", "parameters"):
        refused({key: value for key, value in GOOD.items() if key != name})
    for odd in (None, 7, 1.5, "x\x00", [7], {"a": 1}):
        refused(changed(**{name: odd}))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["systemctl"],
        ["{unit}"],
        ["/bin/{unit}"],
        ["/bin/../sbin/x"],
        ["/bin/x", "--unit={unit}"],
        ["/bin/x", "{unit}{unit}"],
        ["/bin/x", "{Unit}"],
        ["/bin/x", "{other}"],
        ["/bin/x", "a\nb"],
        ["/bin/x", "a\x00b"],
        ["/bin/x", 7],
        "/bin/x",
    ],
    ids=repr,
)
def test_an_argument_vector_that_is_none_is_refused(argv: Any) -> None:
    refused(stepped(argv=argv))


@pytest.mark.parametrize("limit", [0, 3601, -1, True, "60", None])
def test_a_step_has_a_time_limit_of_at_most_an_hour(limit: Any) -> None:
    refused(stepped(time_limit_s=limit))


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "path"},
        {"kind": "choice"},
        {"choices": ["a"]},
        {"kind": "integer"},
        {"kind": "integer", "least": -1, "most": 5},
        {"least": 0, "most": 5},
        {"default": "-x"},
        {"default": 5},
        {"kind": "choice", "choices": ["a", "-b"]},
        {"kind": "choice", "choices": ["a"], "default": "b"},
        {"name": "Unit"},
        {"name": "seconds"},
        {"secret": True},
    ],
    ids=repr,
)
def test_a_parameter_that_does_not_hang_together_is_refused(members: dict[str, Any]) -> None:
    refused(parameter(**members))


def test_a_parameter_that_no_step_takes_is_refused() -> None:
    refused(changed(variants=[{"platform": "any", "steps": [WAIT]}]))


def test_two_variants_of_one_platform_are_refused() -> None:
    refused(changed(variants=[GOOD["variants"][0]] * 2))


def test_steps_an_action_and_people_only_exclude_each_other() -> None:
    refused(changed(action="run_checks_now"))
    refused(changed(people_only=True))
    refused(changed(variants=[], parameters=[]))
    refused(changed(variants=[], parameters=[], action="reboot"))
    assert runbooks.from_dict(changed(variants=[], parameters=[], action="run_checks_now")).variants == ()


@pytest.mark.parametrize("value", [None, True, 1, "", [], {}, [GOOD]], ids=repr)
def test_what_is_no_object_is_refused(value: Any) -> None:
    refused(value)


def test_defaults_are_filled_in_and_values_kept(runbook: Runbook) -> None:
    assert runbooks.check_parameters(runbook, {"unit": "a@1.service"}) == {"unit": "a@1.service", "seconds": 5}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"unit": None},
        {"unit": 7},
        {"unit": True},
        {"unit": ""},
        {"unit": "-rf"},
        {"unit": "a b"},
        {"unit": "a;b"},
        {"unit": "$(id)"},
        {"unit": "`id`"},
        {"unit": "a|b"},
        {"unit": "a\n"},
        {"unit": "../../etc/x"},
        {"unit": "a" * 129},
        {"unit": "ä"},
        {"unit": ["a"]},
        {"unit": "a", "seconds": "5"},
        {"unit": "a", "seconds": True},
        {"unit": "a", "seconds": 5.0},
        {"unit": "a", "seconds": -1},
        {"unit": "a", "seconds": 61},
        {"unit": "a", "other": 1},
        {"unit": "a", "; rm": 1},
    ],
    ids=repr,
)
def test_parameters_of_another_name_type_or_form_are_refused(runbook: Runbook, given: dict[str, Any]) -> None:
    with pytest.raises(BadParametersError):
        runbooks.check_parameters(runbook, given)


def test_a_choice_takes_one_of_its_words() -> None:
    chosen = runbooks.from_dict(parameter(kind="choice", choices=["a.service", "b.service"]))
    assert runbooks.check_parameters(chosen, {"unit": "b.service"})["unit"] == "b.service"
    with pytest.raises(BadParametersError, match=r"one of a\.service, b\.service"):
        runbooks.check_parameters(chosen, {"unit": "c.service"})


def test_a_value_stands_where_its_parameter_stood_and_nowhere_else(runbook: Runbook) -> None:
    variant = runbooks.variant_for(runbook, "debian")
    assert variant is not None
    filled = runbooks.fill(variant.steps, {"unit": "{seconds}", "seconds": 5})
    assert [step.argv[-1] for step in filled] == ["{seconds}", "5"]
    assert filled[0].argv[:3] == ("/usr/bin/systemctl", "restart", "--")


def test_the_platforms_own_variant_comes_before_the_one_for_any(runbook: Runbook) -> None:
    found = [runbooks.variant_for(runbook, platform) for platform in ("nixos", "rhel", "plan9")]
    assert [variant.platform for variant in found if variant] == ["nixos", "any", "any"]
    alone = runbooks.from_dict(changed(variants=[GOOD["variants"][1]]))
    assert runbooks.variant_for(alone, "debian") is None
