"""Orders are made, approved by a second person where the runbook's risk asks for one, and released: signed and frozen.

What is signed is made once, at the release; the columns are what the signed bytes say, and the database compares them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ccserver.auth import Principal
from ccserver.errors import (
    BadBodyError,
    HealingStoppedError,
    NotFoundError,
    NotPendingError,
    PeopleOnlyError,
    PersonNeededError,
    RunbookUnknownError,
    SecondPersonNeededError,
)
from ccserver.keys import ServerKeys
from ccserver.queries import appliances, audit_log, orders, settings
from ccserver.queries.audit_log import Act
from ccserver.queries.orders import Draft, Release
from ccserver.scope import PLATFORM, PartnerScope, SiteScope
from ccshared import ids
from ccshared.envelope import PayloadType
from ccshared.orders import SignedOrder, make
from ccshared.runbooks import BadParametersError, Runbook, check_parameters, digest
from ccshared.vocabulary import Risk

LIFE_S, MAX_LIFE_S = 3600, 7 * 86_400
APPROVAL_S = 86_400  # how long an order waits for its second person
Catalogue = Mapping[str, Runbook]


@dataclass(frozen=True)
class Who:
    """Who orders or approves, as the audit log names them, and the person behind that: who made an API key."""

    actor: str
    person: str


def who(caller: Principal) -> Who:
    """Return who orders."""
    return Who(caller.actor, caller.person)


def second(caller: Principal) -> Who:
    """Return who approves; PersonNeededError for a key."""
    if caller.user is None:
        raise PersonNeededError
    return who(caller)


@dataclass(frozen=True)
class Wanted:
    """A runbook with its parameters as they were given, and how many seconds a released order of it lives.

    `order_id` is chosen by a form that may be sent twice: it makes one order.
    """

    runbook_id: str
    parameters: dict[str, Any]
    life_s: int = LIFE_S
    order_id: str | None = None


@dataclass(frozen=True)
class Checked:
    """What may be ordered: a runbook of the catalogue, its parameters typed and whole."""

    runbook: Runbook
    parameters: dict[str, Any]
    life_s: int
    order_id: str | None = None

    @property
    def needs_approval(self) -> bool:
        """Whether a second person approves it before it is released."""
        return self.runbook.risk is Risk.HIGH


def check(catalogue: Catalogue, wanted: Wanted) -> Checked:
    """Return what may be ordered; RunbookUnknownError, PeopleOnlyError, or BadBodyError for a parameter."""
    runbook = catalogue.get(wanted.runbook_id)
    if runbook is None:
        raise RunbookUnknownError
    if runbook.people_only:
        raise PeopleOnlyError
    try:
        parameters = dict(check_parameters(runbook, wanted.parameters))
    except BadParametersError as error:
        raise BadBodyError(f"parameters: {error}"[:1000]) from error
    return Checked(runbook, parameters, wanted.life_s, wanted.order_id)


async def push(scope: SiteScope, keys: ServerKeys, appliance_id: str, checked: Checked, who: Who) -> str:
    """Make an order for an appliance of the site, and release it unless it needs approval; return its id.

    It is written down, as all that is done here is.
    """
    if not await appliances.is_in_service(scope, appliance_id):
        raise NotFoundError("There is no such appliance in service at this site.")
    await _demand_no_stop(scope, appliance_id, checked.runbook)
    if checked.order_id is not None and await orders.find(scope, checked.order_id) is not None:
        return checked.order_id
    draft = draft_of(checked, scope.site_id, appliance_id, who)
    await orders.insert(scope, draft)
    if not checked.needs_approval:
        await release(scope, keys, draft, None)
    await _note(scope, "order.create", draft.id, who.actor)
    return draft.id


async def _demand_no_stop(scope: SiteScope, appliance_id: str, runbook: Runbook) -> None:
    """Raise HealingStoppedError where the stop is on; an errand of the agent's own changes nothing and may go."""
    concerned = {PLATFORM, scope.partner_id, scope.site_id, appliance_id}
    if runbook.action is None and any(stop.target_id in concerned for stop in await settings.stops(scope)):
        raise HealingStoppedError


