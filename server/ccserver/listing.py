"""Lists, a page at a time: newest first, by offset or by an opaque cursor that only this server can have made."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field

from ccserver.errors import BadCursorError, BadQueryError
from ccshared.messages import Message

MAX_LIMIT = 200
MAX_OFFSET = 10_000
COUNTED_TO = 10_001  # a total stops here; more is not counted
Item = TypeVar("Item")
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9990, 1, 1, tzinfo=UTC)
_WRITTEN_OUT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:]{5}.*")
EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC))  # since and until, where nobody says
START = (datetime(9999, 1, 1, tzinfo=UTC), "~")  # after every id, before every row


def _in_range(moment: datetime) -> datetime:
    return min(max(moment, _EARLIEST), _LATEST)  # beyond, a change of zone overflows, and nothing is


def _is_written_out(value: object) -> object:
    if not isinstance(value, datetime) and not _WRITTEN_OUT.fullmatch(str(value)):  # a bare number would be seconds
        raise ValueError("a date and time as RFC 3339 writes them")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_in_range)]
_CURSOR = "^[0-9A-Za-z_-]{58,500}$"  # a MAC of 16 bytes, a time, a space and an id, in base64url
Cursor = Annotated[str, Field(max_length=500, json_schema_extra={"pattern": _CURSOR})]


class ListQuery(Message):
    """What every list takes. `total` asks for the number of rows, which stops at 10,001."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    offset: Annotated[int, Field(ge=0, json_schema_extra={"maximum": MAX_OFFSET})] = 0
    cursor: Cursor | None = None
    total: bool = False


class Listing(Message, Generic[Item]):
    """A page of a list: `next` is the cursor of what follows, null at the end; `total` null unless asked for."""

    model_config = ConfigDict(frozen=True)

    items: list[Item]
    next: str | None = None
    total: int | None = None


@dataclass(frozen=True)
class Page:
    """Where a page begins: rows beyond (`before`, `before_id`) in newest-first order, `offset` skipped, `limit` taken.

    A query fetches `limit + 1`, so that it is known whether more follow.
    """

    limit: int
    offset: int
    before: datetime
    before_id: str

    @property
    def fetched(self) -> int:
        """How many rows a query asks for."""
        return self.limit + 1


def page_of(asked: ListQuery, key: bytes, name: str) -> Page:
    """Return the page asked for; `name` binds a cursor to its list and partner.

    BadQueryError for an offset beyond 10,000, BadCursorError for a cursor that is not this list's.
    """
    if asked.offset > MAX_OFFSET:
        raise BadQueryError(f"offset: at most {MAX_OFFSET}; follow the cursor in `next` to go further.")
    if asked.cursor is None:
        return Page(asked.limit, asked.offset, *START)
    if asked.offset:
        raise BadQueryError("offset and cursor do not go together.")
    return Page(asked.limit, 0, *_open(asked.cursor, key, name))


def listing(
    rows: Sequence[Item], page: Page, place: Callable[[Item], tuple[datetime, str]], key: bytes, name: str
) -> Listing[Item]:
    """Return a page's rows with the cursor of what follows; `place` gives a row's time and id."""
    shown = list(rows[: page.limit])
    following = seal(*place(shown[-1]), key, name) if len(rows) > page.limit else None
    return Listing(items=shown, next=following)


def seal(moment: datetime, row_id: str, key: bytes, name: str) -> str:
    """Return the cursor of what follows a row's time and id, good for the list of this name only."""
    text = f"{moment.isoformat()} {row_id}"
    return base64.urlsafe_b64encode(_mac(text, key, name) + text.encode()).decode().rstrip("=")


def _open(cursor: str, key: bytes, name: str) -> tuple[datetime, str]:
    try:
        blob = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        text = blob[16:].decode()
    except (binascii.Error, ValueError) as error:
        raise BadCursorError from error
    if not hmac.compare_digest(blob[:16], _mac(text, key, name)):
        raise BadCursorError
    moment, _, row_id = text.partition(" ")
    return datetime.fromisoformat(moment), row_id


def _mac(text: str, key: bytes, name: str) -> bytes:
    return hmac.digest(key, f"{name}\n{text}".encode(), hashlib.sha256)[:16]
