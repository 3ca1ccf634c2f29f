"""A decision by rules at 500 rules beside one at 5; and how often what is promoted should not have been."""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ccserver import promotion
from ccserver.promotion import Fate, Source
from ccshared import rules
from ccshared.rules import BUILT_IN, Compiled, Condition, Rule
from ccshared.vocabulary import RuleStatus
from tests.bench import measure
from tests.bench.measure import Block, Pair, Result

ROUNDS = 31
DECISIONS = 2_000
MOST = 3.0

PATTERNS = 4_000
APPLIANCES = 12
OCCURRENCES = 40
GOOD = 0.8  # a repair that truly helps so often, on any appliance, is worth a rule


def run() -> list[Result]:
    """Return the ratio of the decisions, and the false promotions of both ways."""
    few, many = (rules.compile(_rules(number), {"run-backup"}) for number in (5, 500))
    found = asyncio.run(measure.ratios(Pair(_deciding(many), _deciding(few)), ROUNDS))
    return [measure.judged("decide", f"a decision at 500 rules ÷ at 5, {DECISIONS} each", found, MOST), _promotions()]


def _rules(number: int) -> list[Rule]:
    """Return as many rules: most of a pattern, some of a type, two with an expression that any incident asks."""
    made = [_rule(each, Condition("pattern_signature", "eq", f"{each:016x}")) for each in range(number - 4)]
    broad = [
        _rule(number, Condition("incident_type", "eq", "backup_stale"), Condition("facts.age_hours", "gt", 1_000)),
        _rule(number + 1, Condition("incident_type", "in", ("backup_stale", "other")), Condition("check", "eq", "x")),
        _rule(number + 2, Condition("reason", "regex", r"^disk \d+ is (?:full|gone)$")),
        _rule(number + 3, Condition("reason", "contains", "nowhere")),
    ]
    return [*made, *broad]


def _rule(number: int, *conditions: Condition) -> Rule:
    return replace(BUILT_IN[0], id=f"r-{number}", conditions=conditions, runbook="run-backup", priority=number % 7)


def _deciding(compiled: Compiled) -> Block:
    """Decide of incidents in turn: half meet a rule of their pattern, half none at all."""
    asked = [
        {
            "incident_type": "backup_stale",
            "check": "backup",
            "pattern_signature": f"{0 if number % 2 else 10**9:016x}",
            "reason": "the last backup is older than 24 h",
            "facts": {"age_hours": 30},
        }
        for number in range(8)
    ]

    async def block() -> None:
        for fields in itertools.islice(itertools.cycle(asked), DECISIONS):
            rules.first_match(compiled, fields, "high")

    return block


@dataclass(frozen=True)
class _Truth:
    """How often a repair helps, on each appliance, and how often each of these meets the pattern (its weight)."""

    helps: tuple[float, ...]
    meets: tuple[float, ...]

    @property
    def is_good(self) -> bool:
        """Whether a rule for the whole fleet would be right."""
        return sum(self.helps) / len(self.helps) >= GOOD


def _promotions() -> Result:
    """Promote by both ways on the same synthetic history, and compare the shares that should not have been."""
    ours, naive, at_the_end = (_false_share(way) for way in (_ours, _naive, _naive_at_the_end))
    told = [f"{name} {_share(found):.1%} of {found[1]}" for name, found in (("ours", ours), ("naive", naive))]
    what = f"false promotions: {', '.join(told)}; naive, not sticky {_share(at_the_end):.1%}"
    ratio = _share(ours) / max(_share(at_the_end), 1e-9)
    return Result("decide", what, ratio, None, None, "at most 0.50", ratio <= 0.5 and ours[1] > 0)


def _share(found: tuple[int, int]) -> float:
    return found[0] / max(found[1], 1)


def _false_share(promotes: Callable[[_Truth, Sequence[tuple[int, bool]], random.Random], bool]) -> tuple[int, int]:
    """Return how many of the promoted repairs are not good, and how many were promoted."""
    rng, promoted, false = random.Random(7), 0, 0
    for _ in range(PATTERNS):
        truth = _truth(rng)
        history = _history(truth, rng)
        if promotes(truth, history, random.Random(rng.random())):
            promoted, false = promoted + 1, false + (not truth.is_good)
    return false, promoted


def _truth(rng: random.Random) -> _Truth:
    """A repair helps more or less everywhere; or, one in three, on one noisy appliance well and elsewhere badly."""
    if rng.random() < 1 / 3:
        helps = [rng.uniform(0.95, 1.0), *(rng.uniform(0.0, 0.6) for _ in range(APPLIANCES - 1))]
        return _Truth(tuple(helps), (30.0, *(1.0 for _ in range(APPLIANCES - 1))))
    base = rng.betavariate(2, 1)
    helps = [min(max(rng.gauss(base, 0.05), 0.0), 1.0) for _ in range(APPLIANCES)]
    return _Truth(tuple(helps), tuple(1.0 for _ in range(APPLIANCES)))


def _history(truth: _Truth, rng: random.Random) -> list[tuple[int, bool]]:
    """Return occurrences in order: on which appliance, and whether the repair helped."""
    where = rng.choices(range(APPLIANCES), truth.meets, k=rng.randrange(1, OCCURRENCES))
    return [(one, rng.random() < truth.helps[one]) for one in where]


def _naive(_truth: _Truth, history: Sequence[tuple[int, bool]], _rng: random.Random) -> bool:
    """Five occurrences and 90 %, whoever met them, at any moment, and it stays: what others do."""
    successes = list(itertools.accumulate(helped for _, helped in history))
    return any(
        count >= promotion.LEAST_COUNT and sum_ * 100 >= count * promotion.LEAST_PERCENT
        for count, sum_ in enumerate(successes, 1)
    )


def _naive_at_the_end(truth: _Truth, history: Sequence[tuple[int, bool]], rng: random.Random) -> bool:
    """The same threshold, and only once, when everything was seen: no luck on the way counts."""
    helped = sum(each for _, each in history)
    return len(history) >= promotion.LEAST_COUNT and helped * 100 >= len(history) * promotion.LEAST_PERCENT


def _ours(truth: _Truth, history: Sequence[tuple[int, bool]], rng: random.Random) -> bool:
    """Eligible when the person looks, then a trial on an appliance that meets it often, until it is decided."""
    sources = [_source(one, [helped for where, helped in history if where == one]) for one in range(APPLIANCES)]
    if not promotion.weigh(sources).eligible:
        return False
    canary = max(range(APPLIANCES), key=lambda one: sources[one].count)
    fate, after = Fate(0, 0), None
    while after is None:
        fate = Fate(fate.count + 1, fate.successes + (rng.random() < truth.helps[canary]))
        after = promotion.next_status(RuleStatus.CANARY, fate)
    return after is RuleStatus.ACTIVE


def _source(number: int, helped: Sequence[bool]) -> Source:
    return Source(f"s-{number}", f"a-{number}", "run-backup", len(helped), sum(helped), len(helped) * 1_000)
