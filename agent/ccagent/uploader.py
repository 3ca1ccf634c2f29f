"""Bringing the evidence to the server: ask what it holds, append from there, believe nothing but a receipt.

The rules come first, as functions of values; then the loop that follows them. Nothing here ever deletes evidence.
"""

import asyncio
import gzip
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ccagent import clock, queue
from ccagent.client import Cause, Client, ProtocolError, RequestError, TransientError
from ccagent.identity import Enrolment
from ccagent.queue import Epoch, Failure, HeldReceipt
from ccagent.store import Store, Tx
from ccshared import batch, notes
from ccshared.batch import Batch, Stub
from ccshared.messages import Head
from ccshared.notes import Checkpoint, Receipt

log = logging.getLogger(__name__)

MAX_PACKED = 1024 * 1024
MAX_PLAIN = 4 * 1024 * 1024  # of payloads read at once; the server takes 8 MiB
MIN_WAIT_S = 5.0
MAX_WAIT_S = 3600.0
MAX_CONFIGURATION_WAIT_S = 15 * 60.0
PROBE_S = (60.0, 180.0)
RESYNCS = 3
IDLE_S = 60.0

Uniform = Callable[[float, float], float]


def cap_s(cause: Cause, retry_count: int) -> float:
    """Return the longest wait after so many failures in a row: 2, 4, 8 … 60 min; 15 min where a person must act."""
    cap = min(60.0 * (1 << min(retry_count, 6)), MAX_WAIT_S)
    return min(cap, MAX_CONFIGURATION_WAIT_S) if cause == Cause.CONFIGURATION else cap


def wait_s(error: RequestError, retry_count: int, uniform: Uniform) -> float:
    """Return how long to wait: anything from 5 s to the cap, so that a thousand appliances do not return at once.

    What the server asked for (Retry-After) goes before, with a tenth of it as jitter on top.
    """
    asked = error.retry_after_s if isinstance(error, TransientError) else None
    if asked is not None:
        return asked + uniform(0.0, asked / 10)
    return uniform(MIN_WAIT_S, cap_s(error.cause, retry_count))


def remaining_s(next_retry_at_ms: int | None, now_ms: int, cap: float) -> float:
    """Return what is left of a wait that a restart interrupted; at most the cap, whatever the wall clock says."""
    if next_retry_at_ms is None:
        return 0.0
    return min(max((next_retry_at_ms - now_ms) / 1000, 0.0), cap)


def grown(lines: int, ceiling: int = batch.MAX_LINES) -> int:
    """Return the next batch's length after a success."""
    return min(lines * 2, ceiling)


