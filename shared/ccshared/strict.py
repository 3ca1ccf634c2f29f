"""Strict reading of frozen values from JSON: exact types, no number that is true, nothing but the members there are."""

from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ccshared import canonical

T = TypeVar("T")

One = Annotated[int, Field(ge=1, le=1)]  # a literal 1 would take true

EXACT = ConfigDict(strict=True, extra="forbid")
WIDENING = ConfigDict(strict=True, extra="ignore")  # what is signed and may say more one release ahead


def read(kind: TypeAdapter[T], value: Any) -> T:
    """Return the frozen value that an object stands for; ValueError says in one line what is wrong with it."""
    try:
        return kind.validate_json(canonical.write(value), strict=True)
    except ValidationError as error:
        raise ValueError(_told(error)) from error


def write(kind: TypeAdapter[T], value: T) -> dict[str, Any]:
    """Return the object that a frozen value stands for: objects, lists, text, integers, true, false and null."""
    written: dict[str, Any] = kind.dump_python(value, mode="json")
    return written


def _told(error: ValidationError) -> str:
    """Name the first place that is wrong, without the value: it may be anything and any length."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or 'the whole'}: {first['msg']}"
