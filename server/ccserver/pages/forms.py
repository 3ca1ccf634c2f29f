"""What a page's form sends."""

from urllib.parse import parse_qs

from starlette.requests import Request

from ccserver.errors import BadBodyError
from ccserver.http import read_body

_FORM_BYTES = 8192
_FORM_FIELDS = 8


async def read_form(request: Request) -> dict[str, str]:
    """Return the last value of each field of a small urlencoded form."""
    body = await read_body(request, _FORM_BYTES)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:  # not ASCII, or more fields
        raise BadBodyError("The body is not a form that this page has.") from error
    return {name: values[-1] for name, values in fields.items()}
