"""Whether what was offered as an order may run, and by which runbook: refused, not yet, or this one.

Nothing here runs or records anything but the order clock; who carries orders out asks here first.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ccagent import alarms, budget, erasing, identity, learning, order_clock, queue, survey
from ccagent.client import Client
from ccagent.erasing import NotReceiptedError, WrongTargetError
from ccagent.healing import Healer
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.policy import STOP
from ccagent.store import Tx
from ccshared import erasure, orders, runbooks
from ccshared.orders import BadOrderError, SignedOrder
from ccshared.policy import Policy
from ccshared.runbooks import BadParametersError, Runbook, Value

STOPPED = "healing is stopped here, by the policy in force"

# What the agent does itself: returns in words what came of it, or raises.
Errand = Callable[[Mapping[str, Value]], Awaitable[str]]  # told its order's parameters; returns what it did


class RefusedError(Exception):
    """The order is not to be run; the message says why."""


class NotYetError(Exception):
    """Whether the order may run cannot be told yet; the message says what is waited for."""


@dataclass
class Orders:
    """What the loop needs: healing's hands and store, the server, errands by their action's name.

    `wanted` says that the server has orders; `policy_now` fetches the policy before an order is judged by it.
    """

    healer: Healer
    client: Client
    places: Places
    errands: Mapping[str, Errand]
    policy_now: Callable[[], Awaitable[None]]
    wanted: asyncio.Event = field(default_factory=asyncio.Event)


async def read(these: Orders, offered: dict[str, Any], known: Identity) -> SignedOrder:
    """Return the order that an order key of ours signed for us; RefusedError for anything else."""
    try:
        order = orders.read(offered, known.signers(offered))
    except BadOrderError as error:
        learned = await learning.learn(these.client, these.places, known)
        if learned is None:
            raise RefusedError(f"no order of our server's: {error}") from error
        await these.policy_now()  # the helper learns the new key with it
        try:
            order = orders.read(offered, learned.signers(offered))
        except BadOrderError as again:
            raise RefusedError(f"no order of our server's: {again}") from again
    if (order.site, order.appliance) != (known.site_id, known.appliance_id):
        raise RefusedError("addressed to another appliance")
    return order


async def judge(these: Orders, order: SignedOrder) -> Runbook:
    """Return the runbook that a verified order may run now; RefusedError or NotYetError when it may not."""
    healer, known = these.healer, identity.load(these.places)
    boot = healer.watch.boot()
    why = orders.refuse(order, order.site, order.appliance, healer.store.read(order_clock.now_ms, boot))
    if why == "issued in the future":
        raise NotYetError(f"order {order.id} was issued later than anything the server signed so far")
    if why is not None:
        raise RefusedError(why)
    if any(one.name == alarms.CLONE for one in healer.store.read(alarms.standing, healer.watch.stamp()[0])):
        raise RefusedError("another copy of this appliance may be running")
    await _check_log(these)
    began_ms = healer.store.read(_genesis_receipted_ms, known.origins if known is not None else "")
    if began_ms is None or not healer.store.read(budget.may_repair):
        raise NotYetError("the log has no receipt yet, or no room to prove what is done")
    if order.issued_ms < began_ms:
        raise RefusedError("issued before this appliance's log began: it may have been run by an earlier copy")
    await healer.store.write(order_clock.hold, boot, order.issued_ms)
    runbook = await _runbook(these, order)
    if runbook is erasure.RUNBOOK:
        _check_erasure(healer, order)
    return runbook


def _check_erasure(healer: Healer, order: SignedOrder) -> None:
    """Raise RefusedError when it is not what stands there that would be erased, NotYetError until it is receipted."""
    try:
        healer.store.read(erasing.find, erasure.read(order.parameters))
    except (BadParametersError, WrongTargetError) as error:
        raise RefusedError(f"nothing is erased: {error}") from error
    except NotReceiptedError as error:
        raise NotYetError(f"order {order.id} erases what the server has no receipt for: {error}") from error


async def _check_log(these: Orders) -> None:
    """Raise NotYetError unless what the server holds of this appliance is what was made here.

    A store put back from a copy, or another copy that goes on, must be found out by the upload before anything runs.
    """
    store = these.healer.store
    theirs = (await these.client.epochs()).epochs
    sizes = {one: store.read(queue.size_of, one.epoch) for one in store.read(queue.all_epochs)}
    seen = survey.compare(sizes, theirs)
    if seen.ahead or seen.strangers or seen.doubled:
        raise NotYetError("the server holds entries of this appliance that were not made here")
    opened = store.read(queue.current)
    head = next((one for one in theirs if opened is not None and one.epoch == opened.epoch), None)
    if opened is None or head is None or head.receipt is None:
        raise NotYetError("the server has no receipt of this log")
    if _root_of(head.receipt) != store.read(queue.root_at, opened.epoch, head.size):
        raise NotYetError("the server holds other entries than those that were made here")


def _root_of(receipt: str) -> bytes | None:
    """Return the root that a receipt names; who signed it does not matter to whether it is another than ours."""
    lines = receipt.split("\n")
    try:
        return base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError):
        return None


async def _runbook(these: Orders, order: SignedOrder) -> Runbook:
    """Return the runbook of the very digest that was signed, out of the signed catalogue, with parameters it takes."""
    runbook = _in_catalogue(these.healer, order)
    if runbook is None:
        await these.policy_now()
        runbook = _in_catalogue(these.healer, order)
    if runbook is None:
        raise RefusedError(f"the runbook {order.runbook} as it was ordered is not in the catalogue")
    if runbook.people_only:
        raise RefusedError(f"the runbook {order.runbook} is for people only")
    if is_stopped(these.healer, runbook):
        raise RefusedError(STOPPED)
    try:
        runbooks.check_parameters(runbook, order.parameters)
    except BadParametersError as error:
        raise RefusedError(f"the runbook {order.runbook} does not take these parameters: {error}") from error
    return runbook


def held_back(healer: Healer, order: SignedOrder, runbook: Runbook) -> str | None:
    """Return why an order that could run when it was judged must not begin now: a stop, or its time is up."""
    if is_stopped(healer, runbook):
        return STOPPED
    return orders.refuse(order, order.site, order.appliance, healer.store.read(order_clock.now_ms, healer.watch.boot()))


def is_stopped(healer: Healer, runbook: Runbook) -> bool:
    """Return whether the stop switch holds a runbook back: all that run steps, ordered too; errands change nothing."""
    return healer.mode == STOP and runbook.action is None


def _in_catalogue(healer: Healer, order: SignedOrder) -> Runbook | None:
    if (order.runbook, order.digest) == (erasure.RUNBOOK.id, erasure.DIGEST):
        return erasure.RUNBOOK  # built in: no catalogue has it
    known = named(healer.in_force.policy if healer.in_force is not None else None, order.runbook)
    return known if known is not None and runbooks.digest(known) == order.digest else None


def named(policy: Policy | None, runbook_id: str) -> Runbook | None:
    """Return the runbook of this id in a policy."""
    return next((one for one in policy.runbooks if one.id == runbook_id), None) if policy is not None else None


def _genesis_receipted_ms(tx: Tx, origins: str) -> int | None:
    """Return when the open log's first receipt was signed (ms UTC); None while there is none for this appliance."""
    opened = queue.current(tx)
    if opened is None or not origins or not opened.origin.startswith(origins):
        return None
    first: int | None = tx.execute(
        "SELECT min(cosigned_at_s) FROM receipts WHERE epoch = ?", (opened.epoch,)
    ).fetchone()[0]
    return None if first is None else first * 1000
