"""Orders: fetched, verified, acknowledged, recorded as started, run once, proved, and told until the server took it.

Only what was parsed from verified bytes is run, and only once: what a crash cuts short is reported and not run again.
What is refused is in evidence; what cannot be judged yet (a log that has no receipt, a full store) waits.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccagent import (
    alarms,
    erasing,
    evidence,
    hands,
    identity,
    incidents,
    order_book,
    order_judging,
    queue,
    repairing,
)
from ccagent.alarms import Alarm
from ccagent.budget import NoRoomError
from ccagent.client import Cause, RequestError
from ccagent.erasing import NotReceiptedError, Target
from ccagent.hands import Done
from ccagent.incidents import Resolution
from ccagent.order_book import Kept
from ccagent.order_judging import Errand, NotYetError, Orders, RefusedError
from ccagent.store import Tx
from ccshared import canonical, erasure, runbooks
from ccshared.entries import Draft
from ccshared.messages import OrderResult, StepResult
from ccshared.orders import SignedOrder
from ccshared.runbooks import Runbook
from ccshared.vocabulary import Level, OrderStatus, Outcome, Status

log = logging.getLogger(__name__)

NO_HELPER_S = 60.0
LOOK_S = 3.0
_GONE = (404, 409, 410, 422)


@dataclass(frozen=True)
class _Judged:
    """A verified order with its runbook out of the signed catalogue, and what it came as."""

    order: SignedOrder
    runbook: Runbook
    envelope: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class _Finished:
    """How an order ended: its id, what the server is told, the proof, and what it means for open incidents."""

    order_id: str
    result: OrderResult
    proof: Draft
    check: tuple[str, str] | None = None
    runbook: str = ""


async def finish_interrupted(these: Orders) -> None:
    """Find out, once after a start, how orders ended that a crash cut short; none is run again."""
    healer = these.healer
    async with healer.hands:
        for kept in healer.store.read(order_book.running):
            done = await hands.outcome(healer.ask, kept.id, healer.scrub_key, hands.AFTER_START_S)
            log.warning("order %s was cut short: %s", kept.id, done.reason or done.status)
            policy = healer.in_force.policy if healer.in_force is not None else None
            await _end(these, kept, done, order_judging.named(policy, kept.runbook))


async def attend(these: Orders) -> None:
    """Tell the results that wait, take the orders that wait, and tell what came of them. RequestError on the way."""
    await tell(these)
    for offered in (await these.client.orders()).orders:
        await take(these, offered)
    await tell(these)


async def tell(these: Orders) -> None:
    """Send each result until the server answers; one that it does not want is not offered again."""
    store = these.healer.store
    for kept in store.read(order_book.unanswered):
        try:
            await these.client.put_order_result(kept.id, OrderResult.model_validate_json(kept.result or "{}"))
        except RequestError as error:
            if not _is_refusal(error):
                raise
            log.warning("the server does not take the result of order %s: %s", kept.id, error)
        await store.write(order_book.answer, kept.id, these.healer.watch.stamp()[0])


async def take(these: Orders, offered: dict[str, Any]) -> None:
    """Run an order that may run, refuse one that may not, and let one wait that cannot be judged yet."""
    sha256 = hashlib.sha256(json.dumps(offered, sort_keys=True).encode()).hexdigest()
    known = identity.load(these.places)
    if known is None:
        return
    try:
        order = await order_judging.read(these, offered, known)
        await _take_ours(these, order, offered, sha256)
    except RefusedError as error:
        await _refuse_unproved(these, sha256, str(error))
    except NotYetError as error:
        log.info("an order waits: %s", error)


async def _take_ours(these: Orders, order: SignedOrder, offered: dict[str, Any], sha256: str) -> None:
    """Go on with an order that is signed and addressed to us."""
    store = these.healer.store
    kept = store.read(order_book.known, order.id)
    if kept is not None:
        if kept.envelope_sha256 != sha256:
            raise RefusedError(f"another order by the id {order.id}, which was taken before")
        await store.write(order_book.ask_again, order.id)  # it was run; the server only lost the answer
        return
    try:
        runbook = await order_judging.judge(these, order)
    except RefusedError as error:
        await _reject(these, order, sha256, str(error))
        return
    status = await _acknowledge(these, order)
    if status is OrderStatus.RUNNING:
        await _reject(these, order, sha256, "it was begun before, by an earlier copy of this appliance")
    elif status is not OrderStatus.ACKNOWLEDGED:
        log.info("order %s is not run: the server says that it is %s", order.id, status or "gone")
    else:
        judged = _Judged(order, runbook, offered, sha256)
        await (_erase(these, judged) if runbook is erasure.RUNBOOK else _run(these, judged))


async def _acknowledge(these: Orders, order: SignedOrder) -> OrderStatus | None:
    """Say that this copy takes an order, and return how it stands: a cancellation is heard here at the latest.

    None when it is gone, or another copy of this appliance took it.
    """
    taker = await these.healer.store.write(order_book.taker, order)
    try:
        return (await these.client.acknowledge_order(order.id, taker)).status
    except RequestError as error:
        if not _is_refusal(error):
            raise
        log.warning("order %s is not for this copy: %s", order.id, error)
        return None


async def _run(these: Orders, judged: _Judged) -> None:
    """Record that the order begins, let it be done, and keep how it ended."""
    healer, order = these.healer, judged.order
    async with healer.hands:
        if judged.runbook.action is None and not await _helper_comes(these, order.id):
            await _reject(these, order, judged.sha256, repairing.NO_HELPER)
            return
        why = order_judging.held_back(healer, order, judged.runbook)  # it may have waited long for its turn
        if why is not None:
            await _reject(these, order, judged.sha256, why)
            return
        at_ms = healer.watch.stamp()[0]
        if not await healer.store.write(order_book.start, order, judged.sha256, at_ms):
            return
        log.info("running order %s: %s", order.id, order.runbook)
        done = await _do(these, judged, at_ms)
        kept = healer.store.read(order_book.known, order.id)
        if kept is not None:
            await _end(these, kept, done, judged.runbook, order)
    healer.repaired()


async def _erase(these: Orders, judged: _Judged) -> None:
    """Erase a payload, tell of it in the log, end the order: one commit, so that a crash leaves all of it or nothing.

    What was erased before is erased: such an order succeeds, and nothing is told twice.
    """
    store, order, wanted = these.healer.store, judged.order, erasure.read(judged.order.parameters)
    stamp = these.healer.watch.stamp()
    targets = store.read(erasing.find, wanted)
    told = erasing.drafts(stamp, targets, wanted)
    said = ", ".join(f"entry {one.seq} of {one.epoch}" for one in targets) or "erased before"
    done = StepResult(about=judged.runbook.title, exit_code=0, output=said[: hands.MAX_OUTPUT])
    result = OrderResult(status=OrderStatus.SUCCEEDED, started_ms=stamp[0], finished_ms=stamp[0], steps=[done])
    kept = Kept(order.id, judged.sha256, order.runbook, order.issued_ms, order.expires_ms, stamp[0], "running", None, 0)
    body = {**_body(kept), **result.model_dump(mode="json"), "digest": order.digest}
    proof = evidence.order_result(stamp, _fitting({**body, "parameters": dict(order.parameters)}))
    finished = _Finished(order.id, result, proof, None, order.runbook)
    try:
        await store.write(_erase_and_finish, judged, targets, told, finished)
    except (NotReceiptedError, NoRoomError) as error:
        raise NotYetError(f"nothing is erased yet: {error}") from error
    store.empty_log()
    log.warning("by order %s erased: %s", order.id, said)


def _erase_and_finish(
    tx: Tx, judged: _Judged, targets: Sequence[Target], told: Sequence[Draft], finished: _Finished
) -> None:
    if order_book.start(tx, judged.order, judged.sha256, finished.proof.at):
        erasing.erase(tx, erasure.read(judged.order.parameters), targets, told)
        _finish(tx, finished)


async def _helper_comes(these: Orders, order_id: str) -> bool:
    """Return whether a helper is there, or comes within a minute."""
    loop = asyncio.get_running_loop()
    until = loop.time() + NO_HELPER_S
    while not await hands.is_there(these.healer.ask, order_id):
        if loop.time() >= until:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _do(these: Orders, judged: _Judged, at_ms: int) -> Done:
    healer, order = these.healer, judged.order
    telling = asyncio.create_task(_say_running(these, order.id, at_ms))
    try:
        if judged.runbook.action is not None:
            return await _errand(these.errands.get(judged.runbook.action), judged)
        request = {"ask": "order", "envelope": judged.envelope, "runbook": runbooks.to_dict(judged.runbook)}
        return await hands.carry_out(healer.ask, request, order.id, healer.scrub_key)
    finally:
        telling.cancel()


async def _say_running(these: Orders, order_id: str, at_ms: int) -> None:
    """Say that it runs, if the line lets us: what counts is the result."""
    try:
        await these.client.put_order_result(order_id, OrderResult(status=OrderStatus.RUNNING, started_ms=at_ms))
    except RequestError as error:
        log.info("the server was not told that order %s runs: %s", order_id, error)


async def _errand(errand: Errand | None, judged: _Judged) -> Done:
    runbook = judged.runbook
    if errand is None:
        return Done("failed", f"this agent does not know {runbook.action}")
    try:
        said = await errand(runbooks.check_parameters(runbook, judged.order.parameters))
    except OSError as error:
        return Done("failed", f"{runbook.title}: {error.strerror}")
    return Done("succeeded", "", ({"about": runbook.title, "exit_code": 0, "output": said[: hands.MAX_OUTPUT]},))


async def _end(
    these: Orders, kept: Kept, done: Done, runbook: Runbook | None, order: SignedOrder | None = None
) -> None:
    """Keep the result, and its proof with it; the check that proves the runbook has the last word."""
    healer = these.healer
    proves = runbook.proves if runbook is not None else None
    post = await repairing.recheck(healer, proves) if proves is not None else None
    proved = post.status if post is not None else None
    succeeded = done.succeeded and proved in (None, Status.PASS)
    reason = done.reason if post is None else f"{done.reason}; {proves}: {post.reason}".removeprefix("; ")
    stamp = healer.watch.stamp()
    result = OrderResult(
        status=OrderStatus.SUCCEEDED if succeeded else OrderStatus.FAILED,
        started_ms=kept.started_ms,
        finished_ms=max(stamp[0], kept.started_ms or 0),
        reason=reason[:2000],
        steps=[StepResult.model_validate(step) for step in done.steps],
        proved=proved,
    )
    body = {**_body(kept), **result.model_dump(mode="json")}
    if order is not None:
        body |= {"digest": order.digest, "parameters": dict(order.parameters)}
    check = (post.host_id, post.check) if post is not None else None
    finished = _Finished(kept.id, result, evidence.order_result(stamp, _fitting(body)), check, kept.runbook)
    await healer.store.write(_finish, finished)


def _body(kept: Kept) -> dict[str, Any]:
    return {
        "order": kept.id,
        "runbook": kept.runbook,
        "issued": kept.issued_ms,
        "expires": kept.expires_ms,
        "envelope": kept.envelope_sha256,
    }


def _fitting(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body that evidence has room for: what steps said gives way before anything else."""
    try:
        canonical.write(body, canonical.MAX_BYTES // 2)
    except canonical.NotCanonicalError:
        return {**body, "steps": [{**step, "output": ""} for step in body.get("steps", ())]}
    return body


def _finish(tx: Tx, finished: _Finished) -> None:
    """Keep result and proof together; incidents that the runbook ended are its orderer's success."""
    at_ms = finished.proof.at
    if not order_book.finish(tx, finished.order_id, finished.result.status, finished.result.model_dump_json(), at_ms):
        return
    succeeded = finished.result.status is OrderStatus.SUCCEEDED
    for incident in incidents.open_rows(tx) if finished.check is not None else ():
        if (incident.host_id, incident.check) == finished.check:
            incidents.count_order(tx, incident.pattern_signature, finished.runbook, succeeded=succeeded)
            if succeeded:
                incidents.settle(tx, incident.id, Resolution(Level.L3, finished.runbook, Outcome.SUCCESS), at_ms)
    _prove(tx, finished.proof)


async def _reject(these: Orders, order: SignedOrder, sha256: str, reason: str) -> None:
    """Keep that an order of ours is not run, with the proof, and tell the server."""
    stamp = these.healer.watch.stamp()
    result = OrderResult(status=OrderStatus.REJECTED, finished_ms=stamp[0], reason=reason[:2000])
    kept = Kept(order.id, sha256, order.runbook, order.issued_ms, order.expires_ms, None, "rejected", None, 0)
    proof = evidence.order_result(stamp, {**_body(kept), "status": "rejected", "reason": reason})
    log.warning("order %s is rejected: %s", order.id, reason)
    await these.healer.store.write(_keep_rejected, order, sha256, result, proof)


def _keep_rejected(tx: Tx, order: SignedOrder, sha256: str, result: OrderResult, proof: Draft) -> None:
    if order_book.reject(tx, order, sha256, result.model_dump_json(), proof.at):
        _say(tx, proof)


async def _refuse_unproved(these: Orders, sha256: str, reason: str) -> None:
    """Put on record, once, that something was offered as an order that is none for us.

    Nothing in it is believed, its id least of all: a forgery must not end the order that it imitates.
    """
    stamp = these.healer.watch.stamp()
    body = {"order": None, "envelope": sha256, "status": "rejected", "reason": reason}
    if await these.healer.store.write(_keep_refused, sha256, reason, evidence.order_result(stamp, body)):
        log.error("what was offered as an order is refused: %s", reason)


def _keep_refused(tx: Tx, sha256: str, reason: str, proof: Draft) -> bool:
    if not order_book.refuse(tx, sha256, reason, proof.at):
        return False
    alarms.sound(tx, Alarm(alarms.ORDER_REFUSED, reason[:200], proof.at), proof.at + alarms.SHOWN_MS)
    _say(tx, proof)
    return True


def _prove(tx: Tx, proof: Draft) -> None:
    if queue.current(tx) is not None:
        queue.append(tx, proof)


def _say(tx: Tx, proof: Draft) -> None:
    """Seal that nothing was done; where there is no room, it is counted among what a gap tells of."""
    if queue.current(tx) is not None:
        queue.offer(tx, proof)


def _is_refusal(error: RequestError) -> bool:
    """Return whether the server said no for good, and not only that it cannot just now."""
    return error.cause is Cause.PERMANENT or error.status in _GONE
