"""Orders for many appliances go on: the canary first, then a share of the partner's appliances at once.

What happens next is decided with the row locked, so two servers never do it twice; whoever brings a result, or the
next round of any server, carries it on. It pauses by itself when the canary fails, or began and is not heard of again,
or when three in a row fail, and a person resumes it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccserver import ordering
from ccserver.context import Context
from ccserver.errors import BadBodyError, CentralCommandError, NotFoundError, NotPendingError
from ccserver.keys import ServerKeys
from ccserver.ordering import Catalogue, Checked, Who
from ccserver.queries import audit_log, fleet_orders, orders, settings
from ccserver.queries.audit_log import Act
from ccserver.queries.fleet_orders import Draft, FleetOrder, Progress, Target
from ccserver.scope import Database, PartnerScope
from ccshared import ids
from ccshared.runbooks import digest
from ccshared.vocabulary import FleetStatus, SettingLevel

SHARE_PERCENT = 5
FAILURES = 3
UNHEARD_S = 3600  # beyond what a runbook may take: an order may have cut its own appliance off
PAUSED_BY = "server:fleet"
_AT_ONCE = 200  # orders for many that one round carries on
log = logging.getLogger("ccserver.fleets")


@dataclass(frozen=True)
class Means:
    """What orders are signed by and chosen from."""

    keys: ServerKeys
    catalogue: Catalogue


async def begin(scope: PartnerScope, means: Means, checked: Checked, target: Target, who: Who) -> str:
    """Make an order for many and release the canary's, unless it needs approval; return its id.

    BadBodyError when it would be for nobody, or when the canary is not among them.
    """
    if checked.order_id is not None and await fleet_orders.find(scope, checked.order_id) is not None:
        return checked.order_id
    status = FleetStatus.UNAPPROVED if checked.needs_approval else FleetStatus.RUNNING
    draft = Draft(
        id=checked.order_id or ids.new_id(),
        runbook_id=checked.runbook.id,
        runbook_digest=digest(checked.runbook),
        parameters=checked.parameters,
        life_s=checked.life_s,
        status=str(status),
        created_by=who.actor,
        creator=who.person,
    )
    await fleet_orders.insert(scope, draft)
    if not await fleet_orders.add_members(scope, draft.id, target):
        raise BadBodyError("There is no appliance in service for whom this is.")
    (first,) = await fleet_orders.members(scope, draft.id, 1, 0)
    if target.canary_id not in (None, first.appliance_id):
        raise BadBodyError("canary: must be one of the appliances for whom this is.")
    await advance(scope, means, draft.id)
    await _note(scope, "create", draft.id, who.actor)
    return draft.id


async def approve(scope: PartnerScope, means: Means, fleet_order_id: str, who: Who) -> None:
    """Let it begin after a second person agreed."""
    fleet = await _held(scope, fleet_order_id, FleetStatus.UNAPPROVED)
    ordering.check_second(who, fleet.created_by, fleet.creator)
    ordering.check_same(means.catalogue, fleet.runbook_id, fleet.runbook_digest)
    await fleet_orders.start(scope, fleet.id, who.actor)
    await advance(scope, means, fleet.id)
    await _note(scope, "approve", fleet.id, who.actor)


async def pause(scope: PartnerScope, fleet_order_id: str, actor: str) -> None:
    """Stop it until a person resumes it; what no appliance has taken yet is taken back."""
    fleet = await _held(scope, fleet_order_id, FleetStatus.RUNNING)
    await _pause(scope, fleet, f"paused by {actor}")
    await _note(scope, "pause", fleet.id, actor)


async def resume(scope: PartnerScope, means: Means, fleet_order_id: str, actor: str) -> None:
    """Let it go on: failures of before do not count any more, and the canary is left behind."""
    fleet = await _held(scope, fleet_order_id, FleetStatus.PAUSED)
    ordering.check_same(means.catalogue, fleet.runbook_id, fleet.runbook_digest)
    await fleet_orders.resume(scope, fleet.id)
    await advance(scope, means, fleet.id)
    await _note(scope, "resume", fleet.id, actor)


async def cancel(scope: PartnerScope, fleet_order_id: str, actor: str) -> None:
    """End it; what no appliance has taken yet is taken back."""
    fleet = await _held(scope, fleet_order_id, FleetStatus.UNAPPROVED, FleetStatus.RUNNING, FleetStatus.PAUSED)
    await fleet_orders.withdraw(scope, fleet.id, actor)
    await fleet_orders.finish(scope, fleet.id, str(FleetStatus.CANCELLED))
    await _note(scope, "cancel", fleet.id, actor)


async def _note(scope: PartnerScope, action: str, fleet_order_id: str, actor: str) -> None:
    await audit_log.append(scope, Act(actor, f"fleet_order.{action}", fleet_order_id, {}))


async def advance(scope: PartnerScope, means: Means, fleet_order_id: str) -> int:
    """Carry an order for many on as far as may be now; return how many appliances got theirs."""
    fleet = await fleet_orders.lock(scope, fleet_order_id)
    if fleet is None or fleet.status != FleetStatus.RUNNING:
        return 0
    await fleet_orders.skip_gone(scope, fleet.id)
    now = await fleet_orders.progress(scope, fleet.id)
    ends = await fleet_orders.last_ends(scope, fleet.id, fleet.resumed_at, FAILURES)
    reason = why_paused(fleet, now, ends, means.catalogue) or await _why_unheard(scope, fleet, now, means.catalogue)
    if reason is not None:
        await _pause(scope, fleet, reason)
        return 0
    if not now.waiting and not now.active:
        await fleet_orders.finish(scope, fleet.id, str(FleetStatus.DONE))
        return 0
    return await _release(scope, means, fleet, room(fleet, now))


def why_paused(fleet: FleetOrder, now: Progress, ends: Sequence[str], catalogue: Catalogue) -> str | None:
    """Return why it must wait for a person; `ends` are how the last orders ended since it was resumed, newest first."""
    runbook = catalogue.get(fleet.runbook_id)
    if now.waiting and (runbook is None or digest(runbook) != fleet.runbook_digest):
        return "the catalogue has another runbook of this name by now"
    if on_trial(fleet, now) and ends and ends[0] != "succeeded":
        return "the canary failed"
    if len(ends) == FAILURES and "succeeded" not in ends:
        return f"{FAILURES} failures in a row"
    return None


async def _why_unheard(scope: PartnerScope, fleet: FleetOrder, now: Progress, catalogue: Catalogue) -> str | None:
    """Return that a canary began and is not heard of: what it did may be why, and no other follows it."""
    runbook = catalogue.get(fleet.runbook_id)
    if runbook is None or not now.active or not on_trial(fleet, now):
        return None
    longest_s = max((sum(step.time_limit_s for step in each.every_step) for each in runbook.variants), default=0)
    if await fleet_orders.is_unheard(scope, fleet.id, longest_s + UNHEARD_S):
        return "the canary began and nothing was heard of it since"
    return None


def on_trial(fleet: FleetOrder, now: Progress) -> bool:
    """Return whether one appliance at a time tries it: until it succeeded once, or a person resumed it."""
    return now.succeeded == 0 and fleet.resumed_at is None


def room(fleet: FleetOrder, now: Progress) -> int:
    """Return how many more appliances may run it now."""
    most = 1 if on_trial(fleet, now) else max(1, now.in_service * SHARE_PERCENT // 100)
    return max(0, most - now.active)


async def after_result(ctx: Context, partner_id: str, fleet_order_id: str) -> None:
    """Carry an order for many on after one of its orders ended; what goes wrong, the next round does."""
    try:
        async with ctx.db.partner(partner_id) as scope:
            await advance(scope, Means(ctx.keys, ctx.catalogue), fleet_order_id)
    except CentralCommandError as error:
        log.warning("an order for many waits for the next round: %s", error)


async def advance_all(ctx: Context) -> int:
    """Carry every order for many on, of every partner; return how many appliances got theirs."""
    return await advance_every(ctx.db, Means(ctx.keys, ctx.catalogue))


async def advance_every(db: Database, means: Means) -> int:
    """Do one round, each order for many in a transaction of its own; one that fails ends no other."""
    async with db.platform() as platform:
        running = await fleet_orders.list_running(platform, _AT_ONCE)
    released = 0
    for each in running:
        try:
            async with db.partner(each.partner_id) as scope:
                released += await advance(scope, means, each.id)
        except CentralCommandError as error:
            log.warning("an order for many waits for the next round: %s", error)
    return released


async def _release(scope: PartnerScope, means: Means, fleet: FleetOrder, most: int) -> int:
    """Give the next appliances their orders, but none where a stop is on: what was not taken there is taken back."""
    stops = await settings.stops(scope)
    everywhere = any(each.level in (SettingLevel.PLATFORM, SettingLevel.PARTNER) for each in stops)
    sites = [each.target_id for each in stops if each.level == SettingLevel.SITE]
    if everywhere or sites:
        await fleet_orders.withdraw(scope, fleet.id, PAUSED_BY, None if everywhere else sites)
    if most < 1 or everywhere:
        return 0
    members = await fleet_orders.next_members(scope, fleet.id, sites, most)
    for member in members:
        draft = _draft(fleet, member)
        await orders.insert(scope, draft)
        await ordering.release(scope, means.keys, draft, fleet.approved_by)
        await fleet_orders.assign(scope, fleet.id, member, draft.id)
    return len(members)


def _draft(fleet: FleetOrder, member: fleet_orders.Member) -> orders.Draft:
    parameters: dict[str, Any] = fleet.parameters
    return orders.Draft(
        id=ids.new_id(),
        site_id=member.site_id,
        appliance_id=member.appliance_id,
        runbook_id=fleet.runbook_id,
        runbook_digest=fleet.runbook_digest,
        parameters=parameters,
        life_s=fleet.life_s,
        wait_s=fleet.life_s,
        created_by=fleet.created_by,
        creator=fleet.creator,
        fleet_order_id=fleet.id,
    )


async def _pause(scope: PartnerScope, fleet: FleetOrder, reason: str) -> None:
    await fleet_orders.withdraw(scope, fleet.id, PAUSED_BY)
    await fleet_orders.pause(scope, fleet.id, reason)


async def _held(scope: PartnerScope, fleet_order_id: str, *wanted: FleetStatus) -> FleetOrder:
    fleet = await fleet_orders.lock(scope, fleet_order_id)
    if fleet is None:
        raise NotFoundError
    if fleet.status not in wanted:
        raise NotPendingError(f"The order for many is {fleet.status}.")
    return fleet
