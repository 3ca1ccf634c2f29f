"""Baselines: what an appliance found in place, proposed by its check runs, and approved by a person who saw it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver import setting_levels
from ccserver.errors import BadBodyError, ChangedMeanwhileError, NotFoundError
from ccserver.queries import audit_log, evidence_bundles, settings
from ccserver.queries.audit_log import Act
from ccserver.queries.evidence_bundles import LatestRun
from ccserver.queries.settings import Change, Made, Place
from ccserver.scope import SiteScope
from ccshared.settings import Value

# The check that proposes it, and which of its facts is the proposal.
OF = {
    "checks.firewall.baseline_sha256": ("firewall", "ruleset_sha256"),
    "checks.antivirus.binary_sha256": ("antivirus", "binary_sha256"),
}


@dataclass(frozen=True)
class Baseline:
    """What is approved (`""`: nothing yet) and at which level, beside what the check found last, and when.

    `proposed` is None while nothing was found; `facts` are all that the check said beside it.
    """

    name: str
    approved: Value
    origin: str
    host_id: str | None
    proposed: str | None
    differs: bool
    facts: dict[str, Any]
    seen_at: datetime | None


async def of(scope: SiteScope, appliance_id: str) -> list[Baseline]:
    """Return each baseline of an appliance, as it is approved and as it is proposed."""
    places = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)
    return await _of(scope, appliance_id, places, await settings.counting(scope, places))


async def of_named(scope: SiteScope, appliance_id: str) -> tuple[str, list[Baseline]]:
    """Return an appliance's hostname and its baselines; NotFoundError without it."""
    places = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)
    found = await settings.counting_of(scope, places, appliance_id)
    if found is None:
        raise NotFoundError
    return found[0], await _of(scope, appliance_id, places, found[1])


async def _of(scope: SiteScope, appliance_id: str, places: Sequence[Place], made: Sequence[Made]) -> list[Baseline]:
    counting = setting_levels.effective(places, made)
    checks = [check for check, _ in OF.values()]
    runs = {run.check_id: run for run in await evidence_bundles.latest_runs(scope, appliance_id, checks)}
    return [_baseline(each, runs.get(OF[each.setting.name][0])) for each in counting if each.setting.name in OF]


def _baseline(now: setting_levels.Effective, run: LatestRun | None) -> Baseline:
    name = now.setting.name
    facts = _facts(run)
    found = facts.get(OF[name][1])
    proposed = found if isinstance(found, str) and _is_taken(now, found) else None
    differs = proposed is not None and proposed != now.value
    host, seen = (run.host_id, run.received_at) if run else (None, None)
    return Baseline(name, now.value, now.origin, host, proposed, differs, facts, seen)


def _is_taken(now: setting_levels.Effective, value: str) -> bool:
    try:
        setting_levels.checked(now.setting, value)
    except BadBodyError:
        return False
    return bool(value)


def _facts(run: LatestRun | None) -> dict[str, Any]:
    said = orjson.loads(run.payload)["body"].get("facts") if run else None
    return said if isinstance(said, dict) else {}


async def approve(scope: SiteScope, appliance_id: str, name: str, seen: str, actor: str) -> None:
    """Make what the appliance proposes its approved baseline; ChangedMeanwhileError when it is not what was seen."""
    found = [each for each in await of(scope, appliance_id) if each.name == name]
    if not found or found[0].proposed != seen:
        raise ChangedMeanwhileError
    place = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)[-1]
    made = {each.name: each.revision for each in await settings.list_of(scope, [place])}
    if await settings.make(scope, place, Change(name, seen, made.get(name, 0), actor)) is None:
        raise ChangedMeanwhileError
    await _note(scope, appliance_id, name, Act(actor, "baseline.approve", "", {"value": seen}))


async def reject(scope: SiteScope, appliance_id: str, name: str, seen: str, actor: str) -> None:
    """Put on record that a person saw what the appliance proposes and refused it: what was approved stays.

    Its check goes on failing until the appliance is put right. ChangedMeanwhileError when it is not what was seen, or
    is approved already.
    """
    found = [each for each in await of(scope, appliance_id) if each.name == name]
    if not found or found[0].proposed != seen or not found[0].differs:
        raise ChangedMeanwhileError
    await _note(scope, appliance_id, name, Act(actor, "baseline.reject", "", {"value": seen}))


async def _note(scope: SiteScope, appliance_id: str, name: str, act: Act) -> None:
    place = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)[-1]
    target = setting_levels.target(place, setting_levels.known(name))
    await audit_log.append(scope, Act(act.actor, act.action, target, act.detail))
