"""L2: the planner. What worked for this pattern before: asked of the server, else of this appliance's own record.

An endpoint that speaks like OpenAI's is asked last, and only where the settings name one. Whatever answers is only a
proposal: it is checked against the signed catalogue like any other, and all that is sent was scrubbed before.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ccagent.incidents import Incident
from ccagent.resolvers import Proposal
from ccshared.messages import PlanAnswer, PlanRequest
from ccshared.policy import Policy
from ccshared.vocabulary import Level
from ccshared.wilson import lower_bound

log = logging.getLogger(__name__)

LEAST_SUCCESS = 0.5
MAX_WHY = 500
MAX_VALUE = 200

_ID = re.compile(r"[0-9a-z][0-9a-z_.-]{0,63}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

Plan = Callable[[PlanRequest], Awaitable[PlanAnswer | None]]
Complete = Callable[[dict[str, Any]], Awaitable[Any]]
Before = Sequence[tuple[str, int, int]]


class NonsenseError(Exception):
    """What answered for the planner is no plan; the message says what is wrong with it."""


@dataclass(frozen=True)
class Planners:
    """Whom to ask: the server (None as an answer: it cannot be asked), and an endpoint with its model's name."""

    server: Plan | None = None
    endpoint: Complete | None = None
    model: str = ""


async def propose(
    planners: Planners, incident: Incident, policy: Policy, before: Before, tried: Sequence[str]
) -> Proposal | None:
    """Return what is worth a try, None when nothing is known. `before` is (runbook, times, successes) here.

    NonsenseError when an answer is no plan.
    """
    request = PlanRequest(
        pattern_signature=incident.pattern_signature,
        incident_type=incident.incident_type,
        host_id=incident.host_id,
        tried=list(tried)[:64],
    )
    answer = await planners.server(request) if planners.server is not None else None
    found = _by_record(before, tried) if answer is None else _by_server(answer)
    if found is None and planners.endpoint is not None:
        return _by_endpoint(await planners.endpoint(_question(planners.model, incident, policy, tried)))
    return found


def _by_server(answer: PlanAnswer) -> Proposal | None:
    if answer.runbook is None:
        return None
    return _plan_of(answer.runbook, answer.parameters, f"the server: {answer.why}")


def _by_record(before: Before, tried: Sequence[str]) -> Proposal | None:
    """Return the runbook that most surely helped here, of those that helped more often than not."""
    useful = [one for one in before if one[0] not in tried and one[2] >= max(1, one[1] * LEAST_SUCCESS)]
    if not useful:
        return None
    runbook, total, successes = max(useful, key=lambda one: (lower_bound(one[2], one[1]), one[0]))
    return Proposal(Level.L2, runbook, {}, f"it helped {successes} of {total} times here, for this pattern")


def _question(model: str, incident: Incident, policy: Policy, tried: Sequence[str]) -> dict[str, Any]:
    """Return a request of the chat completions form; the finding in it was scrubbed when it was found."""
    choices = [
        {
            "runbook": one.id,
            "about": one.about,
            "parameters": [{"name": each.name, "kind": each.kind, "about": each.about} for each in one.parameters],
        }
        for one in policy.runbooks
        if incident.check in one.families and one.id not in tried and not one.people_only and one.action is None
    ]
    asked = {"incident": incident.raw_data, "type": incident.incident_type, "runbooks": choices}
    said = (
        "You choose a repair for a compliance finding. Answer with one JSON object and nothing else:"
        ' {"runbook": an id from the list or null, "parameters": {}, "why": one sentence}.'
    )
    return {
        "model": model,
        "temperature": 0,
        "messages": [{"role": "system", "content": said}, {"role": "user", "content": json.dumps(asked)}],
    }


def _by_endpoint(answer: Any) -> Proposal | None:
    try:
        plan = json.loads(answer["choices"][0]["message"]["content"])
        runbook, parameters, why = plan["runbook"], plan.get("parameters") or {}, plan.get("why") or ""
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise NonsenseError("the planner's endpoint answered no plan") from error
    if runbook is None:
        return None
    return _plan_of(runbook, parameters, f"the planner's endpoint: {why}")


def _plan_of(runbook: Any, parameters: Any, why: str) -> Proposal:
    """Return a plan in the form that evidence can hold, whatever it proposes; NonsenseError for any other."""
    if not isinstance(runbook, str) or not _ID.fullmatch(runbook):
        raise NonsenseError("the planner named nothing that could be a runbook")
    if not isinstance(parameters, dict) or not all(map(_is_parameter, parameters.items())):
        raise NonsenseError("the planner gave parameters of another form")
    return Proposal(Level.L2, runbook, parameters, why[:MAX_WHY])


def _is_parameter(given: tuple[Any, Any]) -> bool:
    name, value = given
    fits = (type(value) is int and abs(value) < 2**53) or (isinstance(value, str) and len(value) <= MAX_VALUE)
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and fits
