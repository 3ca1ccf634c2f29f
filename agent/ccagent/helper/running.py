"""Orders and repairs: verified here from their signed bytes, recorded, and only then run."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ccagent import clock
from ccagent.helper import journal, pinned, steps
from ccagent.helper.pinned import Pin
from ccagent.helper.places import HelperPlaces
from ccagent.helper.platforms import platform
from ccagent.helper.request import Order, Repair
from ccagent.helper.steps import Done, Ending, Limits
from ccshared import orders, policy, rules, runbooks
from ccshared.orders import KEPT_AFTER_MS, BadOrderError, SignedOrder
from ccshared.policy import BadPolicyError, Policy
from ccshared.runbooks import BadParametersError, BadRunbookError, Runbook, Step, Variant
from ccshared.vocabulary import Risk

REPAIR_KEPT_MS = 31 * 24 * 3_600_000
MAX_OUTPUT = 256 * 1024  # of a whole run
CLOCK_TOLERANCE_MS = 300_000
LOCK_S = 1.0


class RefusedError(Exception):
    """The helper does not do this; the message is the reason, and nothing was begun."""


@dataclass(frozen=True)
class Job:
    """What was verified and may begin: its record, the runbook's variant for this machine, checked parameters."""

    run: journal.Run
    variant: Variant
    parameters: dict[str, int | str]


def order(places: HelperPlaces, request: Order, halt: int) -> dict[str, Any]:
    """Run a signed order once and return its record; the record alone when it was begun before.

    RefusedError when it is not ours to run: signature, target, expiry, runbook, parameters.
    """
    pin = pinned.load(places.pinned)
    try:
        signed = orders.read(request.envelope, [_signer(pin, request.envelope)])
    except BadOrderError as error:
        raise RefusedError(str(error)) from error
    with journal.open_journal(places.journal) as tx:
        now = journal.hear(tx, signed.issued_ms)
    known = recorded(places, "order", signed.id)
    if known is not None:
        return known
    return _carry_out(places, _ordered(pin, signed, request.runbook, now), halt)


def repair(places: HelperPlaces, request: Repair, halt: int) -> dict[str, Any]:
    """Run a runbook of a signed policy once and return its record; the record alone when it was begun before.

    RefusedError when the policy does not allow it, or TooOftenError when the bound on attempts does not.
    """
    pin = pinned.load(places.pinned)
    known = recorded(places, "repair", request.id)
    if known is not None:
        return known
    try:
        allowed = policy.read(request.policy, [_signer(pin, request.policy)])
    except BadPolicyError as error:
        raise RefusedError(str(error)) from error
    with journal.open_journal(places.journal) as tx:
        now = journal.hear(tx, allowed.version)
        newest = journal.hear_policy(tx, allowed.version) if _is_ours(pin, allowed) else False
    if not newest:
        raise RefusedError("the policy is for another appliance, or older than one that was seen")
    return _carry_out(places, _allowed(allowed, request, now), halt)


def recorded(places: HelperPlaces, kind: str, run_id: str) -> dict[str, Any] | None:
    """Return what is recorded of an order or repair; one that nobody runs any more is interrupted from now on."""
    with journal.open_journal(places.journal) as tx:
        known = journal.outcome(tx, kind, run_id)
    if known is None or known["status"] != "running":
        return known
    with _alone(places, patience_s=0) as alone, journal.open_journal(places.journal) as tx:
        if alone:
            journal.interrupt(tx, kind, run_id)
        return journal.outcome(tx, kind, run_id)


def _signer(pin: Pin, envelope: dict[str, Any]) -> bytes:
    """Return the order key that signs now, if an envelope names it and has no member that the signature does not reach.

    One that another has followed since signs nothing any more: it may have been stolen.
    """
    newest = next(reversed(pin.order_keys), None)
    match envelope:
        case {"payloadType": str(), "payload": str(), "signatures": [{"keyid": str() as name, "sig": str()} as by]}:
            if len(envelope) == 3 and len(by) == 2 and name == newest:
                return pin.order_keys[name]
    raise RefusedError("not signed by the newest order key that is pinned here")


def _ordered(pin: Pin, signed: SignedOrder, text: dict[str, Any], now: int) -> Job:
    refused = orders.refuse(signed, pin.site, pin.appliance, now)
    if refused is not None:
        raise RefusedError(refused)
    try:
        runbook = runbooks.from_dict(text)
    except BadRunbookError as error:
        raise RefusedError(f"the runbook is none: {error}") from error
    if runbook.id != signed.runbook or runbooks.digest(runbook) != signed.digest:
        raise RefusedError("the runbook is not the one that was signed")
    run = journal.Run("order", signed.id, runbook.id, "", signed.expires_ms + KEPT_AFTER_MS)
    return _job(run, runbook, dict(signed.parameters))


def _allowed(allowed: Policy, request: Repair, now: int) -> Job:
    if allowed.mode != "heal":
        raise RefusedError(f"the policy says {allowed.mode}: nothing is repaired")
    runbook = _repairing(allowed, request.runbook)
    if runbook.disruptive and not _window_is_open(allowed, now):
        raise RefusedError("this runbook waits for the maintenance window")
    if request.rule is not None and not _rule_says(allowed, request, runbook):
        raise RefusedError("the policy has no such rule for this runbook with these parameters")
    run = journal.Run("repair", request.id, runbook.id, request.host, now + REPAIR_KEPT_MS)
    return _job(run, runbook, dict(request.parameters))


