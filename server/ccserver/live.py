"""Who watches what, in this process, and what tells them that it changed: never the change itself.

One look a round for each partner that somebody watches, however many do; it holds a connection only while it reads. So
nothing is sent by what writes, and a pooler in transaction mode makes no difference.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ccserver.errors import TooManyRequestsError
from ccserver.queries import live
from ccserver.scope import Database

LOOK_S = 1.5
PER_PERSON = 4  # browsers open six connections to a host, and pages need some of them
IN_ALL = 200
_APART_S = 2.0  # between two messages of a stream, however much changes


class Word(StrEnum):
    """What a stream says."""

    CHANGED = "changed"
    BEAT = "beat"
    END = "end"


@dataclass(eq=False)
class Stream:
    """One who watches a partner's sites: all of them, or those in `sites`."""

    owner: str
    partner_id: str
    sites: frozenset[str] | None
    ended: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _dirty: bool = False
    _told_at: float = float("-inf")

    @property
    def keys(self) -> set[tuple[str, str | None]]:
        """What it watches."""
        return {(self.partner_id, site) for site in (self.sites if self.sites is not None else (None,))}

    def tell(self) -> None:
        """Have it say that something changed."""
        self._dirty = True
        self._news.set()

    def end(self) -> None:
        """Have it end."""
        self.ended = True
        self._news.set()

    async def listen(self, patience_s: float) -> Word:
        """Return what is to be said next: BEAT when nothing happens for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._news.wait()
                await self._pause()
        self._news.clear()
        if self.ended:
            return Word.END
        if not self._dirty:
            return Word.BEAT
        self._dirty, self._told_at = False, time.monotonic()
        return Word.CHANGED

    async def _pause(self) -> None:
        """Wait until the last message is long enough ago, or the stream is ended."""
        until = self._told_at + _APART_S
        while not self.ended and (left := until - time.monotonic()) > 0:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()


class Streams:
    """The streams of this process, and how what they watch stood at the last look."""

    def __init__(self, in_all: int = IN_ALL, per_person: int = PER_PERSON) -> None:
        self._open: list[Stream] = []
        self._marks: dict[tuple[str, str | None], int] = {}
        self._in_all, self._per_person = in_all, per_person
        self._closing = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self, owner: str, partner_id: str, sites: frozenset[str] | None) -> Stream:
        """Add a stream; of one person's too many the oldest ends. TooManyRequestsError when the process is full."""
        own = [each for each in self._open if each.owner == owner and not each.ended]
        for oldest in own[: max(len(own) + 1 - self._per_person, 0)]:
            oldest.end()
        if self._closing or len(self._open) >= self._in_all:
            raise TooManyRequestsError("Too many pages are live at the moment: reload this one.", retry_after_s=30)
        stream = Stream(owner, partner_id, sites)
        self._open.append(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream."""
        self._open.remove(stream)

    def end(self) -> None:
        """End every stream, and begin no other: the server stops."""
        self._closing = True
        for stream in self._open:
            stream.end()

    def watched(self) -> dict[str, tuple[bool, frozenset[str]]]:
        """Return, by partner, whether somebody watches all its sites, and which sites are watched by themselves."""
        found: dict[str, tuple[bool, frozenset[str]]] = {}
        for stream in self._open:
            whole, some = found.get(stream.partner_id, (False, frozenset()))
            found[stream.partner_id] = (whole or stream.sites is None, some | (stream.sites or frozenset()))
        return found

    def begin(self, marks: Mapping[tuple[str, str | None], int]) -> None:
        """Take how something stands that was not watched before."""
        self._marks = {**marks, **self._marks}

    def note(self, marks: Mapping[tuple[str, str | None], int]) -> None:
        """Take how everything stands that is watched, and tell the streams of what stands otherwise than before."""
        changed = {key for key, mark in marks.items() if self._marks.get(key, mark) != mark}
        watched = {key for stream in self._open for key in stream.keys}
        self._marks = {key: mark for key, mark in {**self._marks, **marks}.items() if key in watched}
        for stream in self._open:
            if stream.keys & changed:
                stream.tell()


async def look(db: Database, streams: Streams) -> None:
    """Look once at everything that is watched: two statements at most for each partner."""
    marks: dict[tuple[str, str | None], int] = {}
    for partner_id, (whole, sites) in streams.watched().items():
        marks |= await _marks(db, partner_id, whole, sites)
    streams.note(marks)


async def begin(db: Database, streams: Streams, stream: Stream) -> None:
    """Look at what a new stream watches, so that whatever changes from now on is told."""
    streams.begin(await _marks(db, stream.partner_id, stream.sites is None, stream.sites or frozenset()))


async def _marks(
    db: Database, partner_id: str, whole: bool, sites: frozenset[str]
) -> dict[tuple[str, str | None], int]:
    found: dict[tuple[str, str | None], int] = {}
    async with db.partner(partner_id) as scope:
        if whole:
            found[partner_id, None] = await live.mark(scope)
        if sites:
            marks = await live.marks_of_sites(scope, sorted(sites))
            found |= {(partner_id, site): mark for site, mark in marks.items()}
    return found
