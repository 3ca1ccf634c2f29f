"""One round of the patrol: check, scrub, remember, answer, prove. The data flow of the agent on one page."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ccagent import budget, checks, evidence, incidents, queue, resolvers, scrubbing, states
from ccagent.budget import NoRoomError
from ccagent.clock import ClockWatch
from ccagent.config import ChecksSettings
from ccagent.evidence import Stamp
from ccagent.finding import Finding
from ccagent.host import Host
from ccagent.incidents import Incident, Resolution, Sighting
from ccagent.scrubbing import Scrubbed
from ccagent.states import State
from ccagent.store import Store, Tx
from ccshared import ids
from ccshared.entries import Draft
from ccshared.vocabulary import Outcome, Status

HEARTBEAT_EVERY_MS = 24 * 3_600_000


@dataclass(frozen=True)
class Patrol:
    """What a round needs; `site_id` is None before enrolment, `ladder` is who is asked before a person."""

    store: Store
    watch: ClockWatch
    host: Host
    checks: ChecksSettings
    scrub_key: bytes
    version: str
    site_id: str | None = None
    ladder: Sequence[resolvers.Resolver] = ()


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
    findings = await checks.run_all(patrol.host, patrol.checks, datetime.fromtimestamp(began_ms / 1000, UTC))
    return await take(patrol, findings)


async def take(patrol: Patrol, findings: Sequence[Finding]) -> Summary:
    """Keep what checks said, with its incidents and evidence, and answer the incidents that nobody answered yet."""
    steps = await _note_step(patrol)
    scrubbed = [scrubbing.scrub(patrol.scrub_key, finding) for finding in findings]
    stamp = patrol.watch.stamp()
    seen = _compare(patrol, scrubbed, stamp)
    noted = await patrol.store.write(_note, seen, evidence.heartbeat(stamp, patrol.version), evidence.gap(stamp))
    waiting = patrol.store.read(incidents.unanswered)
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


def _note(tx: Tx, seen: Sequence[_Seen], heartbeat: Draft, gap: Draft) -> _Noted:
    """Keep states, incidents and evidence of a round together. Before enrolment nothing is sealed.

    Evidence that finds no room is counted, and its state goes on as if it were sealed: the count tells how often
    something was due and not kept.
    """
    enrolled = queue.current(tx) is not None
    queue.running_since(tx, heartbeat.at)
    opened: list[str] = []
    closed: list[str] = []
    sealed = int(queue.tell_of_refused(tx, gap) is not None)
    for one in seen:
        if one.finding.status is Status.FAIL and incidents.see(tx, one.sighting):
            opened.append(one.sighting.new_id)
        if one.finding.status is Status.PASS:
            closed += incidents.close_passed(tx, *one.state.key, one.state.seen_at_ms)
        sealed += _seal(tx, one, enrolled)
    if enrolled and _is_silent(tx, heartbeat.at):
        sealed += queue.offer(tx, heartbeat) is not None
    return _Noted(tuple(opened), tuple(closed), sealed, enrolled, budget.refused(tx).count)


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
    """Ask the ladder about an incident and keep its answer together with the proof of it.

    Where there is no room left even for proof, neither is kept, and the next round asks again.
    """
    ladder = patrol.ladder if patrol.store.read(budget.may_repair) else ()  # what is repaired must be proved
    resolution = await resolvers.resolve(ladder, incident)
    stamp = patrol.watch.stamp()
    try:
        if resolution.outcome is Outcome.ESCALATED:
            return await patrol.store.write(_escalate_and_prove, incident, evidence.escalation(stamp, incident))
        proof = evidence.remediation(stamp, incident, resolution)
        return await patrol.store.write(_settle_and_prove, incident, resolution, proof)
    except NoRoomError:
        return _Answered(escalated=False, sealed=0)


def _escalate_and_prove(tx: Tx, incident: Incident, proof: Draft) -> _Answered:
    done = incidents.escalate(tx, incident.id, proof.at)
    return _Answered(escalated=done, sealed=_prove(tx, proof) if done else 0)


def _settle_and_prove(tx: Tx, incident: Incident, resolution: Resolution, proof: Draft) -> _Answered:
    done = incidents.settle(tx, incident.id, resolution, proof.at)
    return _Answered(escalated=False, sealed=_prove(tx, proof) if done else 0)


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
