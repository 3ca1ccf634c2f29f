"""What may be asked: one JSON line with exactly the members of its kind, and nothing that could mean two things."""

import json
from typing import Annotated, Any, Literal, Never

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_REQUEST = 512 * 1024

Ident = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
HostId = Annotated[str, Field(min_length=1, max_length=253)]


class BadRequestError(ValueError):
    """The line is no request; the message says why, and repeats nothing of it."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Read(_Strict):
    """Read something of the fixed list as root."""

    ask: Literal["read"]
    what: Annotated[str, Field(max_length=32)]


class Keys(_Strict):
    """Follow the statements by which the server's keys succeed each other."""

    ask: Literal["keys"]
    statements: list[dict[str, Any]]


class Order(_Strict):
    """Run the runbook of a signed order."""

    ask: Literal["order"]
    envelope: dict[str, Any]
    runbook: dict[str, Any]


class Repair(_Strict):
    """Run a runbook of a signed policy, because the agent saw a check fail."""

    ask: Literal["repair"]
    id: Ident
    policy: dict[str, Any]
    rule: Annotated[str, Field(max_length=128)] | None
    runbook: Ident
    parameters: dict[str, int | str]
    host: HostId


class Outcome(_Strict):
    """Say what became of an order or repair."""

    ask: Literal["outcome"]
    id: Ident


Request = Read | Keys | Order | Repair | Outcome
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="ask")])


def parse(line: bytes) -> Request:
    """Return the request that a line holds (without its line end); BadRequestError for anything else."""
    if len(line) > MAX_REQUEST:
        raise BadRequestError(f"longer than {MAX_REQUEST} bytes")
    try:
        value = json.loads(
            line.decode("utf-8"), object_pairs_hook=_distinct, parse_float=_refuse, parse_constant=_refuse
        )
        return _REQUEST.validate_python(value)
    except ValidationError as error:
        raise BadRequestError(f"not a request of the list ({error.errors()[0]['type']})") from error
    except (ValueError, RecursionError) as error:
        raise BadRequestError("not JSON as it is written here") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a member is named twice")
    return value


def _refuse(text: str) -> Never:
    raise ValueError("a number that is no integer")