def _repairing(allowed: Policy, runbook_id: str) -> Runbook:
    """Return the policy's runbook of this id, if it may run without anybody's order."""
    runbook = policy.runbook(allowed, runbook_id)
    if runbook is None:
        raise RefusedError("the policy has no such runbook")
    if runbook.people_only:
        raise RefusedError("this runbook is for people only")
    if runbook.risk is Risk.HIGH:
        raise RefusedError("this runbook is of high risk: it takes an order, which two persons agree on")
    return runbook


def _job(run: journal.Run, runbook: Runbook, given: dict[str, Any]) -> Job:
    parameters = _checked(runbook, given)
    variant = runbooks.variant_for(runbook, platform())
    if variant is None:
        raise RefusedError("the runbook has no steps for this kind of machine")
    return Job(run, variant, parameters)


def _checked(runbook: Runbook, given: dict[str, Any]) -> dict[str, int | str]:
    try:
        return runbooks.check_parameters(runbook, given)
    except BadParametersError as error:
        raise RefusedError(f"its parameters are refused: {error}") from error


def _is_ours(pin: Pin, allowed: Policy) -> bool:
    return (allowed.site, allowed.appliance) == (pin.site, pin.appliance)


def _rule_says(allowed: Policy, request: Repair, runbook: Runbook) -> bool:
    """Return whether a rule of this name runs the runbook with what it is asked to run it with now."""
    wanted = _checked(runbook, dict(request.parameters))
    named = [
        rule for rule in (*allowed.rules, *rules.BUILT_IN) if (rule.id, rule.runbook) == (request.rule, runbook.id)
    ]
    return any(_checked(runbook, dict(rule.parameters)) == wanted for rule in named)


def _window_is_open(allowed: Policy, now: int) -> bool:
    """The wall clock says what day it is; one that is behind what the server signed lies."""
    wall = clock.now_ms()
    return wall >= now - CLOCK_TOLERANCE_MS and policy.window_open(allowed, wall)


def _carry_out(places: HelperPlaces, job: Job, halt: int) -> dict[str, Any]:
    """Record, run, record: what is in the journal by then is on the disk before the first step."""
    with _alone(places) as alone:
        if not alone:
            raise RefusedError("another order or repair runs: ask again when it has ended")
        with journal.open_journal(places.journal) as tx:
            fresh = _begin(tx, job, halt)
        if fresh:
            result = _run(job, halt)
            with journal.open_journal(places.journal) as tx:
                journal.finish(tx, job.run, result)
    known = recorded(places, job.run.kind, job.run.id)
    if known is None:
        raise RefusedError("the journal lost what it held")
    return known


def _begin(tx: journal.Tx, job: Job, halt: int) -> bool:
    if journal.outcome(tx, job.run.kind, job.run.id) is not None:
        return False
    if steps.halted(halt):
        raise RefusedError("the helper stops: ask again when it runs")
    if job.run.kind == "repair":
        journal.check_bound(tx, job.run.runbook)
    return journal.begin(tx, job.run)


def _run(job: Job, halt: int) -> dict[str, Any]:
    """Run preconditions and steps until one is not fine; then, after a step, all of the rollback."""
    room = [MAX_OUTPUT]
    variant = job.variant
    done = _until_bad(runbooks.fill(variant.preconditions, job.parameters), halt, room)
    if done and not done[-1].fine:
        return _result(done, "a precondition does not hold")
    done += _until_bad(runbooks.fill(variant.steps, job.parameters), halt, room)
    if not done or done[-1].fine:
        return _result(done, "")
    why = "the time of a step was up" if done[-1].ending is Ending.TOO_LONG else "a step failed"
    if done[-1].ending is Ending.STOPPED or not variant.rollback:
        return _result(done, why)
    undone = [_one(step, halt, room) for step in runbooks.fill(variant.rollback, job.parameters)]
    why += ", and was rolled back" if all(one.fine for one in undone) else ", and so did its rollback"
    return _result([*done, *undone], why)


def _until_bad(wanted: Sequence[Step], halt: int, room: list[int]) -> list[Done]:
    done: list[Done] = []
    for step in wanted:
        done.append(_one(step, halt, room))
        if not done[-1].fine:
            break
    return done


def _one(step: Step, halt: int, room: list[int]) -> Done:
    limit = min(steps.MAX_OUTPUT, room[0])
    done = steps.run(step.argv, step.about, Limits(step.time_limit_s, halt, limit))
    room[0] -= min(limit, len(done.output.encode()))
    return done


def _result(done: Sequence[Done], why: str) -> dict[str, Any]:
    status = "failed" if why else "succeeded"
    if any(one.ending is Ending.STOPPED for one in done):
        status, why = "interrupted", "the helper was stopped while it ran: look at what its steps left"
    return {"status": status, "reason": why, "steps": [one.to_dict() for one in done]}


@contextlib.contextmanager
def _alone(places: HelperPlaces, patience_s: float = LOCK_S) -> Iterator[bool]:
    """Hold the lock of who runs steps, and yield whether it was to be had; the steps do not inherit it.

    It ends with the process that holds it, however that ends. Whoever asks for an outcome has it for a moment.
    """
    descriptor = os.open(places.running, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor, patience_s)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True
