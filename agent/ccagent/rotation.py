"""A new device key: named by the old one's log as its last entry, and then the key of the next log.

The old key signs until the server has receipted that entry, because only then does it know the new one; whatever breaks
in between, both keys are on the disk, and the server registers the new one together with the entry that names it.
"""

import secrets
from typing import Any

from ccagent import evidence, identity, queue
from ccagent.evidence import Beginning, Stamp
from ccagent.identity import DeviceKey, Enrolment, IdentityUnusableError
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccshared import ed25519, ids, purposes
from ccshared.entries import Draft
from ccshared.vocabulary import Kind

REASON = "key_rotation"


class RotationError(Exception):
    """The device key cannot be rotated now; the message says why."""


def begin(store: Store, places: Places, stamp: Stamp) -> Epoch:
    """End the open log with an entry that names a new key, and open the next log under that key; return it.

    RotationError when there is no log to end, or an earlier rotation is not through yet.
    """
    who = identity.load_enrolment(places)
    ending = store.read(queue.current)
    if who is None or ending is None:
        raise RotationError("there is no log whose key could be rotated: this appliance is not enrolled, or never ran")
    if ending.public_key != who.key.public.hex() or not ending.origin.startswith(who.identity.origins):
        raise RotationError("the log is not by the device key: an earlier rotation is still on its way to the server")
    key = identity.ensure_next_key(places)
    logs = store.read(queue.all_epochs)
    epoch = identity.use_number(places, who.identity, (log.number for log in logs))
    begun = Epoch(epoch, who.identity.origins + epoch, key.public.hex(), opened_at_ms=stamp[0])
    beginning = Beginning(
        reason=REASON,
        public_key=begun.public_key,
        previous=ending.receipt,
        running_since_ms=store.write_now(queue.running_since, stamp[0]),
        version=identity.version(),
    )
    store.write_now(_turn, _names(stamp, who, key), begun, evidence.genesis(stamp, beginning))
    return begun


def answer(store: Store, places: Places, stamp: Stamp) -> dict[str, Any]:
    """Begin a rotation and return what a person is told of it: the next log, the new key's fingerprint, or trouble."""
    try:
        begun = begin(store, places, stamp)
    except (RotationError, IdentityUnusableError) as error:
        return {"trouble": str(error)}
    return {"epoch": begun.epoch, "fingerprint": purposes.fingerprint(bytes.fromhex(begun.public_key)), "trouble": None}


def is_through(tx: Tx, who: Enrolment) -> bool:
    """Return whether the server has receipted the entry that names the next key, and so knows that key."""
    old, new = who.key.public.hex(), who.next_key.public.hex() if who.next_key else None
    logs = queue.all_epochs(tx)
    named = [log for log in logs if log.public_key == old and log.number < max(one.number for one in logs)]
    opened = queue.current(tx)
    return (
        opened is not None
        and opened.public_key == new
        and bool(named)
        and named[-1].watermark == queue.size_of(tx, named[-1].epoch)
    )


def _names(stamp: Stamp, who: Enrolment, key: DeviceKey) -> Draft:
    """Return the entry that names a key, with that key's own signature for this appliance."""
    signed = purposes.new_key(who.identity.server, who.identity.appliance_id, key.public)
    body = {"public_key": key.public.hex(), "signature": ed25519.sign(key.seed, signed).hex()}
    at_ms, clock = stamp
    return Draft(Kind.KEY_ROTATION, ids.new_bundle_id(), at_ms, clock, secrets.token_hex(16), body)


def _turn(tx: Tx, names: Draft, begun: Epoch, genesis: Draft) -> None:
    ended = queue.append(tx, names)
    queue.close_epoch(tx, ended.log.rpartition("/")[2], begun.opened_at_ms, REASON)
    queue.open_epoch(tx, begun, genesis)
