"""The live parts of pages: a stream that says when to read again, for as long as its session may read at all.

A message holds nothing of a tenant's. What changed is read by the page, with the person's session, like any other page.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ccserver import auth, context, live
from ccserver.errors import CentralCommandError, DatabaseUnavailableError, NotFoundError
from ccserver.http import Caller, Endpoint, read_query
from ccserver.live import Stream, Streams, Word
from ccserver.queries import sites, user_sites
from ccshared.messages import Id, Message

_BEAT_S = 15.0
_LIFE = 60  # beats or messages; a browser then comes again
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
_SAYS = {Word.CHANGED: b"event: changed\ndata:\n\n", Word.BEAT: b": beat\n\n", Word.END: b"event: end\ndata:\n\n"}


class EventsQuery(Message):
    """Which site is watched, or every site that the caller may read; `beat_s` is how often a quiet stream says so."""

    site: Id | None = None
    beat_s: Annotated[float, Field(ge=0.1, le=_BEAT_S)] = _BEAT_S


class _Events(StreamingResponse):
    """A stream that is forgotten when it ends, however it ends."""

    def __init__(self, streams: Streams, stream: Stream, words: AsyncIterator[bytes]) -> None:
        super().__init__(words, headers=_HEADERS, media_type="text/event-stream")
        self._streams, self._stream = streams, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.close(self._stream)


async def watch(request: Request) -> Response:
    """Say when something changed on a site, or on any that the caller may read; there is nothing to resume."""
    asked = read_query(request, EventsQuery)
    partner_id, watched = await _may_watch(request, asked.site)
    if request.method == "HEAD":
        return Response(headers=_HEADERS, media_type="text/event-stream")
    ctx = context.of(request)
    stream = ctx.streams.open(request.state.principal.actor, partner_id, watched)
    try:
        await live.begin(ctx.db, ctx.streams, stream)
    except BaseException:
        ctx.streams.close(stream)
        raise
    return _Events(ctx.streams, stream, _words(request, asked, stream))


async def _words(request: Request, asked: EventsQuery, stream: Stream) -> AsyncIterator[bytes]:
    """Yield what the stream says, each time after asking anew who listens; a session that ended ends it."""
    yield b"retry: 3000\n\n"
    for _ in range(_LIFE):
        word = await stream.listen(asked.beat_s)
        try:
            request.state.principal = await auth.principal(request, Caller.AUDIT)
            if await _may_watch(request, asked.site) != (stream.partner_id, stream.sites):
                word = Word.END
        except DatabaseUnavailableError:  # who listens comes again
            return
        except CentralCommandError:
            word = Word.END
        yield _SAYS[word]
        if word is Word.END:
            return


async def _may_watch(request: Request, site_id: str | None) -> tuple[str, frozenset[str] | None]:
    """Return whose sites are watched, and which; None is all. NotFoundError for one that the caller may not read."""
    partner_id, auditor = (await auth.acting(request)).partner_id, auth.auditor_id(request)
    if site_id is None and auditor is None:
        return partner_id, None
    db = context.of(request).db
    if site_id is None:
        async with db.partner(partner_id) as partner:
            return partner_id, frozenset(await user_sites.readable_by(partner, auditor or ""))
    async with db.site(partner_id, site_id) as site:
        if not await sites.is_readable(site, auditor):
            raise NotFoundError
    return partner_id, frozenset({site_id})


ENDPOINTS = [Endpoint("GET", "/events", watch, Caller.AUDIT, query=EventsQuery)]
