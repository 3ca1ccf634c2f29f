"""Whether an incident is repaired, by what, and when; or who is asked instead. Nothing is done here, only decided.

The order: a rule, else the planner; the signed catalogue; the mode; the budget; the window. Whoever repairs decides
anew at that moment, so a stop that came meanwhile holds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from ccagent import attempts, checks, incidents, order_clock, policy, scrubbing
from ccagent.attempts import Key, Moment, Verdict
from ccagent.clock import ClockWatch
from ccagent.config import ChecksSettings, Config
from ccagent.finding import Finding
from ccagent.hands import Ask
from ccagent.host import Host
from ccagent.incidents import Incident
from ccagent.policy import InForce
from ccagent.resolvers import Fit, Proposal, UnfitError, fit, level1, level2, level3
from ccagent.resolvers.level2 import NonsenseError, Planners
from ccagent.store import Store, Tx
from ccshared import phi, rules
from ccshared import policy as policies
from ccshared.rules import Compiled
from ccshared.vocabulary import Clock

# What a named check of a machine says now; None where there is no such check.
Examine = Callable[[str, Host, ChecksSettings, datetime], Awaitable[Finding | None]]


class Answer(StrEnum):
    """What is to be done about an incident."""

    REPAIR = "repair"
    WAIT = "wait"
    ASK = "ask"


@dataclass(frozen=True)
class Decision:
    """An answer with its reason for people; `fit` is what is repaired with, `would` what would have been.

    `held_by` is "mode" where nothing but the mode keeps it from being repaired.
    """

    answer: Answer
    why: str
    fit: Fit | None = None
    would: Proposal | None = None
    held_by: str | None = None


@dataclass
class Healer:
    """What healing shares: the policy in force, whom to ask, and the one pair of hands that does one thing at a time.

    `config` are the settings in effect. `due` are incidents that may be repaired now, `stirred` says that there are
    new ones; `repaired` is called after each try, and `examine` says whether it helped.
    """

    store: Store
    watch: ClockWatch
    scrub_key: bytes
    config: Config
    ask: Ask
    host: Callable[[], Host] = Host.here
    planners: Planners = field(default_factory=Planners)
    in_force: InForce | None = None
    hands: asyncio.Lock = field(default_factory=asyncio.Lock)
    due: dict[str, None] = field(default_factory=dict)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    repaired: Callable[[], None] = field(default=lambda: None)
    examine: Examine = field(default=checks.run_named)
    _compiled: tuple[InForce | None, Compiled] | None = None

    @property
    def mode(self) -> str:
        """Stop, observe or heal."""
        return policy.mode(self.in_force)

    def now(self) -> Moment:
        """Return this moment by every clock there is."""
        boot = self.watch.boot()
        return Moment(self.watch.stamp()[0], boot, self.store.read(order_clock.now_ms, boot))

    def compiled(self) -> Compiled:
        """Return the rules in force, compiled once a policy; without one the built-in ones, to say what they would."""
        if self._compiled is None or self._compiled[0] is not self.in_force:
            if self.in_force is None:
                made = rules.compile(rules.BUILT_IN, {rule.runbook for rule in rules.BUILT_IN})
            else:
                known = {runbook.id for runbook in self.in_force.policy.runbooks}
                made = rules.compile(self.in_force.policy.rules, known)
            self._compiled = (self.in_force, made)
        return self._compiled[1]


async def decide(healer: Healer, incident: Incident) -> Decision:
    """Return what is to be done about an incident now; never raises for what a rule, planner or policy says."""
    if incident.host_id != scrubbing.host(healer.scrub_key, healer.host().host_id):
        return Decision(Answer.ASK, "it is about another machine, and repairs are for this one")
    proposal = level1.propose(healer.compiled(), incident)
    if healer.in_force is None:
        return _without_policy(proposal)
    if proposal is None:
        resting = _resting(healer, incident)
        if resting is not None:
            return resting
        try:
            proposal = await _planned(healer, incident, healer.in_force)
        except NonsenseError as error:
            return Decision(Answer.ASK, str(error))
    if proposal is None:
        return Decision(Answer.ASK, "no rule and no experience says what helps")
    return _weigh(healer, incident, proposal)


def _without_policy(proposal: Proposal | None) -> Decision:
    why = "no policy is here yet, so nothing is repaired"
    return Decision(Answer.ASK, why, would=proposal, held_by=None if proposal is None else "mode")


def _weigh(healer: Healer, incident: Incident, proposal: Proposal) -> Decision:
    """Return whether what was proposed may run, and may run now: planning took its time."""
    if healer.in_force is None:
        return _without_policy(proposal)
    try:
        fits = fit(proposal, healer.in_force.policy, incident.check)
    except UnfitError as error:
        return Decision(Answer.ASK, str(error), would=proposal)
    if healer.mode != policy.HEAL:
        why = f"the mode is {healer.mode}: this would have been done, and nothing was"
        return Decision(Answer.ASK, why, would=proposal, held_by="mode")
    return _afford(healer, incident, fits, healer.in_force)


def _afford(healer: Healer, incident: Incident, fits: Fit, in_force: InForce) -> Decision:
    """Return what the budget says of one more try, and then the window."""
    proposal = fits.proposal
    judged = healer.store.read(attempts.verdict, key_of(incident, proposal.runbook), healer.now(), proposal.cooldown_s)
    why = {
        Verdict.SUPPRESSED: f"{proposal.runbook} did not last and is suppressed",
        Verdict.USED_UP: f"{proposal.runbook} was tried {judged.tries} times within a day",
    }
    if judged.verdict in why:
        return Decision(Answer.ASK, why[judged.verdict], would=proposal)
    if judged.verdict is Verdict.COOLING:
        return Decision(Answer.WAIT, f"the pause after the last try of {proposal.runbook}", would=proposal)
    if fits.runbook.disruptive and not policies.window_open(in_force.policy, _utc_ms(healer)):
        return Decision(Answer.WAIT, "it disrupts, so it waits for the maintenance window", would=proposal)
    return Decision(Answer.REPAIR, proposal.why, fit=fits, would=proposal)


def key_of(incident: Incident, runbook: str) -> Key:
    """Return whose budget a try is counted in."""
    return incident.host_id, incident.check, runbook


async def _planned(healer: Healer, incident: Incident, in_force: InForce) -> Proposal | None:
    """Ask the planner, which hears what is used up already."""
    before = healer.store.read(incidents.planned_before, incident.pattern_signature)
    used = [
        runbook
        for runbook in healer.store.read(attempts.tried, incident.host_id, incident.check)
        if healer.store.read(attempts.verdict, key_of(incident, runbook), healer.now()).verdict
        in (Verdict.USED_UP, Verdict.SUPPRESSED)
    ]
    found = await level2.propose(healer.planners, incident, in_force.policy, before, used)
    return None if found is None else _scrubbed(healer, found)


def _scrubbed(healer: Healer, proposal: Proposal) -> Proposal:
    """Return what the planner says as it may be kept and shown, whoever wrote it."""
    try:
        why, given = (
            phi.scrub_text(healer.scrub_key, proposal.why),
            phi.scrub(healer.scrub_key, dict(proposal.parameters)),
        )
    except phi.ScrubError as error:
        raise NonsenseError("personal data in the planner's answer could not be told apart") from error
    return replace(proposal, why=why.replace("\x00", " "), parameters=cast("dict[str, Any]", given))


def _resting(healer: Healer, incident: Incident) -> Decision | None:
    """Return that the pause after the incident's last try goes on: the planner need not be asked meanwhile."""
    last = [one["runbook"] for one in healer.store.read(attempts.of_incident, incident.id)][-1:]
    for runbook in last:
        judged = healer.store.read(attempts.verdict, key_of(incident, runbook), healer.now())
        if judged.verdict is Verdict.COOLING:
            return Decision(Answer.WAIT, f"the pause after the last try of {runbook}")
    return None


def _utc_ms(healer: Healer) -> int:
    """Return the time of day as far as it can be trusted: the wall clock's, or where that may lie the order clock's."""
    wall_ms, trust = healer.watch.stamp()
    return wall_ms if trust is Clock.SYNC else healer.now().order_ms or wall_ms


def history(tx: Tx, incident_id: str, decision: Decision, mode: str) -> dict[str, Any]:
    """Return what people are shown with an incident: what is to be done and why, what was tried, what would be."""
    tried = attempts.of_incident(tx, incident_id)
    return {"answer": str(decision.answer), **level3.history(decision.why, mode, tried, decision.would)}
