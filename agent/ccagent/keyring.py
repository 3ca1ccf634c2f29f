"""The server's keys as this appliance comes to trust them: each announced by an order key that it trusts already.

However long it was away, it follows from the key that its enrolment pinned; without an unbroken chain a key is a
stranger's. Only the newest order key counts: who stole an older one can neither order nor announce anything with it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from ccshared import envelope
from ccshared.envelope import BadEnvelopeError, PayloadType
from ccshared.messages import NewServerKey, ServerKey

MAX_STATEMENTS = 10_000


def follow(server: str, pinned: Sequence[ServerKey], statements: Iterable[dict[str, Any]]) -> list[ServerKey]:
    """Return the pinned keys and all that statements (DSSE, oldest first) add to them, oldest first.

    Each is believed that the newest order key up to then signed. A name that is taken stays with its key, whatever is
    said of it later.
    """
    known = list(pinned)
    for statement, _ in zip(statements, range(MAX_STATEMENTS), strict=False):
        said = _opened(statement, known)
        if said is None or said.server != server or not said.name.startswith(f"{server}/server/"):
            continue
        if all((key.use, key.name) != (said.use, said.name) for key in known):
            known.append(ServerKey(use=said.use, name=said.name, public_key=said.public_key))
    return known


def order_key(keys: Sequence[ServerKey]) -> ServerKey | None:
    """Return the order key that signs now: the newest of keys that stand oldest first, None where there is none."""
    return next((key for key in reversed(keys) if key.use == "order"), None)


def witness_of(receipt: str) -> str:
    """Return the name of the key that a receipt says it is by; empty when it has no such line."""
    line = receipt.rstrip("\n").rpartition("\n")[2]
    mark, _, rest = line.partition(" ")
    return rest.partition(" ")[0] if mark == "—" else ""


def _opened(statement: dict[str, Any], known: Sequence[ServerKey]) -> NewServerKey | None:
    """Return what a statement says; None unless the newest order key that is known signed it, for this purpose."""
    key = order_key(known)
    if key is None:
        return None
    try:
        value = envelope.open_envelope(statement, PayloadType.KEYS, bytes.fromhex(key.public_key))
        return NewServerKey.model_validate(value)
    except (BadEnvelopeError, ValidationError):
        return None
