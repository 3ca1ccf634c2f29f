"""Drafts of evidence entries, made from what was scrubbed already; each gets its id and its salt here, once.

A draft that is appended again after a failure keeps both, so that it stands in the log once.
"""

import dataclasses
import secrets
from dataclasses import dataclass
from typing import Any

from ccagent.incidents import Incident, Resolution
from ccagent.scrubbing import Scrubbed
from ccshared import canonical, controls, entries, ids, merkle
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind, Level

# The wall clock (ms UTC) and what is known of it.
Stamp = tuple[int, Clock]


@dataclass(frozen=True)
class Beginning:
    """Why an epoch begins, its public key (hex), the newest receipt of the one before, since when the agent runs."""

    reason: str
    public_key: str
    previous: str | None
    running_since_ms: int
    version: str


def genesis(stamp: Stamp, beginning: Beginning) -> Draft:
    """Return the first entry of an epoch."""
    return _draft(
        Kind.GENESIS,
        stamp,
        {
            "reason": beginning.reason,
            "public_key": beginning.public_key,
            "previous": beginning.previous,
            "running_since": beginning.running_since_ms,
            "version": beginning.version,
        },
    )


def check_run(stamp: Stamp, finding: Scrubbed, since_ms: int) -> Draft:
    """Return what a check found; `since_ms` is since when it says this status."""
    return _draft(
        Kind.CHECK_RUN,
        stamp,
        {
            "check": finding.check,
            "host": finding.host_id,
            "status": str(finding.status),
            "severity": str(finding.severity),
            "reason": finding.reason,
            "since": since_ms,
            "facts": finding.facts,
            "hipaa_controls": controls.hipaa(finding.check),
        },
    )


def escalation(stamp: Stamp, incident: Incident, history: dict[str, Any] | None = None) -> Draft:
    """Return that a person is asked about an incident; `history` is what was tried, or would have been, and why not."""
    return _draft(Kind.ESCALATION, stamp, {**_incident(incident), "level": str(Level.L3), **(history or {})})


def remediation(
    stamp: Stamp, incident: Incident, resolution: Resolution, details: dict[str, Any] | None = None
) -> Draft:
    """Return what was done about an incident, by which level, and how it ended; `details` were scrubbed already."""
    level = None if resolution.level is None else str(resolution.level)
    done = {"level": level, "action": resolution.action, "outcome": str(resolution.outcome)}
    return _draft(Kind.REMEDIATION, stamp, {**_incident(incident), **done, **(details or {})})


def order_result(stamp: Stamp, body: dict[str, Any]) -> Draft:
    """Return how an order ended, or why it was refused; what steps said was scrubbed already."""
    return _draft(Kind.ORDER_RESULT, stamp, body)


def redaction(stamp: Stamp, body: dict[str, Any]) -> Draft:
    """Return that a payload was erased by order: log, seq and leaf of what stood there, and why."""
    return _draft(Kind.REDACTION, stamp, body)


def policy(stamp: Stamp, body: dict[str, Any]) -> Draft:
    """Return that another policy is in force: its version and digest, its mode, what changed."""
    return _draft(Kind.POLICY, stamp, body)


def heartbeat(stamp: Stamp, version: str) -> Draft:
    """Return that the agent is there although nothing else was sealed."""
    return _draft(Kind.HEARTBEAT, stamp, {"version": version})


def clock_step(stamp: Stamp, delta_ms: int) -> Draft:
    """Return that the wall clock moved by so many ms against the clock since boot."""
    return _draft(Kind.CLOCK_STEP, stamp, {"delta_ms": delta_ms})


def gap(stamp: Stamp, body: dict[str, Any] | None = None) -> Draft:
    """Return what could not be kept: count, first, last, reason; without a body, to be filled in by who counts."""
    return _draft(Kind.GAP, stamp, body or {})


def recovered(stamp: Stamp, payload: bytes) -> Draft:
    """Return the entry that carries an old one, as it was sealed, out of a log that ended.

    It keeps the bundle id, so that the server counts it once. One that carries another already is carried unchanged.
    """
    old = canonical.read(payload, entries.MAX_RECOVERED_BYTES)
    body = old["body"]
    if old["kind"] != Kind.RECOVERED:
        leaf = merkle.leaf_hash(payload).hex()
        body = {"log": old["log"], "seq": old["seq"], "leaf": leaf, "payload": payload.decode("utf-8")}
    return dataclasses.replace(_draft(Kind.RECOVERED, stamp, body), bundle_id=old["id"])


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "incident": incident.id,
        "check": incident.check,
        "host": incident.host_id,
        "type": incident.incident_type,
        "severity": incident.severity,
        "reason": incident.reason,
        "pattern_signature": incident.pattern_signature,
        "hipaa_controls": controls.hipaa(incident.check),
    }


def _draft(kind: Kind, stamp: Stamp, body: dict[str, Any]) -> Draft:
    at_ms, clock = stamp
    return Draft(kind=kind, bundle_id=ids.new_bundle_id(), at=at_ms, clock=clock, salt=secrets.token_hex(16), body=body)
