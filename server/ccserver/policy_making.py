"""The signed policy of each appliance: its settings at their nearest level, rules, and the catalogue of runbooks.

It is made when the appliance asks and something that it is made from changed since; a new version only where it then
says something else. Triggers mark the appliances that a setting or a rule concerns, and the row is held while these are
read, so no change is missed. What no database tells, the order key and the catalogue, is compared as the `basis`.
"""

import functools
import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from ccserver import promotion, setting_levels
from ccserver.context import Context
from ccserver.queries import appliances, policies, rules, settings
from ccserver.queries.rules import Learned
from ccserver.scope import ApplianceScope, SiteScope, widen
from ccserver.tokens import Device
from ccshared import canonical
from ccshared.envelope import PayloadType
from ccshared.policy import MAX_BYTES, MAX_RULES, Policy, Window, make
from ccshared.rules import BUILT_IN, BadRuleError, Rule, to_dict
from ccshared.settings import Value
from ccshared.vocabulary import RuleStatus

FORM = 1  # of what is made here: counted up where the same settings make another policy
_HEALING = "healing."
_SPARE_BYTES = 1024  # for the version, and the name of the key that signs
log = logging.getLogger("ccserver.policy_making")


def basis(ctx: Context) -> str:
    """Return what every policy is made from besides settings and rules, as 32 hex."""
    return _basis(ctx.keys.order.name, ctx.catalogue_digest)


@functools.lru_cache(8)  # asked at each check-in
def _basis(order_key: str, catalogue_digest: str) -> str:
    return hashlib.sha256(f"{FORM}\n{order_key}\n{catalogue_digest}".encode()).hexdigest()[:32]


async def refresh(ctx: Context, device: Device) -> int:
    """Make the appliance's policy anew if what it says has changed; return the version that is in force."""
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        return await _refresh(ctx, scope)


async def refreshed(ctx: Context, device: Device, before: int | None) -> int | None:
    """Do the same for a check-in: what goes wrong is logged, and the version of `before` stays."""
    try:
        return await refresh(ctx, device)
    except Exception:  # whatever it is, the appliance has checked in
        log.exception("a policy could not be made; the appliance keeps the one it has")
        return before


async def current(ctx: Context, device: Device) -> tuple[int, bytes]:
    """Return the version in force and its envelope (DSSE JSON)."""
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        version = await _refresh(ctx, scope)
        envelope = await policies.envelope(scope, scope.appliance_id, version)
    assert envelope is not None  # noqa: S101  kept with its version
    return version, envelope


async def _refresh(ctx: Context, scope: ApplianceScope) -> int:
    held, appliance_id, wanted = await appliances.lock_policy(scope), scope.appliance_id, basis(ctx)
    if held.version and held.basis == wanted:
        return held.version
    site = await widen(scope)
    said = make(await _content(ctx, site, appliance_id))
    hashed = hashlib.sha256(canonical.write(said | {"signed_by": ctx.keys.order.name}, MAX_BYTES)).hexdigest()
    version = held.version
    if not version or await policies.content_hash(site, appliance_id, version) != hashed:
        version = max(time.time_ns() // 1_000_000, version + 1)
        envelope = ctx.keys.envelope(PayloadType.POLICY, said | {"version": version})
        await policies.insert(site, appliance_id, version, hashed, orjson.dumps(envelope))
    await appliances.keep_policy(site, appliance_id, version, wanted)
    return version


async def _content(ctx: Context, site: SiteScope, appliance_id: str) -> Policy:
    """Return what the policy says, as version 0."""
    places = setting_levels.places(site.partner_id, site.site_id, appliance_id)
    values = setting_levels.values(places, await settings.counting(site, places))
    learned = await rules.in_force(site, appliance_id)
    plain = Policy(
        site=site.site_id,
        appliance=appliance_id,
        version=0,
        mode=values["healing.mode"],  # type: ignore[arg-type]  # one of its choices
        window=window(values),
        canary=any(rule.status == RuleStatus.CANARY for rule in learned),
        settings={name: value for name, value in values.items() if not name.startswith(_HEALING)},
        rules=BUILT_IN,
        runbooks=tuple(ctx.catalogue.values()),
    )
    return replace(plain, rules=(*BUILT_IN, *_fitting(plain, _readable(learned))))


def _fitting(plain: Policy, learned: Iterable[Rule]) -> Iterator[Rule]:
    """Give rules while there is room in what can be signed; the rest is left out: a stop must still be heard."""
    room = MAX_BYTES - _SPARE_BYTES - len(canonical.write(make(plain), MAX_BYTES))
    for count, rule in enumerate(learned, len(plain.rules) + 1):
        room -= len(canonical.write(to_dict(rule))) + 1
        if room < 0 or count > MAX_RULES:
            log.warning("rule %s and those after it are left out of the policy of %s: it is full", rule.id, plain.site)
            return
        yield rule


def _readable(learned: Sequence[Learned]) -> Iterator[Rule]:
    """Give the partner's rules that are ones; what is none is left out and logged: the rest must still be heard."""
    for each in learned:
        try:
            yield promotion.as_rule(each.id, each.pattern_signature, each.runbook_id, each.conditions)
        except BadRuleError as error:
            log.warning("rule %s is left out of every policy: %s", each.id, error)


def window(values: Mapping[str, Value]) -> Window | None:
    """Return when disruptive runbooks may run, in UTC; None where no day is said."""
    days = tuple(sorted({int(day) for day in str(values["healing.window_days"])}))
    if not days:
        return None
    return Window(days, int(values["healing.window_from_minute"]), int(values["healing.window_minutes"]))
