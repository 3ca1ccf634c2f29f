"""The policy in force: what the server signed for this appliance. The last good one stays, offline and over restarts.

It is kept as the signed envelope, and verified anew whenever it is read: a file that somebody wrote into counts for
nothing.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ccagent import evidence, files, learning, order_clock, queue
from ccagent.client import Client
from ccagent.clock import Boot
from ccagent.config import Config
from ccagent.evidence import Stamp
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.store import Store, Tx
from ccshared import policy as policies
from ccshared.entries import Draft
from ccshared.policy import BadPolicyError, Policy

log = logging.getLogger(__name__)

OBSERVE, HEAL, STOP = "observe", "heal", "stop"
MAX_BYTES = 1024 * 1024
# What a policy must not say: where things are on this machine is for whoever sits at it.
_LOCAL = frozenset({"agent.state_dir", "agent.server_url", "agent.metrics_file"})


class PolicyRefusedError(Exception):
    """What was offered as a policy is not one that this appliance may follow; the message says why."""


@dataclass(frozen=True)
class InForce:
    """A policy that was verified, and the envelope (DSSE JSON) that the helper verifies for itself."""

    policy: Policy
    envelope: dict[str, Any]


@dataclass(frozen=True)
class Took:
    """A policy that is new here: whose it is, its version (ms UTC), its digest, and the proof of the change."""

    appliance_id: str
    version: int
    digest: str
    summary: dict[str, Any]
    proof: Draft


def mode(in_force: InForce | None) -> str:
    """Return stop, observe or heal; without a policy nothing is repaired, only said."""
    return OBSERVE if in_force is None else str(in_force.policy.mode)


def load(places: Places, store: Store, known: Identity) -> InForce | None:
    """Return the last good policy as its file holds it; None where there is none, or none that may be followed."""
    try:
        data = places.policy.read_bytes()
        offered = json.loads(data[:MAX_BYTES])
        recorded = store.read(_newest, known.appliance_id)
        was_taken = recorded is not None and digest(offered) == recorded[1]
        return check(offered, known, store, former=was_taken)  # it stays in force though its key was followed since
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, PolicyRefusedError) as error:
        log.warning("the policy in %s is not followed: %s", places.policy, error)
        return None


def check(offered: Any, known: Identity, store: Store, *, former: bool = False) -> InForce:
    """Return a policy that our server's order key signed for this site and appliance, no older than the newest taken.

    With `former` an order key of before will do.

    PolicyRefusedError says what is wrong with any other.
    """
    try:
        read = policies.read(offered, known.signers(offered, former=former))
    except BadPolicyError as error:
        raise PolicyRefusedError(str(error)) from error
    if (read.site, read.appliance) != (known.site_id, known.appliance_id):
        raise PolicyRefusedError("it was made for another site or appliance")
    newest = store.read(_newest, known.appliance_id)
    if newest is not None and (read.version, digest(offered)) != newest and read.version <= newest[0]:
        raise PolicyRefusedError(f"version {read.version} is not newer than {newest[0]}, which was in force before")
    return InForce(read, offered)


async def verified(client: Client, places: Places, store: Store, known: Identity, offered: Any) -> InForce:
    """Return a policy that the server gave, following its keys where a new one signed it.

    RequestError when they cannot be asked for, PolicyRefusedError when it may not be followed.
    """
    try:
        return check(offered, known, store)
    except PolicyRefusedError:
        learned = await learning.learn(client, places, known)
        if learned is None:
            raise
    return check(offered, learned, store)


async def take(found: InForce, places: Places, store: Store, now: tuple[Stamp, Boot]) -> bool:
    """Put a policy in force: its file first, then the record and the proof that it changed; False when it was already.

    OSError when the disk refuses.
    """
    before = store.read(taken, found.policy.appliance)
    if is_recorded(found, store):
        if not places.policy.exists():
            files.replace(places.policy, json.dumps(found.envelope).encode())
        return False
    files.replace(places.policy, json.dumps(found.envelope).encode())
    summary = _summarised(found)
    proof = evidence.policy(now[0], {**summary, "changed": _changed(before, summary), "previous": _version(before)})
    took = Took(found.policy.appliance, found.policy.version, summary["digest"], summary, proof)
    await store.write(_keep, took, now[1])
    return True


def is_recorded(found: InForce, store: Store) -> bool:
    """Return whether it is on record that this policy was taken."""
    known = store.read(taken, found.policy.appliance)
    return known is not None and known["digest"] == digest(found.envelope)


def digest(envelope: Any) -> str:
    """Return the hex SHA-256 of the signed payload as it travels."""
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    return hashlib.sha256(str(payload).encode()).hexdigest()


def applied(config: Config, in_force: InForce | None) -> Config:
    """Return the file's settings with the policy's over them; what this version does not know is left out and said."""
    for name, value in sorted(in_force.policy.settings.items()) if in_force else ():
        if name.startswith(("agent.", "checks.")) and name not in _LOCAL:
            config = _with(config, name, value)
    return config


def _with(config: Config, name: str, value: object) -> Config:
    tables = config.model_dump()
    *path, last = name.split(".")
    table: Any = tables
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict) or last not in table:
        log.info("the policy's setting %s is not known to this version", name)
        return config
    table[last] = value if value != "" else _default([*path, last])
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        log.warning("the policy's setting %s is left out: %s", name, error.errors(include_url=False)[0]["msg"])
        return config


def _default(path: list[str]) -> object:
    """Return what a setting is when nobody sets it: text that is empty stands for that."""
    value: Any = Config()
    for part in path:
        value = getattr(value, part)
    return value


def _summarised(found: InForce) -> dict[str, Any]:
    policy = found.policy
    return {
        "version": policy.version,
        "digest": digest(found.envelope),
        "mode": str(policy.mode),
        "canary": policy.canary,
        "settings": [[name, value] for name, value in sorted(policy.settings.items())],
        "rules": [rule.id for rule in policy.rules],
        "runbooks": [runbook.id for runbook in policy.runbooks],
        "left_out": list(policy.refused)[:20],
    }


def _changed(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """Return the names of settings whose value is another than before."""
    old, new = dict(before["settings"] if before else ()), dict(now["settings"])
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _version(before: dict[str, Any] | None) -> int | None:
    return before["version"] if before else None


def _newest(tx: Tx, appliance_id: str) -> tuple[int, str] | None:
    row: tuple[int, str] | None = tx.execute(
        "SELECT version, digest FROM policies WHERE appliance_id = ?", (appliance_id,)
    ).fetchone()
    return row


def taken(tx: Tx, appliance_id: str) -> dict[str, Any] | None:
    """Return what is known of the newest policy that was taken: version (ms UTC), mode, settings, ids."""
    row = tx.execute("SELECT summary FROM policies WHERE appliance_id = ?", (appliance_id,)).fetchone()
    return json.loads(row[0]) if row else None


def _keep(tx: Tx, took: Took, boot: Boot) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO policies (appliance_id, version, digest, summary) VALUES (?, ?, ?, ?)",
        (took.appliance_id, took.version, took.digest, json.dumps(took.summary)),
    )
    order_clock.hold(tx, boot, took.version)
    if queue.current(tx) is not None:
        queue.offer(tx, took.proof)  # a stop must be heard where there is no room to say so