def draft_of(checked: Checked, site_id: str, appliance_id: str, who: Who) -> Draft:
    """Return an order to be made."""
    return Draft(
        id=checked.order_id or ids.new_id(),
        site_id=site_id,
        appliance_id=appliance_id,
        runbook_id=checked.runbook.id,
        runbook_digest=digest(checked.runbook),
        parameters=checked.parameters,
        life_s=checked.life_s,
        wait_s=APPROVAL_S,
        created_by=who.actor,
        creator=who.person,
    )


async def approve(scope: SiteScope, keys: ServerKeys, catalogue: Catalogue, order_id: str, who: Who) -> None:
    """Release an order that waited for a second person; SecondPersonNeededError when it is the first one.

    The runbook must be the one that was ordered: NotPendingError when the catalogue has another by now.
    """
    draft = await orders.lock_unreleased(scope, order_id)
    if draft is None:
        if await orders.find(scope, order_id) is None:
            raise NotFoundError
        raise NotPendingError("The order does not wait for an approval.")
    if draft.fleet_order_id is not None:
        raise NotPendingError("The order is a part of one for many, which is approved as a whole.")
    check_second(who, draft.created_by, draft.creator)
    check_same(catalogue, draft.runbook_id, draft.runbook_digest)
    await _demand_no_stop(scope, draft.appliance_id, catalogue[draft.runbook_id])
    await release(scope, keys, draft, who.actor)
    await _note(scope, "order.approve", order_id, who.actor)


async def cancel(scope: SiteScope, order_id: str, actor: str) -> None:
    """Cancel an order that no appliance has taken yet; NotFoundError, or NotPendingError when one has, or it ended."""
    if not await orders.cancel(scope, order_id, actor):
        found = await orders.find(scope, order_id)
        if found is None:
            raise NotFoundError(f"There is no order {order_id} at this site.")
        raise NotPendingError(f"The order is {found.order.status} already.")
    await _note(scope, "order.cancel", order_id, actor)


async def _note(scope: SiteScope, action: str, order_id: str, actor: str) -> None:
    await audit_log.append(scope, Act(actor, action, order_id, {"site": scope.site_id}))


def check_second(who: Who, created_by: str, creator: str) -> None:
    """Raise SecondPersonNeededError unless whoever approves is another person than who ordered."""
    if {who.actor, who.person} & {created_by, creator}:
        raise SecondPersonNeededError


def check_same(catalogue: Catalogue, runbook_id: str, known_digest: str) -> None:
    """Raise NotPendingError unless the catalogue's runbook is the one that was ordered."""
    runbook = catalogue.get(runbook_id)
    if runbook is None or digest(runbook) != known_digest:
        raise NotPendingError(
            "The catalogue has another runbook of this name by now: cancel the order, make a new one."
        )


async def release(scope: PartnerScope | SiteScope, keys: ServerKeys, draft: Draft, approved_by: str | None) -> None:
    """Sign an order and let its appliance have it; NotPendingError when it does not wait for that any more."""
    now_ms = time.time_ns() // 1_000_000
    signed = SignedOrder(
        id=draft.id,
        site=draft.site_id,
        appliance=draft.appliance_id,
        runbook=draft.runbook_id,
        digest=draft.runbook_digest,
        parameters=draft.parameters,
        issued_ms=now_ms,
        expires_ms=now_ms + draft.life_s * 1000,
    )
    envelope = orjson.dumps(keys.envelope(PayloadType.ORDER, make(signed)))
    made = Release(envelope, signed.issued_ms, signed.expires_ms)
    if not await orders.release(scope, draft, made, approved_by):
        raise NotPendingError
