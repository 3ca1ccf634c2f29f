"""What repairs teach: which runbook is worth a try, when it becomes a rule, and when a rule is taken back.

Rules without I/O. The numbers are appliances' own totals; nothing is added twice, and nothing that was once reached
stays: what is judged is what the totals say now.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ccshared import rules
from ccshared.rules import Rule
from ccshared.runbooks import BadParametersError, Runbook, check_parameters
from ccshared.vocabulary import Risk, RuleStatus
from ccshared.wilson import lower_bound

LEAST_COUNT = 5
LEAST_PERCENT = 90
MOST_MEAN_MS = 30_000
LEAST_APPLIANCES = 2
LEAST_BESIDE_THE_LOUDEST = 2  # one that tries again and again is one opinion

TRIAL_COUNT = 3
MOST_FAILED_PERCENT = 20

LEARNED_PRIORITY = 200  # after those of the package

_HELPFUL_PERCENT = 50


@dataclass(frozen=True)
class Source:
    """One appliance's totals of a runbook for a pattern: by the planner, and by people's orders."""

    site_id: str
    appliance_id: str
    runbook_id: str
    count: int
    successes: int
    time_ms: int
    order_count: int = 0
    order_successes: int = 0


@dataclass(frozen=True)
class Evidence:
    """The numbers behind a rule: the lower bound is Wilson's, 95 %, in permille; `loudest` is one appliance's most."""

    count: int
    successes: int
    lower_bound_permille: int
    mean_ms: int
    appliances: int
    sites: int
    loudest: int
    eligible: bool
    why_not: str | None


@dataclass(frozen=True)
class Fate:
    """How a rule fared where it runs: tries and successes."""

    count: int
    successes: int


@dataclass(frozen=True)
class Plan:
    """What is worth a try, from whose experience (appliance, site or partner), and the numbers."""

    runbook_id: str
    level: str
    count: int
    successes: int
    appliances: int
    sites: int

    @property
    def why(self) -> str:
        """The sentence for people."""
        far = f"at {self.sites} site{'' if self.sites == 1 else 's'}"
        where = {"appliance": "on this appliance", "site": "at this site"}.get(self.level, far)
        return f"it helped {self.successes} of {self.count} times for this pattern, {where}"


def weigh(sources: Iterable[Source]) -> Evidence:
    """Return what the totals of one runbook for one pattern of one partner come to."""
    tried = [source for source in sources if source.count > 0]
    count, successes = sum(each.count for each in tried), sum(each.successes for each in tried)
    mean_ms = sum(each.time_ms for each in tried) // max(count, 1)
    loudest = max((each.count for each in tried), default=0)
    why_not = next(_against(tried, count, successes, mean_ms), None)
    return Evidence(
        count=count,
        successes=successes,
        lower_bound_permille=int(lower_bound(successes, count) * 1000),
        mean_ms=mean_ms,
        appliances=len(tried),
        sites=len({each.site_id for each in tried}),
        loudest=loudest,
        eligible=why_not is None,
        why_not=why_not,
    )


def _against(tried: Sequence[Source], count: int, successes: int, mean_ms: int) -> Iterator[str]:
    """Say what speaks against a rule, the first reason first."""
    beside = count - max((each.count for each in tried), default=0)
    if count < LEAST_COUNT:
        yield f"{count} of at least {LEAST_COUNT} occurrences"
    if successes * 100 < count * LEAST_PERCENT:
        yield f"{successes} of {count} succeeded, and {LEAST_PERCENT} % must"
    if mean_ms > MOST_MEAN_MS:
        yield f"{mean_ms // 1000} s on the average, and {MOST_MEAN_MS // 1000} s may be"
    if len(tried) < LEAST_APPLIANCES:
        yield "one appliance alone met it"
    if beside < LEAST_BESIDE_THE_LOUDEST:
        yield f"all but {beside} are of one appliance"
    if not _holds_without_the_loudest(tried):
        yield "without the appliance that met it most it does not hold"


def _holds_without_the_loudest(tried: Sequence[Source]) -> bool:
    rest = sorted(tried, key=lambda each: each.count)[:-1]
    return sum(each.successes for each in rest) * 100 >= sum(each.count for each in rest) * LEAST_PERCENT


def may_be_rule(runbook: Runbook | None) -> bool:
    """Return whether a runbook may run by itself, and with nothing but its defaults."""
    if runbook is None or runbook.people_only or runbook.action is not None or runbook.risk is Risk.HIGH:
        return False
    try:
        check_parameters(runbook, {})
    except BadParametersError:
        return False
    return True


def rule_id(partner_id: str, signature: str, runbook_id: str) -> str:
    """Return the id of the rule that a partner's pattern and a runbook make: always the same one."""
    return "learned-" + hashlib.sha256(f"{partner_id}\n{signature}\n{runbook_id}".encode()).hexdigest()[:32]


