"""Canonical JSON: the only spelling of a value that this system hashes, signs or accepts.

A strict subset of RFC 8785: UTF-8, keys `[a-z0-9_]{1,64}` sorted by byte, no white space, no floats, integers below
2^53 in size, at most 16 nested containers, at most 256 KiB.
"""

import re
from typing import Any

import orjson

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None

_KEY = re.compile(r"[a-z0-9_]{1,64}")
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class NotCanonicalError(ValueError):
    """The bytes are not canonical JSON."""


def write(value: dict[str, Any], limit: int = MAX_BYTES) -> bytes:
    """Return the canonical bytes of an object; NotCanonicalError when it has none."""
    _walk(value)
    return _dump(value, limit)


def read(data: bytes, limit: int = MAX_BYTES) -> dict[str, Any]:
    """Return the object that canonical bytes stand for.

    What was parsed is written again and must give the same bytes, so one value has one spelling.
    Raises NotCanonicalError for anything else, however deep or long it is.
    """
    if len(data) > limit:
        raise NotCanonicalError(f"longer than {limit} bytes")
    try:
        value = orjson.loads(data)  # its own limit on depth keeps hostile nesting off the stack
    except orjson.JSONDecodeError as error:
        raise NotCanonicalError("not JSON") from error
    if not isinstance(value, dict):
        raise NotCanonicalError("not an object")
    _walk(value)
    if _dump(value, limit) != data:
        raise NotCanonicalError("another spelling of the same value")
    return value


def _dump(value: dict[str, Any], limit: int) -> bytes:
    try:
        data = orjson.dumps(value, option=_OPTIONS)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise NotCanonicalError("holds an integer of 2^53 or more, or a lone surrogate") from error
    if len(data) > limit:
        raise NotCanonicalError(f"longer than {limit} bytes")
    return data


def _walk(value: dict[str, Any]) -> None:
    """Check types, keys and depth, level by level: depth is known before anything nests deeper."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for container in level for child in _containers_in(container)]
        if not level:
            return
    raise NotCanonicalError(f"more than {MAX_DEPTH} nested containers")


def _containers_in(container: Any) -> list[Any]:
    children = container
    if type(container) is dict:
        if not all(type(key) is str and _KEY.fullmatch(key) for key in container):
            raise NotCanonicalError("a key that is not [a-z0-9_]{1,64}")
        children = container.values()
    found = []
    for child in children:
        kind = type(child)
        if kind is dict or kind is list:
            found.append(child)
        elif kind not in (str, int, bool, type(None)):
            raise NotCanonicalError(
                f"a {kind.__name__} where only text, integer, true, false and null may stand"
            )
    return found
