"""The order that erases a payload on an appliance: built in on both sides, made by an approved redaction alone.

It stands in no catalogue, so nobody orders it by hand or for many, and no rule and no planner can name it. An agent
that does not know it yet rejects it as unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ccshared import runbooks
from ccshared.runbooks import BadParametersError, Parameter, Runbook, Value
from ccshared.vocabulary import Kind, Risk

KEPT = frozenset({Kind.GENESIS, Kind.KEY_ROTATION, Kind.REDACTION})  # verifiers need them: they are never erased
_MOST_SEQ = 10**12
RUNBOOK = Runbook(
    id="erase-payload",
    title="Erase a payload that two persons had redacted",
    about="The payload of one receipted entry goes; its leaf and place stay, and a redaction entry tells of it.",
    families=(),
    risk=Risk.HIGH,
    disruptive=False,
    parameters=(
        Parameter("log", "word", "the epoch, as <number>-<8 hex>"),
        Parameter("seq", "integer", "the entry's place", least=1, most=_MOST_SEQ),
        Parameter("leaf", "word", "the entry's leaf, 64 hex"),
        Parameter("redaction", "word", "the redaction's id"),
    ),
    action="erase_payload",
)
ACTION = RUNBOOK.action
DIGEST = runbooks.digest(RUNBOOK)


@dataclass(frozen=True)
class Erasure:
    """What is to be erased: the epoch `<number>-<8 hex>`, the place in it, the leaf (64 hex), by which redaction."""

    log: str
    seq: int
    leaf: str
    redaction: str


def parameters(wanted: Erasure) -> dict[str, Value]:
    """Return the parameters of the order."""
    return {"log": wanted.log, "seq": wanted.seq, "leaf": wanted.leaf, "redaction": wanted.redaction}


def read(given: Mapping[str, Value]) -> Erasure:
    """Return what an order's parameters name; BadParametersError otherwise."""
    found = runbooks.check_parameters(RUNBOOK, given)
    leaf, seq = str(found["leaf"]), found["seq"]
    if len(leaf) != 64 or set(leaf) - set("0123456789abcdef"):
        raise BadParametersError("leaf: 64 lower-case hex digits are needed")
    return Erasure(str(found["log"]), int(seq), leaf, str(found["redaction"]))