def conditions(signature: str, incident_type: str) -> list[dict[str, Any]]:
    """Return the conditions of a learned rule: this pattern, and nothing else."""
    wanted = (("pattern_signature", signature), ("incident_type", incident_type))
    return [{"field": name, "operator": "eq", "value": value} for name, value in wanted]


def next_status(status: str, fate: Fate) -> RuleStatus | None:
    """Return what becomes of a rule that runs; None while it stays what it is."""
    if fate.count < TRIAL_COUNT or status not in (RuleStatus.CANARY, RuleStatus.ACTIVE):
        return None
    if (fate.count - fate.successes) * 100 > fate.count * MOST_FAILED_PERCENT:
        return RuleStatus.DEMOTED
    if status == RuleStatus.CANARY and fate.successes >= TRIAL_COUNT:
        return RuleStatus.ACTIVE
    return None


def plan(
    sources: Iterable[Source], here: tuple[str, str], tried: Collection[str], catalogue: Mapping[str, Runbook]
) -> Plan | None:
    """Return what is worth a try for an appliance (`here` is its site and id): the nearest experience counts most.

    `sources` are all of its partner, for one pattern. What failed more often than not where it is nearest is left out.
    """
    usable = [each for each in sources if each.runbook_id not in tried and may_be_rule(catalogue.get(each.runbook_id))]
    levels = (
        ("appliance", [each for each in usable if (each.site_id, each.appliance_id) == here]),
        ("site", [each for each in usable if each.site_id == here[0]]),
        ("partner", usable),
    )
    useless: set[str] = set()
    for level, those in levels:
        sums = [_sum(level, name, those) for name in sorted({each.runbook_id for each in those} - useless)]
        helpful = [one for one in sums if one.successes and one.successes * 100 >= one.count * _HELPFUL_PERCENT]
        if helpful:
            return max(helpful, key=lambda one: (lower_bound(one.successes, one.count), one.runbook_id))
        useless |= {one.runbook_id for one in sums if one.count >= TRIAL_COUNT}
    return None


def _sum(level: str, runbook_id: str, those: Iterable[Source]) -> Plan:
    own = [each for each in those if each.runbook_id == runbook_id]
    return Plan(
        runbook_id=runbook_id,
        level=level,
        count=sum(each.count + each.order_count for each in own),
        successes=sum(each.successes + each.order_successes for each in own),
        appliances=len(own),
        sites=len({each.site_id for each in own}),
    )


@dataclass(frozen=True)
class Past:
    """An incident of the past, as it is replayed; `raw_data` is the scrubbed finding."""

    site_id: str
    host_id: str
    incident_type: str
    severity: str
    pattern_signature: str
    raw_data: Mapping[str, Any]
    resolution_level: str | None
    outcome: str | None


@dataclass(frozen=True)
class Replay:
    """What a rule would have answered of the past: incidents, hosts, sites; how these ended, each with its number."""

    looked_at: int
    matched: int
    hosts: int
    sites: int
    ended: dict[str, int]


def replay(rule: Rule, past: Sequence[Past]) -> Replay:
    """Return which of the past incidents a rule would have answered."""
    compiled = rules.compile([rule], {rule.runbook})
    hit = [each for each in past if rules.first_match(compiled, _fields(each), each.severity)]
    ended: dict[str, int] = {}
    for each in hit:
        name = f"{each.resolution_level or 'nobody'} {each.outcome}" if each.outcome else "open"
        ended[name] = ended.get(name, 0) + 1
    hosts, sites = {(each.site_id, each.host_id) for each in hit}, {each.site_id for each in hit}
    return Replay(len(past), len(hit), len(hosts), len(sites), dict(sorted(ended.items())))


def _fields(past: Past) -> dict[str, Any]:
    told = {name: past.raw_data.get(name) for name in ("check", "reason", "drift_type", "service_name")}
    known = {
        "incident_type": past.incident_type,
        "severity": past.severity,
        "host_id": past.host_id,
        "pattern_signature": past.pattern_signature,
        "facts": past.raw_data.get("facts") or {},
    }
    return {name: value for name, value in {**told, **known}.items() if value is not None}


def as_rule(rule_id: str, signature: str, runbook_id: str, conditions: Any) -> Rule:
    """Return a learned rule as policies say it, from what is stored of it; BadRuleError when it is none."""
    return rules.from_dict(
        {
            "id": rule_id,
            "name": f"learned {signature}",
            "priority": LEARNED_PRIORITY,
            "conditions": conditions,
            "runbook": runbook_id,
            "source": "learned",
        }
    )
