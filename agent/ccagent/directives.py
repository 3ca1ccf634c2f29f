"""What the server wants of this appliance: the policy to follow and the orders that wait, when a check-in says so."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ccagent import alarms, evidence, hands, identity, order_book, order_clock, orders_in, policy, queue
from ccagent.alarms import Alarm
from ccagent.client import Client, RequestError
from ccagent.config import Config
from ccagent.healing import Healer
from ccagent.helper_client import HelperAbsentError, HelperRefusedError
from ccagent.order_judging import Errand, Orders
from ccagent.places import Places
from ccagent.policy import InForce, PolicyRefusedError
from ccagent.resolvers.level2 import Planners
from ccagent.store import Tx
from ccagent.uploader import Pace, wait_s
from ccshared.entries import Draft
from ccshared.messages import CheckinAnswer, PlanAnswer, PlanRequest

log = logging.getLogger(__name__)

REFUSED_S = 300.0  # a policy that may not be followed is asked for again, but not at every check-in
PLAN_S = 10.0


@dataclass
class Directives:
    """What check-ins and loops share: healing, the file's settings, and which of policy and orders there is news of.

    `changed` is called when another policy is in force.
    """

    healer: Healer
    places: Places
    config: Config
    pace: Pace
    errands: Mapping[str, Errand]
    changed: Callable[[], None]
    policy_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    orders_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, answer: CheckinAnswer) -> None:
        """Take what a check-in says: whether there is another policy, and whether orders wait."""
        ours = None if self.healer.in_force is None else str(self.healer.in_force.policy.version)
        if answer.policy_etag is not None and answer.policy_etag.strip('"') != ours:
            self.policy_wanted.set()
        if answer.orders_waiting:
            self.orders_wanted.set()

    def load(self) -> None:
        """Put the last good policy in force, if this appliance has one; that it is another's is found out here."""
        known = identity.load(self.places)
        found = policy.load(self.places, self.healer.store, known) if known is not None else None
        self.enforce(found)
        if found is not None and not policy.is_recorded(found, self.healer.store):
            self.policy_wanted.set()  # a crash came between its file and its proof

    def enforce(self, found: InForce | None) -> None:
        """Let a verified policy be in force: its mode, rules and runbooks, and its settings over the file's."""
        self.healer.in_force = found
        self.healer.config = policy.applied(self.config, found)


async def follow_policy(these: Directives, client: Client) -> None:
    """Fetch the policy whenever a check-in says that there is another, for ever.

    What fails is tried again after a pause that grows, or at once when the next check-in says so: it may be a stop.
    """
    failures = 0
    while True:
        await these.policy_wanted.wait()
        these.policy_wanted.clear()
        try:
            await policy_now(these, client)
        except RequestError as error:
            failures += 1
            log.warning("the policy is not fetched: %s", error)
            await _until(these.policy_wanted, wait_s(error, failures, these.pace.uniform))
            these.policy_wanted.set()
        except PolicyRefusedError:
            await asyncio.sleep(REFUSED_S)
        else:
            failures = 0


async def policy_now(these: Directives, client: Client) -> None:
    """Fetch the policy and put it in force; one that may not be followed is put on record. RequestError on the way."""
    healer, known = these.healer, identity.load(these.places)
    if known is None:
        return
    offered = await client.policy()
    try:
        found = await policy.verified(client, these.places, healer.store, known, offered)
    except PolicyRefusedError as error:
        await _refuse(these, policy.digest(offered), str(error))
        raise
    new = await policy.take(found, these.places, healer.store, (healer.watch.stamp(), healer.watch.boot()))
    if new or healer.in_force is None:
        log.info("policy %d is in force: %s", found.policy.version, found.policy.mode)
        these.enforce(found)
        await _tell_helper(healer, client)
        these.changed()


async def _tell_helper(healer: Healer, client: Client) -> None:
    """Let the helper follow the server's keys too, where one runs: it believes only what it verifies itself."""
    with contextlib.suppress(HelperAbsentError, HelperRefusedError, RequestError):
        if await hands.is_there(healer.ask, "keys"):
            told = await client.keys()
            await healer.ask({"ask": "keys", "statements": told.statements})


async def _refuse(these: Directives, digest: str, reason: str) -> None:
    stamp = these.healer.watch.stamp()
    proof = evidence.policy(stamp, {"digest": digest, "status": "refused", "reason": reason})
    if await these.healer.store.write(_keep_refused, digest, reason, proof):
        log.error("the policy that the server gave is not followed: %s", reason)


def _keep_refused(tx: Tx, digest: str, reason: str, proof: Draft) -> bool:
    if not order_book.refuse(tx, digest, reason, proof.at):
        return False
    alarms.sound(tx, Alarm(alarms.POLICY_REFUSED, reason[:200], proof.at), proof.at + alarms.SHOWN_MS)
    if queue.current(tx) is not None:
        queue.offer(tx, proof)
    return True


def orders_of(these: Directives, client: Client) -> Orders:
    """Return what the orders' loop needs."""
    return Orders(
        healer=these.healer,
        client=client,
        places=these.places,
        errands=these.errands,
        policy_now=partial(_policy_for_order, these, client),
        wanted=these.orders_wanted,
    )


async def follow_orders(these: Directives, client: Client) -> None:
    """Attend to orders whenever there are any or a result waits to be told, for ever.

    A check-in that says that orders wait ends the pause after a failure.
    """
    orders, failures = orders_of(these, client), 0
    await orders_in.finish_interrupted(orders)
    while True:
        untold = these.healer.store.read(order_book.unanswered)
        if not untold:
            await these.orders_wanted.wait()
        these.orders_wanted.clear()
        try:
            await orders_in.attend(orders)
        except RequestError as error:
            failures += 1
            log.warning("orders wait: %s", error)
            await _until(these.orders_wanted, wait_s(error, failures, these.pace.uniform))
        else:
            failures = 0


async def _until(event: asyncio.Event, at_most_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


async def _policy_for_order(these: Directives, client: Client) -> None:
    with contextlib.suppress(PolicyRefusedError):
        await policy_now(these, client)


async def once(these: Directives, client: Client) -> None:
    """Do what the last check-in asked for, once; what cannot be done now is for the next time."""
    these.healer.planners = planners(client, these.healer.planners)
    orders = orders_of(these, client)
    await orders_in.finish_interrupted(orders)
    with contextlib.suppress(RequestError, PolicyRefusedError):
        if these.policy_wanted.is_set():
            await policy_now(these, client)
    with contextlib.suppress(RequestError):
        if these.orders_wanted.is_set() or these.healer.store.read(order_book.unanswered):
            await orders_in.attend(orders)


def planners(client: Client, before: Planners) -> Planners:
    """Return the planners with this server among them."""
    return Planners(partial(_plan, client), before.endpoint, before.model)


async def _plan(client: Client, request: PlanRequest) -> PlanAnswer | None:
    """Ask the server within ten seconds; None when it does not answer that, which what is known here must do for."""
    try:
        async with asyncio.timeout(PLAN_S):
            return await client.plan(request)
    except (RequestError, TimeoutError) as error:
        log.info("the server does not plan: %s", error)
        return None


def hold_clock(healer: Healer) -> None:
    """Keep the order clock's time, so that a reboot loses little of it, and forget orders that it is done with."""
    now_ms = healer.store.write_now(order_clock.hold, healer.watch.boot())
    healer.store.write_now(order_book.prune, now_ms)
