"""Becoming known to a server by a one-time code, and opening the log that the evidence goes to.

The device key is on the disk before the server hears of it, and the same code with the same key gets the same answer:
whatever breaks in between, the same command again is right.
"""

import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ccagent import clock, evidence, identity, queue, scrubbing
from ccagent.client import Client, Device, RequestError, TransientError, authorities
from ccagent.evidence import Beginning, Stamp
from ccagent.host import Host
from ccagent.identity import DeviceKey, Enrolment, Identity
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccshared import canonical, ed25519, envelope, purposes
from ccshared.entries import Draft
from ccshared.messages import Enrolled, EnrollRequest, Epochs
from ccshared.purposes import EnrolmentCode

log = logging.getLogger(__name__)

Connect = Callable[[Device | None], Client]

CODE_USED = "this code was used by another device: ask the operator for a new one"
_MAX_RECEIPT = 2000
_REFUSALS = {
    "code-unknown": "the server does not know this code: copy it whole, or ask the operator for a new one",
    "code-used": CODE_USED,
    "code-expired": "this code has expired: ask the operator for a new one",
    "proof-invalid": "the server does not accept this device's proof: is the code from this server? Ask for a new one",
}


class EnrolmentError(Exception):
    """Enrolment did not come about; the message is one sentence with the next step, and nothing is lost."""


class AlreadyEnrolledError(EnrolmentError):
    """This appliance has an identity, and it was not said to replace it."""


@dataclass(frozen=True)
class Server:
    """Where to enrol: the address, and the authorities (PEM) that alone vouch for it, None for those of this system."""

    url: str
    ca: str | None = None


async def enroll(places: Places, server: Server, code: str, hostname: str, *, replace: bool = False) -> Identity:
    """Enrol with a one-time code and write the identity; return it. EnrolmentError, and nothing changed, when refused.

    `hostname` is scrubbed already. A device key that is there is kept, so that what was
    sealed under it can still be delivered.
    """
    if not replace:
        _check_free(places)
    return await enroll_by(partial(Client, server.url, ca=server.ca), places, code, hostname, ca=server.ca)


async def enroll_by(connect: Connect, places: Places, code: str, hostname: str, *, ca: str | None = None) -> Identity:
    """Do the same over clients that `connect` makes, whatever identity there is."""
    named = _parse(code)
    key = identity.ensure_key(places)
    request = EnrollRequest(
        secret=named.secret,
        public_key=key.public.hex(),
        proof=ed25519.sign(key.seed, purposes.enrolment(named.server, named.secret_hash, key.public)).hex(),
        hostname=hostname,
        version=identity.version(),
    )
    answer, url = await _ask(connect, request)
    enrolled = open_answer(answer, named, key.public)
    known = Identity(**enrolled.model_dump(), server_url=url, enrolled_at_ms=clock.now_ms(), ca=ca)
    known = await _asked_for_history(connect, known, key)
    try:
        identity.save(places, known)
    except OSError as error:
        raise EnrolmentError(
            f"{places.identity} cannot be written ({error.strerror}): make room, then enrol again with the same code"
        ) from error
    return known


def open_answer(answer: Any, code: EnrolmentCode, public_key: bytes) -> Enrolled:
    """Return what the server says, once it is signed by the very key that the code names; EnrolmentError if not."""
    try:
        key = _key_named(answer, code.fingerprint)
        enrolled = Enrolled.model_validate(envelope.open_envelope(answer, envelope.PayloadType.ENROLMENT, key))
    except (envelope.BadEnvelopeError, ValidationError) as error:
        raise EnrolmentError(
            "what answered did not prove to be the server that the code is from: check --server-url, or ask the"
            " operator for a new code"
        ) from error
    if enrolled.server != code.server or enrolled.public_key != public_key.hex():
        raise EnrolmentError(
            "the server answered for another server name or device key: ask the operator for a new code"
        )
    if not any(key.use == "witness" for key in enrolled.keys):
        raise EnrolmentError("the server named no key that could sign receipts: tell its operator")
    return enrolled


def connect(who: Enrolment, ca_file: Path | None = None) -> Client:
    """Return a client that speaks to the server as this appliance.

    `ca_file`, where the settings name one, goes before the authority that was given at enrolment: RequestError when it
    cannot be used.
    """
    ca = authorities(ca_file) if ca_file else who.identity.ca
    return Client(who.identity.server_url, device(who), ca=ca)


def device(who: Enrolment) -> Device:
    """Return who asks, for the client."""
    next_seed = who.next_key.seed if who.next_key else None
    earlier = tuple(key.seed for key in who.earlier)
    return Device(who.identity.server, who.identity.appliance_id, who.key.seed, next_seed, earlier)


