"""The flywheel: what appliances tell becomes candidates, a person decides, numbers go on deciding; all is audited."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ccserver import catalogue, promotion
from ccserver.errors import ChangedMeanwhileError, NotFoundError, RuleStateError
from ccserver.promotion import Evidence, Fate, Plan, Replay, Source
from ccserver.queries import audit_log, incidents, pattern_runbooks, rule_trials, rules
from ccserver.queries.audit_log import Act
from ccserver.queries.pattern_runbooks import Group
from ccserver.queries.rules import Draft, Rule, Verdict
from ccserver.retention import Swept
from ccserver.scope import PartnerScope, PlatformScope
from ccshared import rules as forms
from ccshared import wilson
from ccshared.canonical import Json
from ccshared.runbooks import Runbook
from ccshared.vocabulary import RuleStatus

MAX_PAST = 1_000
MAX_SOURCES = 200
_SWEEP = "sweep:rules"


@dataclass(frozen=True)
class Decision:
    """What somebody decides of a rule, having read this revision."""

    rule_id: str
    revision: int
    actor: str
    comment: str


@dataclass(frozen=True)
class Explained:
    """Why a rule was proposed, by the numbers as they are now, what it would have done, and how it fares.

    `sources` are the appliances that told most; `trial` is of its canary, `everywhere` of all, since the approval.
    """

    rule: Rule
    evidence: Evidence
    sources: list[Source]
    replay: Replay | None
    trial: Fate
    everywhere: Fate


async def propose(scope: PlatformScope, rows: int) -> Swept:
    """Weigh what appliances told anew; make, refresh and take back candidates, each within its partner."""
    groups = await pattern_runbooks.take_due(scope, rows)
    if not groups:
        return Swept(0, 0)
    known = catalogue.load()
    weighed = [(group, promotion.weigh(await pattern_runbooks.of_group(scope, group))) for group in groups]
    fit = [(group, said) for group, said in weighed if _is_fit(group, said, known)]
    made = await rules.propose(scope, [_draft(group, said) for group, said in fit])
    unfit = [_id(group) for group, said in weighed if not _is_fit(group, said, known)]
    gone = await rules.withdraw(scope, unfit)
    for action, those in (("rule.propose", made), ("rule.withdraw", gone)):
        for partner_id, rule_id in sorted(those):
            await audit_log.append(scope, Act(_SWEEP, action, rule_id, {}), partner_id)
    return Swept(len(groups), len(groups))


async def settle(scope: PlatformScope, rows: int) -> Swept:
    """Let rules that run go on from their trial, or take them back, by how they fare."""
    told = await rule_trials.take_due(scope, rows)
    for each in told:
        after = promotion.next_status(each.status or "", each.fate)
        if after is None:
            continue
        comment = f"{each.fate.successes} of {each.fate.count} tries succeeded"
        which = (each.partner_id, each.rule_id)
        if await rules.settle(scope, which, str(each.status), Verdict(after, _SWEEP, comment)):
            detail: dict[str, Json] = {"status": str(after), "count": each.fate.count, "successes": each.fate.successes}
            action = "rule.demote" if after is RuleStatus.DEMOTED else "rule.activate"
            await audit_log.append(scope, Act(_SWEEP, action, each.rule_id, detail), each.partner_id)
    return Swept(len(told), len(told))


async def approve(scope: PartnerScope, decision: Decision, appliance_id: str | None) -> Rule:
    """Let a rule be tried on one appliance, the named one or one that meets its pattern; or, tried well, run on all.

    RuleStateError when the numbers do not speak for it, or its trial is not over.
    """
    rule = await _found(scope, decision.rule_id)
    if rule.status == RuleStatus.CANARY:
        fate = await rule_trials.fate(scope, rule.id, rule.canary_appliance_id)
        if promotion.next_status(rule.status, fate) is not RuleStatus.ACTIVE:
            raise RuleStateError(f"Its trial is not over: {fate.successes} of {fate.count} tries succeeded.")
        return await _decide(scope, decision, RuleStatus.ACTIVE)
    _demand(rule, RuleStatus.CANDIDATE, RuleStatus.REJECTED, RuleStatus.DEMOTED)
    said = promotion.weigh(await _sources(scope, rule))
    if not said.eligible:
        raise RuleStateError(f"The numbers do not speak for it: {said.why_not}.")
    if not promotion.may_be_rule(catalogue.load().get(rule.runbook_id)):
        raise RuleStateError(f"{rule.runbook_id} is no runbook that may run by itself.")
    canary = await pattern_runbooks.canary(scope, rule.pattern_signature, appliance_id)
    if canary is None:
        raise NotFoundError("There is no such appliance, or none that is not revoked.")
    await rule_trials.begin(scope, rule.id)
    return await _decide(scope, decision, RuleStatus.CANARY, canary)


async def reject(scope: PartnerScope, decision: Decision) -> Rule:
    """Say no to a candidate; it is not proposed again, though a person may approve it later."""
    _demand(await _found(scope, decision.rule_id), RuleStatus.CANDIDATE)
    return await _decide(scope, decision, RuleStatus.REJECTED)


async def demote(scope: PartnerScope, decision: Decision) -> Rule:
    """Take a rule back that runs, on its canary or everywhere."""
    _demand(await _found(scope, decision.rule_id), RuleStatus.CANARY, RuleStatus.ACTIVE)
    return await _decide(scope, decision, RuleStatus.DEMOTED)


async def explain(scope: PartnerScope, rule_id: str) -> Explained:
    """Return why there is a rule, and what came of it; NotFoundError where there is none."""
    found = await rules.find_with_fates(scope, rule_id)
    if found is None:
        raise NotFoundError
    rule, trial, everywhere = found
    sources = await _sources(scope, rule)
    ready = _ready(rule)
    past = await incidents.past(scope, _pinned(rule), MAX_PAST)
    return Explained(
        rule,
        promotion.weigh(sources),
        sources[:MAX_SOURCES],
        promotion.replay(ready, past) if ready else None,
        trial,
        everywhere,
    )


def _ready(rule: Rule) -> forms.Rule | None:
    """Return a stored rule ready to be replayed; None where what is stored is none."""
    try:
        return promotion.as_rule(rule.id, rule.pattern_signature, rule.runbook_id, rule.conditions)
    except forms.BadRuleError:
        return None


async def plan(
    scope: PartnerScope, signature: str, here: tuple[str, str], tried: Sequence[str], known: Mapping[str, Runbook]
) -> Plan | None:
    """Return what is worth a try for an appliance of the partner (`here` is its site and id)."""
    return promotion.plan(await pattern_runbooks.of_pattern(scope, signature), here, tried, known)


def _is_fit(group: Group, said: Evidence, known: Mapping[str, Runbook]) -> bool:
    return said.eligible and promotion.may_be_rule(known.get(group.runbook_id))


def _id(group: Group) -> tuple[str, str]:
    return group.partner_id, promotion.rule_id(group.partner_id, group.pattern_signature, group.runbook_id)


def _draft(group: Group, said: Evidence) -> Draft:
    return Draft(
        *_id(group),
        group.pattern_signature,
        group.runbook_id,
        promotion.conditions(group.pattern_signature, group.incident_type),
        said,
    )


async def _found(scope: PartnerScope, rule_id: str) -> Rule:
    rule = await rules.find(scope, rule_id)
    if rule is None:
        raise NotFoundError
    return rule


async def _sources(scope: PartnerScope, rule: Rule) -> list[Source]:
    found = await pattern_runbooks.of_pattern(scope, rule.pattern_signature)
    return [source for source in found if source.runbook_id == rule.runbook_id]


def _pinned(rule: Rule) -> str | None:
    """Return the pattern that a rule is bound to by its conditions, None where it is to none."""
    wanted = {"field": "pattern_signature", "operator": "eq", "value": rule.pattern_signature}
    return rule.pattern_signature if isinstance(rule.conditions, list) and wanted in rule.conditions else None


def _demand(rule: Rule, *those: RuleStatus) -> None:
    if rule.status not in those:
        raise RuleStateError(f"The rule is {rule.status}: that is for one that is {' or '.join(those)}.")


async def _decide(
    scope: PartnerScope, decision: Decision, status: RuleStatus, canary: tuple[str, str] | None = None
) -> Rule:
    """Write a decision and who made it, as the last things of a transaction."""
    verdict = Verdict(status, decision.actor, decision.comment, canary)
    rule = await rules.decide(scope, decision.rule_id, decision.revision, verdict)
    if rule is None:
        raise ChangedMeanwhileError
    names = {"canary": "rule.approve", "active": "rule.activate", "rejected": "rule.reject", "demoted": "rule.demote"}
    detail: dict[str, Json] = {"comment": decision.comment, "runbook": rule.runbook_id}
    detail |= {"canary": rule.canary_appliance_id} if canary else {}
    await audit_log.append(scope, Act(decision.actor, names[str(status)], rule.id, detail))
    return rule


def told(plan_: Plan) -> dict[str, Json]:
    """Return the numbers behind a plan, whole numbers all of them, because they are sealed as evidence."""
    bound = int(wilson.lower_bound(plan_.successes, plan_.count) * 1000)
    return {name: value for name, value in asdict(plan_).items() if name != "runbook_id"} | {
        "lower_bound_permille": bound
    }
