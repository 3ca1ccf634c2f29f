"""Answering a list: the page asked for, the cursor of what follows, and the total when asked for."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context, listing
from ccserver.http import reply_value
from ccserver.listing import Listing, ListQuery, Page

Item = TypeVar("Item")


@dataclass(frozen=True)
class Source(Generic[Item]):
    """Where a list comes from: `name` binds cursors to it and its tenant, `place` gives an item's time and id."""

    name: str
    kind: Any
    fetch: Callable[[Page], Awaitable[Sequence[Item]]]
    count: Callable[[], Awaitable[int]]
    place: Callable[[Item], tuple[datetime, str]]


async def answer(request: Request, asked: ListQuery, source: Source[Item]) -> Response:
    """Return the page asked for; call it while the source's scope is open."""
    key = context.of(request).cursor_key
    page = listing.page_of(asked, key, source.name)
    rows = await source.fetch(page)
    found = listing.listing(rows, page, source.place, key, source.name)
    total = await source.count() if asked.total else None
    return reply_value(Listing[source.kind], found.model_copy(update={"total": total}))  # type: ignore[name-defined]  # a value
