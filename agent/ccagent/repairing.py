"""One repair: decide anew, record the try, let the helper run it, check again, prove it. The flow on one page.

The try is committed before the helper hears of it, so that a crash at any moment counts as one. A repair succeeded when
its check passes afterwards, whatever its steps say.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ccagent import alarms, attempts, budget, evidence, hands, healing, incidents, policy, queue, scrubbing
from ccagent.alarms import Alarm
from ccagent.attempts import Attempt, Moment
from ccagent.budget import NoRoomError
from ccagent.hands import Done
from ccagent.healing import Answer, Decision, Healer
from ccagent.incidents import Incident, Resolution
from ccagent.policy import InForce
from ccagent.resolvers import Fit
from ccagent.scrubbing import Scrubbed
from ccagent.store import Tx
from ccshared import ids, runbooks
from ccshared.entries import Draft
from ccshared.vocabulary import Level, Outcome, Status

log = logging.getLogger(__name__)

LOOK_S = 300.0
NO_HELPER = "no helper runs here, so nothing can be repaired: start cc-agent helper as root"


@dataclass(frozen=True)
class _Ended:
    """A try as it ended: what it was, how it went, what the check says now, and the proof."""

    attempt: Attempt
    incident: Incident
    resolution: Resolution
    reason: str
    now: Moment
    proof: Draft


async def work(healer: Healer) -> None:
    """Repair what is due, for ever; before that, find out what became of tries whose end is not on record."""
    while True:
        healer.stirred.clear()
        await recover(healer)
        await work_off(healer)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await healer.stirred.wait()


async def work_off(healer: Healer) -> int:
    """Repair what is due, one after the other; return how many tries that were."""
    count = 0
    while healer.due:
        incident_id = next(iter(healer.due))
        del healer.due[incident_id]
        async with healer.hands:
            count += await _attend(healer, incident_id)
    return count


async def recover(healer: Healer) -> None:
    """End the tries that a crash left open: as the helper says, else as failed; none is run again."""
    async with healer.hands:
        for attempt in healer.store.read(attempts.unended):
            incident = _incident(healer, attempt.incident_id)
            done = await hands.outcome(
                healer.ask, attempt.repair_id, healer.scrub_key, within_s=hands.BACK_WITHIN_S / 4
            )
            log.warning("the repair %s of %s was cut short: %s", attempt.key[2], attempt.key[1], done.reason)
            await _end(healer, attempt, incident, done)


async def _attend(healer: Healer, incident_id: str) -> bool:
    incident = _incident(healer, incident_id)
    if incident is None or not healer.store.read(budget.may_repair):  # what is repaired must be proved
        return False
    decision = await healing.decide(healer, incident)
    if decision.answer is not Answer.REPAIR or decision.fit is None:
        return False
    attempt = _attempt(incident, decision.fit)
    if not await hands.is_there(healer.ask, attempt.repair_id):
        await ask_person(healer, incident, Decision(Answer.ASK, NO_HELPER, would=decision.would, held_by="helper"))
        return False
    in_force = healer.in_force
    if in_force is None or healer.mode != policy.HEAL:  # it changed meanwhile: this is no try, and is asked anew
        return False
    await healer.store.write(attempts.begin, attempt, healer.now())
    log.info("repairing %s of %s with %s: %s", attempt.key[1], attempt.key[0], attempt.key[2], attempt.why)
    done = await hands.carry_out(healer.ask, _request(in_force, attempt), attempt.repair_id, healer.scrub_key)
    await _end(healer, attempt, incident, done)
    return True


async def ask_person(healer: Healer, incident: Incident, decision: Decision) -> bool:
    """Ask a person, with what was tried and would have been, and prove that; False when one was asked already.

    NoRoomError where there is no room for the proof: then nobody is asked yet, and the next round tries again.
    """
    said = healer.store.read(healing.history, incident.id, decision, healer.mode)
    proof = evidence.escalation(healer.watch.stamp(), incident, said)
    return await healer.store.write(_escalate, incident.id, said, decision.held_by, proof)


def _escalate(tx: Tx, incident_id: str, said: dict[str, Any], held_by: str | None, proof: Draft) -> bool:
    if not incidents.escalate(tx, incident_id, proof.at, held_by):
        return False
    incidents.note_healing(tx, incident_id, said)
    _prove(tx, proof)
    return True


def _incident(healer: Healer, incident_id: str) -> Incident | None:
    return next((one for one in healer.store.read(incidents.open_rows) if one.id == incident_id), None)


def _attempt(incident: Incident, fit: Fit) -> Attempt:
    pre = {"status": "fail", "severity": incident.severity, "reason": incident.reason}
    return Attempt(
        repair_id=ids.new_id(),
        incident_id=incident.id,
        key=healing.key_of(incident, fit.runbook.id),
        level=str(fit.proposal.level),
        rule=fit.proposal.rule,
        why=fit.proposal.why,
        parameters=fit.parameters,
        pre=pre,
    )


def _request(in_force: InForce, attempt: Attempt) -> dict[str, Any]:
    return {
        "ask": "repair",
        "id": attempt.repair_id,
        "policy": in_force.envelope,
        "rule": attempt.rule,
        "runbook": attempt.key[2],
        "parameters": attempt.parameters,
        "host": attempt.key[0],
    }


async def _end(healer: Healer, attempt: Attempt, incident: Incident | None, done: Done) -> None:
    """Check again, and keep how the try ended together with its proof."""
    post = await _post(healer, attempt)
    succeeded = post is not None and post.status is Status.PASS
    outcome = Outcome.SUCCESS if succeeded else Outcome.FAILED
    reason = _reason(done, post)
    if incident is not None:
        resolution = Resolution(Level(attempt.level), attempt.key[2], outcome)
        proof = evidence.remediation(
            healer.watch.stamp(), incident, resolution, _details(healer, attempt, done, post) | {"result": reason}
        )
        ended = _Ended(attempt, incident, resolution, reason, healer.now(), proof)
        try:
            await healer.store.write(_settle, ended, healer.mode)
        except NoRoomError:  # it stays open in the record, and is ended with its proof once there is room
            log.exception("there is no room for the proof of a repair")
    else:
        await healer.store.write(attempts.end, attempt.repair_id, outcome, reason, healer.watch.stamp()[0])
    healer.repaired()


async def _post(healer: Healer, attempt: Attempt) -> Scrubbed | None:
    """Return what the check says now; of two checks that must pass, the one that does not."""
    found = await recheck(healer, attempt.key[1])
    proves = _proves(healer, attempt.key[2])
    if proves not in (None, attempt.key[1]) and found is not None and found.status is Status.PASS:
        return await recheck(healer, str(proves))
    return found


async def recheck(healer: Healer, name: str) -> Scrubbed | None:
    """Return what a check of this machine says now, scrubbed; None where there is no such check."""
    now = datetime.fromtimestamp(healer.watch.stamp()[0] / 1000, UTC)
    found = await healer.examine(name, healer.host(), healer.config.checks, now)
    return None if found is None else scrubbing.scrub(healer.scrub_key, found)


def _proves(healer: Healer, runbook: str) -> str | None:
    known = healer.in_force.policy.runbooks if healer.in_force is not None else ()
    return next((one.proves for one in known if one.id == runbook), None)


def _reason(done: Done, post: Scrubbed | None) -> str:
    if post is None:
        return "no check says whether it helped"
    if post.status is Status.PASS:
        return f"the check passes: {post.reason}"
    why = f"{done.reason}; " if done.reason else ""
    return f"{why}the check says {post.status}: {post.reason}"


def _details(healer: Healer, attempt: Attempt, done: Done, post: Scrubbed | None) -> dict[str, Any]:
    known = healer.in_force.policy.runbooks if healer.in_force is not None else ()
    runbook = next((one for one in known if one.id == attempt.key[2]), None)
    return {
        "attempt": attempt.repair_id,
        "runbook": attempt.key[2],
        "digest": runbooks.digest(runbook) if runbook is not None else None,
        "rule": attempt.rule,
        "why": attempt.why,
        "parameters": attempt.parameters,
        "steps": list(done.steps),
        "pre": attempt.pre,
        "post": None
        if post is None
        else {"status": str(post.status), "severity": str(post.severity), "reason": post.reason},
    }


def _settle(tx: Tx, ended: _Ended, mode: str) -> None:
    """Keep the end of a try: a success settles the incident, and too many of those in a row suppress the runbook."""
    attempt, at_ms = ended.attempt, ended.now.wall_ms
    if not attempts.end(tx, attempt.repair_id, ended.resolution.outcome, ended.reason, at_ms):
        return
    if ended.resolution.outcome is Outcome.SUCCESS:
        incidents.note_healing(tx, ended.incident.id, _told(tx, ended, mode))
        incidents.settle(tx, ended.incident.id, ended.resolution, at_ms)
        if attempts.suppress_if_flapping(tx, attempt.key, ended.now):
            detail = f"{attempt.key[2]} for {attempt.key[1]} of {attempt.key[0]} does not last"
            alarms.forget(tx, alarms.SUPPRESSED)
            alarms.sound(tx, Alarm(alarms.SUPPRESSED, detail, at_ms))
    else:
        incidents.note_healing(tx, ended.incident.id, _told(tx, ended, mode))
        if ended.resolution.level is Level.L2:
            incidents.count_failed_plan(
                tx, ended.incident.pattern_signature, attempt.key[2], max(0, at_ms - ended.incident.created_at_ms)
            )
    _prove(tx, ended.proof)


def _told(tx: Tx, ended: _Ended, mode: str) -> dict[str, Any]:
    return healing.history(tx, ended.incident.id, Decision(Answer.WAIT, ended.reason), mode)


def _prove(tx: Tx, proof: Draft) -> None:
    if queue.current(tx) is not None:
        queue.append(tx, proof)