def halved(lines: int) -> int:
    """Return the next batch's length after a failure that a shorter one may not have."""
    return max(lines // 2, 1)


def is_too_much(error: RequestError) -> bool:
    """Return whether a shorter batch may go through where this one did not: time-out, 413, 5xx."""
    return error.timed_out or error.status == 413 or (error.status or 0) >= 500


def check_receipt(receipt: str, epoch: Epoch, witnesses: dict[str, bytes]) -> Receipt:
    """Return what a receipt says; TransientError unless a pinned witness and our key signed it, for this log."""
    try:
        read = notes.read_receipt(receipt, bytes.fromhex(epoch.public_key), witnesses)
    except notes.BadNoteError as error:
        raise TransientError(f"what the server gave as a receipt is none: {error}") from error
    if read.checkpoint.origin != epoch.origin:
        raise TransientError("the server gave a receipt of another log")
    return read


@dataclass(frozen=True)
class Pace:
    """Where chance and time come from: jitter, seconds since boot, the wall clock (ms UTC), the step of a wait (s)."""

    uniform: Uniform = random.SystemRandom().uniform
    boottime: Callable[[], float] = clock.boottime
    now_ms: Callable[[], int] = clock.now_ms
    step_s: float = 5.0


@dataclass(frozen=True)
class Prepared:
    """A batch ready to go: `body` is gzipped; it holds the entries `first` … `end - 1`."""

    epoch: str
    first: int
    end: int
    body: bytes


class Uploader:
    """Delivers one appliance's logs to one server; `wake` is set when something new was queued."""

    def __init__(self, store: Store, client: Client, who: Enrolment, pace: Pace | None = None) -> None:
        self.wake = asyncio.Event()
        self._store = store
        self._client = client
        self._identity, self._key = who.identity, who.key
        self._pace = pace or Pace()
        self._lines = batch.MAX_LINES
        self._ceiling = batch.MAX_LINES
        self._careful = False  # the first try after a wait sends one entry
        self._surveyed = False  # whether the server was asked, since its last failure if it holds what it receipted

    async def run(self) -> None:
        """Deliver for ever: at once when something is queued, and after each failure once its wait is over."""
        await self._rest_of_wait()
        while True:
            self.wake.clear()
            try:
                await self.drain()
            except RequestError as error:
                await self._back_off(error)
            else:
                await self._idle()

    async def drain(self) -> None:
        """Send all that waits until the server has receipted it; the first failure ends it with its RequestError."""
        ours = [epoch for epoch in self._store.read(queue.all_epochs) if self._is_ours(epoch)]
        lost: set[str] = set()
        if not self._surveyed and any(epoch.watermark for epoch in ours):
            lost = await self._survey(ours)
        for epoch in ours:
            if epoch.epoch in lost or epoch.watermark < self._store.read(queue.to_deliver, epoch):
                await self._drain_epoch(epoch.epoch)
        self._surveyed = True

    async def _survey(self, ours: Sequence[Epoch]) -> set[str]:
        """Return the logs of which the server holds less than it once receipted: its database was restored."""
        held = {head.epoch: head.size for head in (await self._client.epochs()).epochs}
        lost = {epoch.epoch for epoch in ours if held.get(epoch.epoch, 0) < epoch.watermark}
        if lost:
            log.warning("the server holds less than it receipted, and is filled up again: %s", ", ".join(sorted(lost)))
        return lost

    def fail(self, error: RequestError) -> tuple[Failure, float]:
        """Return how a failure is noted and how long to wait after it (s), and be careful next time."""
        if is_too_much(error):
            self._lines = halved(self._lines)
        if error.status == 413:
            self._ceiling = self._lines
        self._careful = True
        self._surveyed = False
        now = self._pace.now_ms()
        count = self._store.read(queue.destination).retry_count + 1
        wait = wait_s(error, count, self._pace.uniform)
        failure = Failure(
            error_class="unreachable" if error.silence else str(error.cause),
            error=str(error),
            at_ms=now,
            next_retry_at_ms=now + round(wait * 1000),
        )
        return failure, wait

    async def _drain_epoch(self, epoch: str) -> None:
        for _ in range(RESYNCS):
            try:
                return await self._follow(epoch)
            except ProtocolError as error:
                log.info("asking again what the server holds: %s", error)
        return await self._follow(epoch)

    async def _follow(self, epoch: str) -> None:
        """Append to what the server holds until it holds all and has receipted it."""
        head = await self._client.head(epoch)
        await self._take(epoch, head)
        upcoming = await self._prepare(epoch, head.size, self._next_lines())
        while upcoming is not None:
            sent = upcoming
            head, upcoming = await self._send(sent)
            await self._take(epoch, head, sent)
            if upcoming is not None and upcoming.first != head.size:
                upcoming = await self._prepare(epoch, head.size, self._next_lines())
        if self._epoch(epoch).watermark < head.size:
            raise TransientError(f"the server holds {head.size} entries but gave no receipt for all of them")

    async def _send(self, ready: Prepared) -> tuple[Head, Prepared | None]:
        """Send a batch and meanwhile prepare the one that follows if this one goes well."""
        follows = self._lines if self._careful else grown(self._lines, self._ceiling)
        preparing = asyncio.create_task(self._prepare(ready.epoch, ready.end, follows))
        try:
            head = await self._client.append(ready.epoch, ready.body)
        except BaseException:
            preparing.cancel()
            raise
        self._lines, self._careful = follows, False
        return head, await preparing

    async def _prepare(self, epoch: str, first: int, max_lines: int) -> Prepared | None:
        """Return the entries from `first` on, as many as may go at once; None when there are none."""
        lines = self._store.read(queue.lines, epoch, first, max_lines, MAX_PLAIN)
        while lines:
            end = first + len(lines)
            body = batch.write(self._batch(epoch, first, lines))
            packed = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
            if len(packed) <= MAX_PACKED or len(lines) == 1:
                return Prepared(epoch, first, end, packed)
            lines = lines[: len(lines) // 2]
        return None

    def _batch(self, epoch: str, first: int, lines: list[bytes | Stub]) -> Batch:
        known = self._epoch(epoch)
        end = first + len(lines)
        checkpoint = Checkpoint(known.origin, end, self._store.read(queue.root_at, epoch, end))
        return Batch(notes.sign_checkpoint(checkpoint, self._key.seed), first, known.receipt, lines)

    async def _take(self, epoch: str, head: Head, sent: Prepared | None = None) -> None:
        """Believe a head as far as its receipt proves it, and acknowledge that much.

        Without a receipt it can only be a server that is being filled up again to where it once was. TransientError
        for anything that is not what our own log says.
        """
        known = self._epoch(epoch)
        if head.size > self._store.read(queue.size_of, epoch):
            raise TransientError(f"the server says that it holds {head.size} entries, more than were ever made")
        if sent is not None and head.size < sent.end:
            raise TransientError(f"the server answered a batch up to {sent.end} with a head of {head.size}")
        if head.receipt is not None:
            await self._acknowledge(known, head.receipt, sent.end if sent else 0)
        elif sent is not None and head.size >= known.watermark:
            raise TransientError("the server took a batch but gave no receipt")

    async def _acknowledge(self, epoch: Epoch, receipt: str, at_least: int) -> None:
        read = check_receipt(receipt, epoch, self._identity.witnesses)
        size = read.checkpoint.size
        if size < at_least:
            raise TransientError(f"the server gave a receipt for {size} entries where it was sent up to {at_least}")
        if size > self._store.read(queue.size_of, epoch.epoch):
            raise TransientError(f"the server gave a receipt for {size} entries, more than are here")
        if read.checkpoint.root != self._store.read(queue.root_at, epoch.epoch, size):
            raise TransientError("the server gave a receipt for another content")
        if size > epoch.watermark:
            held = HeldReceipt(size, receipt, read.cosigned_at, self._pace.now_ms())
            await self._store.write(_settle, epoch.epoch, held)

    def _next_lines(self) -> int:
        return 1 if self._careful else self._lines

    def _epoch(self, epoch: str) -> Epoch:
        return next(one for one in self._store.read(queue.all_epochs) if one.epoch == epoch)

    def _is_ours(self, epoch: Epoch) -> bool:
        """A log begun for another server or appliance cannot be delivered here."""
        ours = epoch.origin.startswith(self._identity.origins)
        return ours and epoch.public_key == self._key.public.hex()

    async def _back_off(self, error: RequestError) -> None:
        failure, wait = self.fail(error)
        await self._store.write(queue.note_failure, failure)
        log.warning("the evidence waits, next try in %.0f s: %s", wait, error)
        await self._wait(wait, probing=error.silence)

    async def _rest_of_wait(self) -> None:
        left = self._store.read(queue.destination)
        if left.next_retry_at_ms is None:
            return
        self._careful = True
        unreachable = left.error_class == "unreachable"
        cause = Cause.TRANSIENT if unreachable else Cause(left.error_class or Cause.TRANSIENT)
        cap = cap_s(cause, left.retry_count)
        await self._wait(remaining_s(left.next_retry_at_ms, self._pace.now_ms(), cap), probing=unreachable)

    async def _wait(self, seconds: float, *, probing: bool) -> None:
        """Wait by the clock that runs on in suspension; an answer where there was silence ends it early."""
        until = self._pace.boottime() + seconds
        probe_at = self._pace.boottime() + self._pace.uniform(*PROBE_S)
        while (now := self._pace.boottime()) < until:
            if probing and now >= probe_at:
                if await self._is_answered():
                    return
                probe_at = self._pace.boottime() + self._pace.uniform(*PROBE_S)
            await asyncio.sleep(min(self._pace.step_s, until - now))

    async def _is_answered(self) -> bool:
        epoch = self._store.read(queue.current)
        if epoch is None:
            return True
        try:
            await self._client.head(epoch.epoch)
        except RequestError as error:
            return not error.silence
        return True

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                await self.wake.wait()
        except TimeoutError:
            return


def _settle(tx: Tx, epoch: str, receipt: HeldReceipt) -> None:
    queue.acknowledge(tx, epoch, receipt)
    queue.note_success(tx, receipt.at_ms)
