"""One round of the patrol: check, scrub, remember, answer, prove. The data flow of the agent on one page."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ccagent import attempts, budget, checks, evidence, healing, incidents, policy, queue, repairing, scrubbing, states
from ccagent.budget import NoRoomError
from ccagent.clock import ClockWatch
from ccagent.config import ChecksSettings
from ccagent.evidence import Stamp
from ccagent.finding import Finding
from ccagent.healing import Answer, Healer
from ccagent.host import Host
from ccagent.incidents import Incident, Sighting
from ccagent.resolvers import level3
from ccagent.scrubbing import Scrubbed
from ccagent.states import State
from ccagent.store import Store, Tx
from ccshared import ids
from ccshared.entries import Draft
from ccshared.vocabulary import Status

HEARTBEAT_EVERY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class Patrol:
    """What a round needs; `site_id` is None before enrolment. Without a `healer` a person is asked at once."""

    store: Store
    watch: ClockWatch
    host: Host
    checks: ChecksSettings
    scrub_key: bytes
    version: str
    site_id: str | None = None
    healer: Healer | None = None


@dataclass(frozen=True)
class Summary:
    """What a round did: the scrubbed findings, ids of incidents opened, closed and escalated, entries sealed.

    `refused` is how much routine evidence found no room and is not yet told of.
    """

    at_ms: int
    findings: tuple[Scrubbed, ...]
    opened: tuple[str, ...]
    closed: tuple[str, ...]
    escalated: tuple[str, ...]
    sealed: int
    enrolled: bool
    refused: int


@dataclass(frozen=True)
class _Seen:
    """A finding, the state that it makes, its evidence where that is due, and the incident it is if it fails."""

    finding: Scrubbed
    state: State
    draft: Draft | None
    sighting: Sighting


@dataclass(frozen=True)
class _Beside:
    """What a round seals beside its findings, if that is due, and where the record of tries stood before it."""

    heartbeat: Draft
    gap: Draft
    since: int | None = None


@dataclass(frozen=True)
class _Noted:
    opened: tuple[str, ...]
    closed: tuple[str, ...]
    sealed: int
    enrolled: bool
    refused: int


@dataclass(frozen=True)
class _Answered:
    escalated: bool
    sealed: int


async def round(patrol: Patrol) -> Summary:  # noqa: A001 - the patrol's word for it
    """Check everything once and return what came of it.

    What a check says, the incidents it opens or closes and the evidence of it are one commit; each answer to an
    incident is one more. A round that was cut short in between is made up for by the next.
    """
    began_ms, _ = patrol.watch.stamp()
    since = patrol.store.read(attempts.floor)
    findings = await checks.run_all(patrol.host, patrol.checks, datetime.fromtimestamp(began_ms / 1000, UTC))
    return await take(patrol, findings, since)


async def take(patrol: Patrol, findings: Sequence[Finding], since: int | None = None) -> Summary:
    """Keep what checks said, with its incidents and evidence, and answer the incidents that nobody answered yet.

    `since` is where the record of tries stood before the checks ran: what was tried meanwhile opens and closes nothing.
    """
    steps = await _note_step(patrol)
    scrubbed = [scrubbing.scrub(patrol.scrub_key, finding) for finding in findings]
    stamp = patrol.watch.stamp()
    seen = _compare(patrol, scrubbed, stamp)
    beside = _Beside(evidence.heartbeat(stamp, patrol.version), evidence.gap(stamp), since)
    noted = await patrol.store.write(_note, seen, beside)
    waiting = patrol.store.read(_unanswered, patrol.healer)
    answers = await asyncio.gather(*(_answer(patrol, incident) for incident in waiting))
    return Summary(
        at_ms=stamp[0],
        findings=tuple(scrubbed),
        opened=noted.opened,
        closed=noted.closed,
        escalated=tuple(one.id for one, answer in zip(waiting, answers, strict=True) if answer.escalated),
        sealed=steps + noted.sealed + sum(answer.sealed for answer in answers),
        enrolled=noted.enrolled,
        refused=noted.refused,
    )


def _compare(patrol: Patrol, findings: Sequence[Scrubbed], stamp: Stamp) -> list[_Seen]:
    """Set each finding beside what was known; only the patrol writes states, so they are still so when it does."""
    known = patrol.store.read(states.known)
    seen = []
    for finding in findings:
        before = known.get((finding.host_id, finding.check))
        state = states.following(before, finding, stamp[0])
        due = states.is_due(before, state)
        draft = evidence.check_run(stamp, finding, state.since_ms) if due else None
        sighting = Sighting(finding, stamp[0], ids.new_id(stamp[0]), patrol.site_id)
        seen.append(_Seen(finding, state, draft, sighting))
    return seen


def _note(tx: Tx, seen: Sequence[_Seen], beside: _Beside) -> _Noted:
    """Keep states, incidents and evidence of a round together. Before enrolment nothing is sealed.

    Evidence that finds no room is counted, and its state goes on as if it were sealed: the count tells how often
    something was due and not kept.
    """
    enrolled = queue.current(tx) is not None
    queue.running_since(tx, beside.heartbeat.at)
    opened: list[str] = []
    closed: list[str] = []
    sealed = int(queue.tell_of_refused(tx, beside.gap) is not None)
    under_repair = attempts.touched(tx, beside.since) if beside.since is not None else frozenset()
    for one in seen:
        if one.state.key not in under_repair:
            opened += [one.sighting.new_id] if _opens(tx, one) else []
            closed += _closed(tx, one)
        sealed += _seal(tx, one, enrolled)
    if enrolled and _is_silent(tx, beside.heartbeat.at):
        sealed += queue.offer(tx, beside.heartbeat) is not None
    return _Noted(tuple(opened), tuple(closed), sealed, enrolled, budget.refused(tx).count)


def _opens(tx: Tx, one: _Seen) -> bool:
    return one.finding.status is Status.FAIL and incidents.see(tx, one.sighting)


def _closed(tx: Tx, one: _Seen) -> list[str]:
    if one.finding.status is not Status.PASS:
        return []
    return incidents.close_passed(tx, *one.state.key, one.state.seen_at_ms)


def _unanswered(tx: Tx, healer: Healer | None) -> list[Incident]:
    may_repair = healer is not None and healer.mode == policy.HEAL
    return incidents.unanswered(tx, may_repair=may_repair)


def _seal(tx: Tx, one: _Seen, enrolled: bool) -> int:
    if one.draft is None or not enrolled:
        states.save(tx, one.state)
        return 0
    kept = queue.offer(tx, one.draft)
    states.save(tx, states.sealed(one.state))
    return int(kept is not None)


def _is_silent(tx: Tx, at_ms: int) -> bool:
    newest = queue.status(tx).newest_at_ms
    return newest is None or at_ms - newest >= HEARTBEAT_EVERY_MS


async def _answer(patrol: Patrol, incident: Incident) -> _Answered:
    """Ask the ladder about an incident: hand it on to be repaired, let it wait, or ask a person and prove that.

    Where there is no room left even for proof, nobody is asked yet, and the next round asks again.
    """
    healer = patrol.healer
    try:
        if healer is None or not patrol.store.read(budget.may_repair):  # what is repaired must be proved
            proof = evidence.escalation(patrol.watch.stamp(), incident, level3.history(level3.NOBODY, "none", ()))
            return await patrol.store.write(_escalate_and_prove, incident, proof)
        decision = await healing.decide(healer, incident)
        if decision.answer is Answer.ASK:
            asked = await repairing.ask_person(healer, incident, decision)
            return _Answered(escalated=asked, sealed=int(asked and patrol.store.read(queue.current) is not None))
    except NoRoomError:
        return _Answered(escalated=False, sealed=0)
    if decision.answer is Answer.REPAIR:
        healer.due[incident.id] = None
        healer.stirred.set()
    said = patrol.store.read(healing.history, incident.id, decision, healer.mode)
    await patrol.store.write(incidents.note_healing, incident.id, said)
    return _Answered(escalated=False, sealed=0)


def _escalate_and_prove(tx: Tx, incident: Incident, proof: Draft) -> _Answered:
    done = incidents.escalate(tx, incident.id, proof.at)
    return _Answered(escalated=done, sealed=_prove(tx, proof) if done else 0)


def _prove(tx: Tx, proof: Draft) -> int:
    """Seal the proof and count it; before enrolment nothing is sealed."""
    if queue.current(tx) is None:
        return 0
    queue.append(tx, proof)
    return 1


async def _note_step(patrol: Patrol) -> int:
    """Seal that the wall clock was moved, and take it as right from then on."""
    delta_ms = patrol.watch.step()
    if delta_ms is None:
        return 0
    try:
        sealed = await patrol.store.write(_prove, evidence.clock_step(patrol.watch.stamp(), delta_ms))
    except NoRoomError:  # it is still a step at the next round
        return 0
    patrol.watch.took_step(delta_ms)
    return sealed
