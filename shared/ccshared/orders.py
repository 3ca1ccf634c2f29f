"""Orders as they are signed: one runbook, for one appliance, once, until it expires."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from ccshared import envelope, strict
from ccshared.envelope import BadEnvelopeError, PayloadType
from ccshared.messages import Id, Milliseconds
from ccshared.runbooks import Digest, ParameterName, Value
from ccshared.runbooks import Id as RunbookId

_DAY_MS = 86_400_000
MAX_LIFE_MS = 31 * _DAY_MS
KEPT_AFTER_MS = 30 * _DAY_MS  # how long an id is kept past its order's expiry
EARLY_MS = 5 * 60_000  # how far ahead of our clock an order may have been issued


class BadOrderError(ValueError):
    """The envelope holds no order: another key, another purpose, other members or types, or a life without measure."""


@dataclass(frozen=True, config=strict.EXACT)
class SignedOrder:
    """What was signed, and all that may be executed; times in ms since 1970, UTC."""

    id: Id
    site: Id
    appliance: Id
    runbook: RunbookId
    digest: Digest
    parameters: Annotated[dict[ParameterName, Value], Field(max_length=20)]
    issued_ms: Milliseconds
    expires_ms: Milliseconds
    v: strict.One = 1


_ORDER = TypeAdapter(SignedOrder)
_MEMBERS = frozenset(SignedOrder.__dataclass_fields__)


def make(order: SignedOrder) -> dict[str, Any]:
    """Return what is signed of an order."""
    return strict.write(_ORDER, order)


def read(envelope_json: Any, order_keys: Iterable[bytes]) -> SignedOrder:
    """Return the order inside an envelope that one of the raw order keys signed; BadOrderError otherwise.

    Every field comes from the verified bytes.
    """
    value = open_by_any(envelope_json, PayloadType.ORDER, order_keys, BadOrderError)
    if value.keys() != _MEMBERS:
        raise BadOrderError("an order has other members")
    try:
        order = strict.read(_ORDER, value)
    except ValueError as error:
        raise BadOrderError(str(error)) from error
    if not 0 < order.expires_ms - order.issued_ms <= MAX_LIFE_MS:
        raise BadOrderError("expires before it was issued, or lives longer than 31 days")
    return order


def refuse(order: SignedOrder, site: str, appliance: str, now_ms: int) -> str | None:
    """Return why this appliance must not run the order now, None when it may; `now_ms` is its order clock."""
    if (order.site, order.appliance) != (site, appliance):
        return "addressed to another appliance"
    if now_ms >= order.expires_ms:
        return "expired"
    if order.issued_ms > now_ms + EARLY_MS:
        return "issued in the future"
    return None


def open_by_any(
    envelope_json: Any, purpose: PayloadType, keys: Iterable[bytes], bad: type[ValueError]
) -> dict[str, Any]:
    """Return what an envelope holds that one of the raw keys signed for this purpose; else raise `bad`, saying why."""
    why = "not by the order key that signs now"
    for key in keys:
        try:
            return envelope.open_envelope(envelope_json, purpose, key)
        except BadEnvelopeError as error:
            why = str(error)
    raise bad(why)
