"""What a page's form sends."""

import re
from typing import Any, TypeVar
from urllib.parse import parse_qs

import pydantic
from starlette.requests import Request

from ccserver.errors import BadBodyError
from ccserver.http import first_fault, read_body
from ccshared.messages import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)
_REVISION = re.compile(r"[0-9]{1,15}")
LONG_BYTES = 64 * 1024  # of a form with prose: 4,000 letters, each escaped
_FORM_BYTES = 8192
_FORM_FIELDS = 8


async def read_form(request: Request, limit: int = _FORM_BYTES, fields: int = _FORM_FIELDS) -> dict[str, str]:
    """Return the last value of each field of a small urlencoded form, of at most `limit` bytes and so many `fields`."""
    body = await read_body(request, limit)
    try:
        found = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=fields)
    except ValueError as error:  # not ASCII, or more fields
        raise BadBodyError("The body is not a form that this page has.") from error
    return {name: values[-1] for name, values in found.items()}


def message_of(fields: dict[str, str], kind: type[AnyMessage]) -> AnyMessage:
    """Return a form's fields as a message, what was left empty left out; BadBodyError says what is wrong first."""
    given = {name: value for name, value in fields.items() if value and name in kind.model_fields}
    try:
        return kind.model_validate_strings(given)
    except pydantic.ValidationError as error:
        raise BadBodyError(first_fault(error)) from error


def checked(kind: type[AnyMessage], said: dict[str, Any]) -> AnyMessage:
    """Return values as a message; BadBodyError says what is wrong first."""
    try:
        return kind.model_validate(said)
    except pydantic.ValidationError as error:
        raise BadBodyError(first_fault(error)) from error


def revision_of(fields: dict[str, str]) -> int:
    """Return the revision that a form says was read; BadBodyError when it says none."""
    text = fields.get("revision", "")
    if not _REVISION.fullmatch(text):
        raise BadBodyError("The form does not say which revision was read: open the page anew.")
    return int(text)
