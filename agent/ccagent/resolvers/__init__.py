"""The ladder: who answers an incident. A rule (L1), else the planner (L2); a person (L3) always has an answer.

L1 and L2 only propose a runbook; whether and when it may run is for the budget, the mode and the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ccshared.policy import Policy
from ccshared.runbooks import BadParametersError, Runbook, check_parameters
from ccshared.vocabulary import Level, Risk


@dataclass(frozen=True)
class Proposal:
    """A runbook with its parameters, by whom and why; `cooldown_s` is a rule's own least pause between tries."""

    level: Level
    runbook: str
    parameters: Mapping[str, Any]
    why: str
    rule: str | None = None
    cooldown_s: int = 0

    def shown(self) -> dict[str, Any]:
        """Return the proposal as people and evidence are shown it."""
        return {
            "level": str(self.level),
            "runbook": self.runbook,
            "parameters": dict(self.parameters),
            "rule": self.rule,
            "why": self.why,
        }


@dataclass(frozen=True)
class Fit:
    """A proposal that the signed catalogue allows: the runbook, and the parameters with defaults filled in."""

    proposal: Proposal
    runbook: Runbook
    parameters: dict[str, Any] = field(default_factory=dict)


class UnfitError(Exception):
    """What was proposed cannot be run; the message says why."""


def _why_not(runbook: Runbook) -> str | None:
    """Return why a runbook never runs by itself."""
    if runbook.people_only:
        return "is for people only"
    if runbook.action is not None:
        return "repairs nothing"
    return "is of high risk: two persons order it" if runbook.risk is Risk.HIGH else None


def fit(proposal: Proposal, policy: Policy, check: str) -> Fit:
    """Return what is to run; UnfitError unless the signed catalogue has it, for this check, with such parameters."""
    known = next((one for one in policy.runbooks if one.id == proposal.runbook), None)
    if known is None:
        raise UnfitError(f"the runbook {proposal.runbook!r} is not in the signed catalogue")
    why_not = _why_not(known)
    if why_not is not None:
        raise UnfitError(f"the runbook {known.id} {why_not}")
    if proposal.level is Level.L2 and check not in known.families:
        raise UnfitError(f"the runbook {known.id} is not for the check {check}")
    try:
        return Fit(proposal, known, dict(check_parameters(known, dict(proposal.parameters))))
    except BadParametersError as error:
        raise UnfitError(f"the runbook {known.id} does not take these parameters: {error}") from error
