"""A runbook as a page shows it before it is ordered: exactly what would run, with the parameters in their places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ccserver.errors import BadBodyError, RunbookUnknownError
from ccserver.ordering import LIFE_S, MAX_LIFE_S, Catalogue, Wanted
from ccshared import ids
from ccshared.messages import Id, Message, Word
from ccshared.runbooks import Runbook, Step, Value, Variant, digest, fill

FIELDS = 40  # of a form: the twenty parameters that a runbook may take, and what is asked beside
CHANGED = "The catalogue has another runbook of this name since you looked. Nothing was ordered: look again."
_MARK = "p."  # before the name of a parameter in a form


class Asked(Message):
    """What a form asks for; `digest` is of the runbook that its page showed, `order_id` makes sending it twice one."""

    runbook: Word
    life_minutes: Annotated[int, Field(ge=1, le=MAX_LIFE_S // 60)] = LIFE_S // 60
    digest: str = ""
    order_id: Id | None = None


@dataclass(frozen=True)
class Shown:
    """How it is done on one platform, the values in their places."""

    platform: str
    preconditions: list[Step]
    steps: list[Step]
    rollback: list[Step]


def offered(catalogue: Catalogue) -> list[Runbook]:
    """Return what may be ordered, by title."""
    return sorted((each for each in catalogue.values() if not each.people_only), key=lambda each: each.title)


def choice(catalogue: Catalogue, runbook_id: str | None) -> dict[str, Any]:
    """Return what a form is made of that chooses a runbook and, once one is chosen, asks for its parameters."""
    return {
        "runbooks": offered(catalogue),
        "runbook": find(catalogue, runbook_id) if runbook_id else None,
        "life_minutes": LIFE_S // 60,
        "most_minutes": MAX_LIFE_S // 60,
    }


def find(catalogue: Catalogue, runbook_id: str) -> Runbook:
    """Return a runbook that may be ordered; RunbookUnknownError."""
    for each in offered(catalogue):
        if each.id == runbook_id:
            return each
    raise RunbookUnknownError


def wanted(catalogue: Catalogue, asked: Asked, fields: Mapping[str, str]) -> Wanted:
    """Return what a form's fields ask for, each parameter as its runbook types it; what is left empty is a default."""
    kinds = {each.name: each.kind for each in find(catalogue, asked.runbook).parameters}
    given = {name.removeprefix(_MARK): text for name, text in fields.items() if name.startswith(_MARK) and text}
    typed: dict[str, Any] = {name: _typed(kinds.get(name, ""), text) for name, text in given.items()}
    return Wanted(asked.runbook, typed, asked.life_minutes * 60, asked.order_id)


def _typed(kind: str, text: str) -> Value:
    return int(text) if kind == "integer" and text.isascii() and text.isdecimal() and len(text) < 19 else text


def is_same(runbook: Runbook, asked: Asked) -> bool:
    """Return whether the runbook is the one that the page showed; BadBodyError when the form says of none."""
    if not asked.digest or asked.order_id is None:
        raise BadBodyError("The form does not say what was shown: begin anew.")
    return digest(runbook) == asked.digest


def shown(runbook: Runbook, parameters: Mapping[str, Value]) -> dict[str, Any]:
    """Return what a preview says of a runbook with these parameters, with an id for the order to be made."""
    return {
        "runbook": runbook,
        "parameters": parameters,
        "variants": [_variant(each, parameters) for each in runbook.variants],
        "digest": digest(runbook),
        "order_id": ids.new_id(),
    }


def _variant(variant: Variant, parameters: Mapping[str, Value]) -> Shown:
    filled = (fill(steps, parameters) for steps in (variant.preconditions, variant.steps, variant.rollback))
    return Shown(variant.platform, *filled)
