"""What the agent says of itself, from its files and its store; the running agent adds what only it knows."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ccagent import (
    alarms,
    attempts,
    budget,
    clock,
    identity,
    incidents,
    metrics,
    order_book,
    policy,
    queue,
    states,
    verify,
    withholding,
)
from ccagent.alarms import Alarm
from ccagent.incidents import Incident
from ccagent.places import Places
from ccagent.states import State
from ccagent.store import Store

MAX_LISTED = 200


@dataclass
class Vitals:
    """What only the running agent knows; times in ms UTC."""

    started_at_ms: int
    clock: str = "unsync"
    last_patrol_at_ms: int | None = None
    last_checkin_at_ms: int | None = None
    checkin_error: str | None = None
    mode: str = policy.OBSERVE


def status(places: Places, store: Store, vitals: Vitals | None = None) -> dict[str, Any]:
    """Return how the agent is: who it is, what waits and why, when it last heard of its server, what it found."""
    now = clock.now_ms()
    kept = store.read(queue.status)
    patrolled = list(store.read(states.known).values())
    open_ = store.read(incidents.open_rows)
    seen = max((state.seen_at_ms for state in patrolled), default=None)
    return {
        "running": vitals is not None,
        "now_ms": now,
        **_who(places),
        "epoch": kept.epoch,
        "size": kept.size,
        "receipted": kept.watermark,
        "waiting": kept.waiting,
        "waiting_bytes": kept.waiting_bytes,
        "oldest_age_s": None if kept.oldest_at_ms is None else max(0, now - kept.oldest_at_ms) // 1000,
        "last_receipt_size": kept.watermark or None,
        "last_receipt_at_ms": kept.last_receipt_at_ms,
        "withheld": store.read(withholding.count),
        "alarms": [dataclasses.asdict(alarm) for alarm in standing_alarms(store, vitals)],
        "destination": dataclasses.asdict(store.read(queue.destination)),
        "last_patrol_at_ms": (vitals.last_patrol_at_ms if vitals else None) or seen,
        "checks": [_check(state) for state in patrolled],
        "healing": healed(places, store, vitals),
        "open_incidents": len(open_),
        "incidents": [_incident(incident) for incident in open_[:MAX_LISTED]],
        "agent": dataclasses.asdict(vitals) if vitals else None,
    }


def standing_alarms(store: Store, vitals: Vitals | None = None, now_ms: int | None = None) -> list[Alarm]:
    """Return what a person must look at: what happened, payloads that are withheld, and receipts that stay away."""
    now = clock.now_ms() if now_ms is None else now_ms
    found = store.read(alarms.standing, now)
    withheld = store.read(withholding.undelivered, 1)
    if withheld:
        count = store.read(withholding.count)
        found.append(
            Alarm(alarms.WITHHELD, f"the server refuses the payloads of {count} entries", withheld[0].since_ms)
        )
    opened, kept = store.read(queue.current), store.read(queue.status)
    receipt_at_ms = kept.last_receipt_at_ms or (opened.opened_at_ms if opened else None)
    checkin_at_ms = vitals.last_checkin_at_ms if vitals else None
    if receipt_at_ms is not None and alarms.is_silent(receipt_at_ms, checkin_at_ms, now):
        found.append(Alarm(alarms.SILENCE, "check-ins arrive, but no receipt came for 48 h", receipt_at_ms))
    return found


def healed(places: Places, store: Store, vitals: Vitals | None) -> dict[str, Any]:
    """Return whether this appliance repairs, by which policy, what of it is suppressed, and the newest orders."""
    who = _who(places)["appliance"]
    known = store.read(policy.taken, who) if who is not None else None
    return {
        "mode": vitals.mode if vitals is not None else (known["mode"] if known is not None else policy.OBSERVE),
        "policy_version_ms": known["version"] if known is not None else None,
        "tries": store.read(attempts.counts),
        "suppressions": [dataclasses.asdict(one) for one in store.read(attempts.suppressions)],
        "orders": [
            {"id": one.id, "runbook": one.runbook, "status": one.status, "told": bool(one.answered)}
            for one in store.read(order_book.newest)
        ],
    }


def queued(store: Store) -> dict[str, Any]:
    """Return every log with what of it waits, how full the store is, and how it stands with the server."""
    logs = [
        {
            "epoch": log.epoch,
            "origin": log.origin,
            "size": store.read(queue.size_of, log.epoch),
            "receipted": log.watermark,
            "waiting": store.read(queue.to_deliver, log) - log.watermark,
            "open": log.closed_at_ms is None,
        }
        for log in store.read(queue.all_epochs)
    ]
    return {
        "logs": logs,
        "waiting_bytes": store.read(queue.status).waiting_bytes,
        "oldest_at_ms": store.read(queue.status).oldest_at_ms,
        "last_receipt_at_ms": store.read(queue.status).last_receipt_at_ms,
        "room": dataclasses.asdict(store.read(budget.room)),
        "refused": store.read(budget.refused).count,
        "withheld": [dataclasses.asdict(one) for one in store.read(withholding.undelivered, MAX_LISTED)],
        "destination": dataclasses.asdict(store.read(queue.destination)),
    }


def measured(places: Places, store: Store, vitals: Vitals | None) -> str:
    """Return how the agent is as text for Prometheus."""
    aside = list(places.quarantine.iterdir()) if places.quarantine.is_dir() else []
    return metrics.text(status(places, store, vitals), queued(store), len(aside))


def verified(places: Places, store: Store) -> dict[str, Any]:
    """Return what came of verifying every log against the receipts that are held for it."""
    try:
        known = identity.load(places)
    except identity.IdentityUnusableError:
        known = None
    logs = store.read(verify.against_receipts, known.witnesses if known else {})
    return {"whole": all(log.trouble is None for log in logs), "logs": [dataclasses.asdict(log) for log in logs]}


def newest_receipt(store: Store) -> dict[str, Any]:
    """Return the receipt of the newest log that has one, as it was signed; None while nothing is receipted."""
    receipted = [log for log in store.read(queue.all_epochs) if log.receipt is not None]
    newest = receipted[-1] if receipted else None
    return {"origin": newest.origin if newest else None, "receipt": newest.receipt if newest else None}


def open_incidents(store: Store) -> dict[str, Any]:
    """Return the open incidents, oldest first, at most 200, and how many there are."""
    open_ = store.read(incidents.open_rows)
    return {"count": len(open_), "incidents": [_incident(incident) for incident in open_[:MAX_LISTED]]}


def answer(request: dict[str, Any], places: Places, store: Store, vitals: Vitals | None) -> dict[str, Any]:
    """Return the answer to a question: status, queue, incidents, suppressions, metrics, verify, receipt or store."""
    answers: dict[object, Callable[[], dict[str, Any]]] = {
        "status": lambda: status(places, store, vitals),
        "queue": lambda: queued(store),
        "incidents": lambda: open_incidents(store),
        "suppressions": lambda: {
            "suppressions": [dataclasses.asdict(one) for one in store.read(attempts.suppressions)]
        },
        "metrics": lambda: {"text": measured(places, store, vitals)},
        "verify": lambda: verified(places, store),
        "receipt": lambda: newest_receipt(store),
        "store": lambda: {"sqlite": store.read(lambda tx: tx.execute("SELECT sqlite_version()").fetchone()[0])},
    }
    asked = request.get("ask")
    if isinstance(asked, str) and asked in answers:
        return answers[asked]()
    named = "status, queue, incidents, suppressions, metrics, verify or receipt"
    return {"error": f"{str(asked)[:40]!r} is no question: ask for {named}"}


def _who(places: Places) -> dict[str, Any]:
    try:
        known, key, trouble = identity.load(places), identity.load_key(places), None
    except identity.IdentityUnusableError as error:
        known, key, trouble = None, None, str(error)
    return {
        "enrolled": known is not None,
        "identity_error": trouble,
        "server": known.server if known else None,
        "server_url": known.server_url if known else None,
        "site": known.site_id if known else None,
        "appliance": known.appliance_id if known else None,
        "fingerprint": key.fingerprint if key else None,
    }


def _check(state: State) -> dict[str, Any]:
    return {
        "host": state.host_id,
        "check": state.check,
        "status": state.status,
        "severity": state.severity,
        "reason": state.reason,
        "since_ms": state.since_ms,
        "seen_at_ms": state.seen_at_ms,
    }


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.id,
        "host": incident.host_id,
        "type": incident.incident_type,
        "severity": incident.severity,
        "reason": incident.reason,
        "created_at_ms": incident.created_at_ms,
        "last_seen_at_ms": incident.last_seen_at_ms,
        "occurrences": incident.occurrences,
        "escalated": incident.escalated_at_ms is not None,
        "healing": incident.healing,
    }
