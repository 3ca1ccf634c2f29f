"""Canonical JSON: the only spelling of a value that this system hashes, signs or accepts.

A strict subset of RFC 8785: UTF-8, keys `[a-z0-9_]{1,64}` sorted by byte, no white space, no floats, integers below
2^53 in size, at most 16 nested containers, at most 256 KiB.
"""

import re
from itertools import chain
from typing import Any

import orjson

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None

# Keys, a line each: one match for all of an object's.
_KEYS = re.compile(r"[a-z0-9_]{1,64}(?:\n[a-z0-9_]{1,64})*")
# Exactly these types: a subclass may print as something else.
_TYPES = frozenset({dict, list, str, int, bool, type(None)})
_TEXT = frozenset({str})
_BAD_KEY = "a key that is not [a-z0-9_]{1,64}"
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class NotCanonicalError(ValueError):
    """The bytes are not canonical JSON."""


def write(value: dict[str, Any], limit: int = MAX_BYTES) -> bytes:
    """Return the canonical bytes of an object; NotCanonicalError when it has none."""
    if type(value) is not dict:
        raise NotCanonicalError("not an object")
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
    """Check types, keys and depth, a level at a time, so that depth is known before anything nests deeper."""
    objects: list[dict[Any, Any]] = [value]
    lists: list[list[Any]] = []
    for _ in range(MAX_DEPTH):
        _check_keys(list(chain.from_iterable(objects)))
        children: list[Any] = []
        for container in objects:
            children += container.values()
        for items in lists:
            children += items
        kinds = set(map(type, children))
        _check_types(kinds)
        objects = [child for child in children if type(child) is dict] if dict in kinds else []
        lists = [child for child in children if type(child) is list] if list in kinds else []
        if not objects and not lists:
            return
    raise NotCanonicalError(f"more than {MAX_DEPTH} nested containers")


def _check_keys(keys: list[Any]) -> None:
    if not keys:
        return
    if set(map(type, keys)) != _TEXT:
        raise NotCanonicalError(_BAD_KEY)
    lines = "\n".join(keys)  # a key that holds a line feed itself makes one more line than there are keys
    if lines.count("\n") != len(keys) - 1 or _KEYS.fullmatch(lines) is None:
        raise NotCanonicalError(_BAD_KEY)


def _check_types(kinds: set[type]) -> None:
    if not kinds <= _TYPES:
        names = ", ".join(sorted(kind.__name__ for kind in kinds - _TYPES))
        raise NotCanonicalError(f"{names} where only objects, lists, text, integers, true, false and null may stand")