async def ensure_epoch(store: Store, places: Places, client: Client, stamp: Stamp) -> Epoch:
    """Return the open log of this appliance, begun with a genesis where there is none.

    The server is asked for earlier epochs only while the next number is not known: RequestError when it cannot be.
    The number is used up before the log is begun, so that no two logs get the same.
    """
    who = identity.load_enrolment(places)
    if who is None:
        raise EnrolmentError("this appliance is not enrolled: run cc-agent enroll")
    opened = store.read(queue.current)
    if opened is not None and _belongs(opened, who):
        return opened
    known = who.identity
    if known.next_epoch_number is None:
        known = _with_history(known, await client.epochs())
        if identity.load_enrolment(places) != who:
            raise TransientError("this appliance was enrolled anew meanwhile")
    logs = store.read(queue.all_epochs)
    epoch = identity.use_number(places, known, (log.number for log in logs))
    public_key = who.key.public.hex()
    beginning = Beginning(
        reason="enrolment",
        public_key=public_key,
        previous=_newest_receipt(logs, who) or known.previous_receipt,
        running_since_ms=await store.write(queue.running_since, stamp[0]),
        version=identity.version(),
    )
    begun = Epoch(epoch, known.origins + epoch, public_key, opened_at_ms=stamp[0])
    await store.write(_begin, begun, evidence.genesis(stamp, beginning))
    return begun


def scrubbed_hostname(scrub_key: bytes) -> str:
    """Return this machine's name as it may leave it."""
    return scrubbing.host(scrub_key, Host.here().host_id)


def _parse(code: str) -> EnrolmentCode:
    try:
        return purposes.parse_code(code)
    except purposes.BadCodeError as error:
        raise EnrolmentError("this is no enrolment code (server name/fingerprint/secret): copy it whole") from error


def _check_free(places: Places) -> None:
    known = identity.load(places)
    if known is not None:
        raise AlreadyEnrolledError(
            f"this appliance is enrolled already, at {known.server_url} as {known.appliance_id}:"
            " nothing is to be done, or say --replace"
        )


async def _ask(connect: Connect, request: EnrollRequest) -> tuple[Any, str]:
    """Return the answer, and the address that it came from."""
    try:
        async with connect(None) as client:
            return await client.enroll(request), client.url
    except TransientError as error:
        raise EnrolmentError(f"{error}: nothing is lost, run the same command again") from error
    except RequestError as error:
        raise EnrolmentError(_REFUSALS.get(error.code or "", str(error))) from error


def _key_named(answer: Any, fingerprint: str) -> bytes:
    """Return the order key in the answer whose fingerprint the code gives.

    The answer is not trusted yet; but no other key can have that fingerprint.
    """
    for key in Enrolled.model_validate(_unverified(answer)).keys:
        raw = bytes.fromhex(key.public_key)
        if key.use == "order" and purposes.fingerprint(raw) == fingerprint:
            return raw
    raise envelope.BadEnvelopeError("not from the server that the code names")


def _unverified(answer: Any) -> dict[str, Any]:
    try:
        return canonical.read(base64.b64decode(answer["payload"], validate=True))
    except (KeyError, TypeError, ValueError) as error:  # bad base64 and NotCanonicalError are ValueErrors
        raise envelope.BadEnvelopeError("not an envelope") from error


async def _asked_for_history(connect: Connect, known: Identity, key: DeviceKey) -> Identity:
    """Add what the server knows of earlier epochs; when it does not say, the number stays open and is asked later."""
    try:
        async with connect(device(Enrolment(known, key))) as client:
            return _with_history(known, await client.epochs())
    except RequestError as error:
        log.warning("earlier epochs are not known yet: %s", error)
        return known


def _with_history(known: Identity, history: Epochs) -> Identity:
    """Add the next epoch's number (from 1) and the newest receipt of the earlier ones, which come oldest first."""
    numbers = [int(head.epoch.partition("-")[0]) for head in history.epochs]
    receipts = [head.receipt for head in history.epochs if head.receipt is not None and _is_ours(head.receipt, known)]
    return known.model_copy(
        update={
            "next_epoch_number": max(numbers, default=0) + 1,
            "previous_receipt": receipts[-1] if receipts else None,
        }
    )


def _is_ours(receipt: str, known: Identity) -> bool:
    """Whether it may be a receipt of this appliance's earlier log. Its key may be another (a reinstalled appliance made
    a new one), so whether it verifies is for whoever reads the genesis; it must only be short and of our logs.
    """
    return len(receipt) <= _MAX_RECEIPT and receipt.startswith(known.origins)


def _belongs(log: Epoch, who: Enrolment) -> bool:
    return log.origin.startswith(who.identity.origins) and log.public_key in who.keys


def _newest_receipt(logs: list[Epoch], who: Enrolment) -> str | None:
    receipts = [log.receipt for log in logs if _belongs(log, who) and log.receipt is not None]
    return receipts[-1] if receipts else None


def _begin(tx: Tx, begun: Epoch, genesis: Draft) -> None:
    """Begin a log; one of another server, appliance or key ends, and what of it waits is kept."""
    opened = queue.current(tx)
    if opened is not None:
        queue.close_epoch(tx, opened.epoch, genesis.at, "enrolled anew")
    queue.open_epoch(tx, begun, genesis)
