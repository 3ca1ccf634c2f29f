"""Bringing the evidence to the server: ask what it holds, append from there, believe nothing but a receipt.

The rules come first, as functions of values; then the loop that follows them. Nothing here ever deletes evidence: what
the server refuses is withheld and stays, and a log that another copy of this appliance went on with is carried over.
"""

import asyncio
import gzip
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ccagent import alarms, clock, evidence, identity, keyring, queue, rotation, succession, survey, withholding
from ccagent.alarms import Alarm
from ccagent.client import Cause, Client, PermanentError, ProtocolError, RequestError, TransientError
from ccagent.evidence import Stamp
from ccagent.identity import Enrolment, Identity
from ccagent.queue import Epoch, Failure, HeldReceipt
from ccagent.store import Store, Tx
from ccagent.succession import Ended
from ccagent.survey import Survey
from ccagent.withholding import Refusal, Withheld
from ccshared import batch, notes
from ccshared.batch import Batch, Stub
from ccshared.entries import Draft
from ccshared.merkle import leaf_hash
from ccshared.messages import Head
from ccshared.notes import Checkpoint, Receipt
from ccshared.vocabulary import Clock, StubReason

log = logging.getLogger(__name__)

MAX_PACKED = 1024 * 1024
MAX_PLAIN = 4 * 1024 * 1024  # of payloads read at once; the server takes 8 MiB
MIN_WAIT_S = 5.0
MAX_WAIT_S = 3600.0
MAX_CONFIGURATION_WAIT_S = 15 * 60.0
PROBE_S = (60.0, 180.0)
RESYNCS = 3
IDLE_S = 60.0
# So often what the server asks for (Retry-After) is all that is waited; one that fails on is left alone for longer.
ASKED_TIMES = 3
# An entry that is refused alone is tried again within five minutes, so that all flows soon after the trouble ended.
POISON_S = (150.0, 290.0)
WITHHELD_AT_ONCE = 50  # in one go; a server that refuses everything shall not cost every payload its first way
MAX_WITHHELD_WAIT_S = 3600.0
SURVEY_S = 3600.0

Uniform = Callable[[float, float], float]


class PoisonError(PermanentError):
    """The server refuses one entry, sent alone; it is tried again soon, and withheld when that does not help."""


class DivergedError(Exception):
    """The server has receipted, under our key, what is not in this log: another copy of this appliance wrote it."""

    def __init__(self, epoch: str, receipt: str, why: str) -> None:
        super().__init__(f"the server's log {epoch} {why}")
        self.epoch, self.receipt = epoch, receipt


def cap_s(cause: Cause, retry_count: int) -> float:
    """Return the longest wait after so many failures in a row: 2, 4, 8 … 60 min; 15 min where a person must act."""
    cap = min(60.0 * (1 << min(retry_count, 6)), MAX_WAIT_S)
    return min(cap, MAX_CONFIGURATION_WAIT_S) if cause == Cause.CONFIGURATION else cap


def wait_s(error: RequestError, retry_count: int, uniform: Uniform) -> float:
    """Return how long to wait: anything up to the cap, so that a thousand appliances do not return at once.

    At least 5 s and a twentieth of the cap: many short waits in a row would cost a failing server too many tries a day.
    What the server asked for (Retry-After) goes before, with a tenth of it as jitter on top; where that did not help
    three times, it is only the least.
    """
    if isinstance(error, PoisonError):
        return uniform(*POISON_S)
    asked = asked_s(error, uniform)
    if asked is not None and retry_count <= ASKED_TIMES:
        return asked
    cap = cap_s(error.cause, retry_count)
    return max(asked or 0.0, uniform(max(MIN_WAIT_S, cap / 20), cap))


def asked_s(error: RequestError, uniform: Uniform) -> float | None:
    """Return how long the server asked to be left alone (s), with a tenth on top as jitter; None if it did not."""
    asked = error.retry_after_s if isinstance(error, TransientError) else None
    return None if asked is None else asked + uniform(0.0, asked / 10)


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


def shorter(first: int, end: int, at_fault: int | None) -> int:
    """Return how many of the entries `first` … `end - 1` to send when the server refuses them all together.

    Those before the entry at fault, or that entry alone; where none is named, half of them.
    """
    if at_fault is None or not first <= at_fault < end:
        return max((end - first) // 2, 1)
    return max(at_fault - first, 1)


def may_be_the_entrys_fault(error: RequestError) -> bool:
    """Return whether a refusal may be for what an entry says, and not for our signature over the log."""
    return isinstance(error, PermanentError) and error.code != "checkpoint-invalid"


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
    """Where chance and time come from: jitter, seconds since boot, the wall clock (ms UTC), the step of a wait (s).

    `stamp` is the wall clock with what is known of it, for entries that a new log begins with.
    """

    uniform: Uniform = random.SystemRandom().uniform
    boottime: Callable[[], float] = clock.boottime
    now_ms: Callable[[], int] = clock.now_ms
    step_s: float = 5.0
    stamp: Callable[[], Stamp] = lambda: (clock.now_ms(), Clock.UNSYNC)


@dataclass(frozen=True)
class Prepared:
    """A batch ready to go: `body` is gzipped; it holds the entries `first` … `end - 1`.

    `kind` is the first one's; None where that is a stub.
    """

    epoch: str
    first: int
    end: int
    body: bytes
    kind: str | None


@dataclass
class _Probe:
    """When the server is asked next whether it is there (s since boot), and whether it was silent last."""

    at: float
    silent: bool


@dataclass
class _Agenda:
    """What else is to be done and when (s since boot): payloads that are withheld, the look at the server's list."""

    withheld_at: float = 0.0
    withheld_wait_s: float = POISON_S[0]
    survey_at: float = 0.0
    refill: set[str] = field(default_factory=set)  # logs of which the server lost what it had receipted
    ahead: set[str] = field(default_factory=set)  # logs of which the server says that it holds more
    alive: set[str] = field(default_factory=set)  # logs that this run of ours got a receipt for


class Uploader:
    """Delivers one appliance's logs to one server; `wake` is set when something new was queued.

    `try_now` ends any wait, because a person asks; `line_changed` lets a server that was silent be asked at once.
    """

    def __init__(self, store: Store, client: Client, who: Enrolment, pace: Pace | None = None) -> None:
        self.wake = asyncio.Event()
        self.try_now = asyncio.Event()
        self.line_changed = asyncio.Event()
        self._store = store
        self._client = client
        self._who, self._identity = who, who.identity
        self._pace = pace or Pace()
        self._lines = batch.MAX_LINES
        self._ceiling = batch.MAX_LINES
        self._careful = False  # the first try after a wait sends one entry
        self._heard = False  # whether the server answered anything since the last failure
        self._agenda = _Agenda()
        self._drained_at = -1  # the store's `changes` when nothing was left to send

    async def run(self) -> None:
        """Deliver for ever: at once when something is queued, and after each failure once its wait is over."""
        await self._rest_of_wait()
        while True:
            self.wake.clear()
            self.try_now.clear()
            try:
                await self.look()
                await self.drain()
                await self.deliver_withheld()
            except RequestError as error:
                self._heard = await self._back_off(error)
            else:
                self._heard = False
                await self._idle()

    async def drain(self) -> None:
        """Send all that waits until the server has receipted it; the first failure ends it with its RequestError.

        Where the server has receipted what another copy of this appliance wrote, the log ends here and goes on anew.
        """
        looked_at = self._store.changes
        if looked_at == self._drained_at and not self._agenda.refill | self._agenda.ahead:
            return None
        withheld_before = self._store.read(withholding.count)
        for _ in range(RESYNCS):
            try:
                for epoch in self._store.read(queue.all_epochs):
                    if self._is_ours(epoch) and self._is_due(epoch):
                        self._turn_to_next_key()
                        await self._drain_one(epoch, withheld_before + WITHHELD_AT_ONCE)
            except DivergedError as error:
                await self._go_on(error)
            else:
                self._drained_at = looked_at
                return self._turn_to_next_key()
        raise TransientError("the server's log and ours part again and again: are two copies of this appliance on?")

    async def look(self, *, now: bool = False) -> None:
        """Compare the server's list of our logs with ours, once an hour or `now`; sound an alarm where they differ."""
        if now or self._pace.boottime() >= self._agenda.survey_at:
            await self._survey()

    async def _survey(self) -> Survey:
        theirs = (await self._client.epochs()).epochs
        self._heard = True
        every = [one for one in self._store.read(queue.all_epochs) if self._is_ours(one)]
        ours = [one for one in every if one.public_key in self._who.keys]
        seen = survey.compare({one: self._store.read(queue.size_of, one.epoch) for one in ours}, theirs)
        behind = survey.behind(every, theirs)
        self._agenda.survey_at = self._pace.boottime() + self._pace.uniform(SURVEY_S * 0.9, SURVEY_S * 1.1)
        self._agenda.refill.update(behind)
        self._agenda.ahead.update(seen.ahead)
        for epoch in behind:
            await self._server_is_behind(epoch)
        if seen.doubled:
            await self._sound(alarms.CLONE, f"two logs have one number: {', '.join(seen.doubled[:4])}")
        elif seen.strangers:
            name = alarms.CLONE if self._agenda.alive else alarms.ROLLBACK
            await self._sound(name, f"the server has a log of this appliance's that is not here: {seen.strangers[0]}")
        return seen

    async def deliver_withheld(self, *, now: bool = False) -> None:
        """Offer the server what it refused, now and then or `now`; where one is refused still, no other of its kind.

        Nothing here is a failure of the upload: the log went on without them.
        """
        if not now and self._pace.boottime() < self._agenda.withheld_at:
            return
        taken, refused = 0, set[tuple[str, str]]()
        for one in self._store.read(withholding.undelivered):
            if (one.kind, one.code) in refused:
                continue
            try:
                taken += await self._offer(one)
            except TransientError as error:
                log.info("what is withheld was not taken: %s", error)
                break
            except RequestError as error:
                log.info("entry %d of %s is refused still: %s", one.seq, one.epoch, error)
                refused.add((one.kind, one.code))
        wait = self._agenda.withheld_wait_s
        self._agenda.withheld_wait_s = POISON_S[0] if taken else min(wait * 2, MAX_WITHHELD_WAIT_S)
        self._agenda.withheld_at = self._pace.boottime() + self._pace.uniform(wait / 2, wait)

    def fail(self, error: RequestError) -> tuple[Failure, float]:
        """Return how a failure is noted and how long to wait after it (s), and be careful next time."""
        if is_too_much(error):
            self._lines = halved(self._lines)
        if error.status == 413:
            self._ceiling = self._lines
        self._careful = True
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

    async def _drain_one(self, epoch: Epoch, max_withheld: int) -> None:
        """Drain a log. One by a key of before that the server does not take again keeps no other from it."""
        try:
            await self._drain_epoch(epoch.epoch, max_withheld)
        except PermanentError as error:
            if epoch.public_key in self._who.keys or may_be_the_entrys_fault(error):
                raise
            self._agenda.refill.discard(epoch.epoch)  # until the next look at the server's list
            log.warning("the server does not take %s again, which is by an earlier key: %s", epoch.epoch, error)

    async def _drain_epoch(self, epoch: str, max_withheld: int) -> None:
        # Not at the first try after a wait: a conflict that comes back each time would cost every try four.
        for _ in range(0 if self._careful else RESYNCS):
            try:
                return await self._follow(epoch, max_withheld)
            except ProtocolError as error:
                log.info("asking again what the server holds: %s", error)
        return await self._follow(epoch, max_withheld)

    async def _follow(self, epoch: str, max_withheld: int) -> None:
        """Append to what the server holds until it holds all and has receipted it."""
        head = await self._client.head(epoch)
        self._heard = True
        await self._take(epoch, head)
        upcoming = await self._prepare(epoch, head.size, self._next_lines())
        while upcoming is not None:
            sent = upcoming
            try:
                head, upcoming = await self._send(sent)
            except PermanentError as error:
                upcoming = await self._isolate(sent, error, max_withheld)
                continue
            await self._take(epoch, head, sent)
            if upcoming is not None and upcoming.first != head.size:
                upcoming = await self._prepare(epoch, head.size, self._next_lines())
        if self._epoch(epoch).watermark < head.size or (epoch in self._agenda.refill and head.receipt is None):
            raise TransientError(f"the server holds {head.size} entries but gave no receipt for all of them")
        self._agenda.refill.discard(epoch)
        self._agenda.ahead.discard(epoch)

    async def _isolate(self, sent: Prepared, error: PermanentError, max_withheld: int) -> Prepared | None:
        """Return what to send instead of a batch that was refused; PoisonError when that is to wait.

        Fewer entries, until one is refused alone; and its stub, once that was so often enough. A genesis has no stub.
        """
        if not may_be_the_entrys_fault(error):
            raise error
        if sent.end - sent.first > 1:
            self._lines = shorter(sent.first, sent.end, error.seq)
            self._careful = False
            if error.status == 413:
                self._ceiling = self._lines
            return await self._prepare(sent.epoch, sent.first, self._lines)
        if sent.first == 0 or sent.kind is None or self._store.read(withholding.count) >= max_withheld:
            raise _poison(error)
        refusal = Refusal(sent.epoch, sent.first, sent.kind, error.code or str(error.status), str(error))
        if not await self._store.write(withholding.refuse, refusal, self._pace.now_ms()):
            raise _poison(error)
        log.warning("entry %d of %s is withheld: the log goes on with its leaf", sent.first, sent.epoch)
        self._agenda.withheld_at = self._pace.boottime() + self._pace.uniform(*POISON_S)
        self._agenda.withheld_wait_s = POISON_S[1]
        return await self._prepare(sent.epoch, sent.first, 1)

    async def _offer(self, one: Withheld) -> int:
        """Send a payload that was withheld; return 1 when it stands in its place now, 0 when it is not its turn yet."""
        (line,) = self._store.read(queue.lines, one.epoch, one.seq, 1, 1)
        if isinstance(line, Stub) or one.seq >= self._epoch(one.epoch).watermark:
            return 0
        kept = await self._client.put_entry(one.epoch, one.seq, line)
        if (kept.epoch, kept.seq, kept.leaf) != (one.epoch, one.seq, leaf_hash(line).hex()):
            raise TransientError("what answered did not name the entry that was sent")
        await self._store.write(withholding.deliver, one.epoch, one.seq, self._pace.now_ms())
        log.info("entry %d of %s was withheld and is delivered now", one.seq, one.epoch)
        return 1

    async def _go_on(self, parted: DivergedError) -> None:
        """End a log that another copy of this appliance went on with, and carry what is not receipted into the next.

        A log that ended already stays so, and what of it waits is carried into the open one.
        """
        log.error("%s", parted)
        self._agenda.ahead.discard(parted.epoch)
        known, stamp = self._epoch(parted.epoch), self._pace.stamp()
        if known.closed_at_ms is not None:
            await self._store.write(_carry, known, lambda old: evidence.recovered(stamp, old))
            return
        seen = await self._survey()
        reason = alarms.CLONE if seen.doubled or parted.epoch in self._agenda.alive else alarms.ROLLBACK
        self._count_on(seen.next_number)
        ended = [Ended(replace(known, receipt=parted.receipt), [])]
        succession.begin(self._store, stamp, reason, ended, lambda tx, recovered: _carry(tx, known, recovered))
        await self._sound(reason, str(parted))

    def _count_on(self, number: int) -> None:
        """Let the next log have at least that number: an old copy does not know which were used since."""
        known = self._on_disk()
        if known is not None and (known.next_epoch_number or 0) < number:
            identity.save(self._store.places, known.model_copy(update={"next_epoch_number": number}))

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
        max_lines = min(max_lines, self._until(epoch) - first)
        lines = self._lines_of(epoch, first, max_lines) if max_lines > 0 else []
        while lines:
            end = first + len(lines)
            body = batch.write(self._batch(epoch, first, lines))
            packed = await asyncio.to_thread(gzip.compress, body, 6, mtime=0)
            if len(packed) <= MAX_PACKED or len(lines) == 1:
                return Prepared(epoch, first, end, packed, _kind_of(lines[0]))
            lines = lines[: len(lines) // 2]
        return None

    def _until(self, epoch: str) -> int:
        """Up to which size a log is sent: what its successor carries is not, but what the server lost is again."""
        known = self._epoch(epoch)
        return max(self._store.read(queue.to_deliver, known), known.watermark)

    def _lines_of(self, epoch: str, first: int, max_lines: int) -> list[bytes | Stub]:
        lines = self._store.read(queue.lines, epoch, first, max_lines, MAX_PLAIN)
        stubs = self._store.read(withholding.places, epoch, first, first + len(lines))
        return [
            Stub(leaf_hash(line), StubReason.WITHHELD) if seq in stubs and isinstance(line, bytes) else line
            for seq, line in enumerate(lines, first)
        ]

    def _batch(self, epoch: str, first: int, lines: list[bytes | Stub]) -> Batch:
        known = self._epoch(epoch)
        end = first + len(lines)
        checkpoint = Checkpoint(known.origin, end, self._store.read(queue.root_at, epoch, end))
        signed = notes.sign_checkpoint(checkpoint, self._who.signers[known.public_key].seed)
        return Batch(signed, first, known.receipt, lines)

    async def _take(self, epoch: str, head: Head, sent: Prepared | None = None) -> None:
        """Believe a head as far as its receipt proves it, and acknowledge that much.

        Without a receipt it can only be a server that is being filled up again to where it once was. TransientError
        for anything that is not what our own log says, DivergedError when our key signed it all the same.
        """
        known = self._epoch(epoch)
        if head.size < known.watermark:
            if epoch not in self._agenda.refill:
                self._agenda.survey_at = 0.0  # it may have lost more, and the logs before are to come first
            self._agenda.refill.add(epoch)
            await self._server_is_behind(epoch)
        if sent is not None and head.size < sent.end:
            raise TransientError(f"the server answered a batch up to {sent.end} with a head of {head.size}")
        if head.receipt is not None:
            await self._acknowledge(known, head.receipt, sent.end if sent else 0)
        elif sent is not None and head.size >= known.watermark:
            raise TransientError("the server took a batch but gave no receipt")
        if head.size > self._store.read(queue.size_of, epoch):
            raise TransientError(f"the server says that it holds {head.size} entries, more than were ever made")

    async def _acknowledge(self, epoch: Epoch, receipt: str, at_least: int) -> None:
        read = await self._read_receipt(receipt, epoch)
        size = read.checkpoint.size
        if size < at_least:
            raise TransientError(f"the server gave a receipt for {size} entries where it was sent up to {at_least}")
        if size > self._store.read(queue.size_of, epoch.epoch):
            raise DivergedError(epoch.epoch, receipt, f"has {size} entries, more than were made here")
        if read.checkpoint.root != self._store.read(queue.root_at, epoch.epoch, size):
            raise DivergedError(epoch.epoch, receipt, f"has other entries than ours among its first {size}")
        self._agenda.alive.add(epoch.epoch)
        if size > epoch.watermark:
            held = HeldReceipt(size, receipt, read.cosigned_at, self._pace.now_ms())
            await self._store.write(_settle, epoch.epoch, held)

    async def _read_receipt(self, receipt: str, epoch: Epoch) -> Receipt:
        """Return what a receipt says; one by a key that is not known is believed once the server's keys lead to it."""
        name = keyring.witness_of(receipt)
        if name.startswith(f"{self._identity.server}/server/") and name not in self._identity.witnesses:
            await self._learn_keys()
            if name not in self._identity.witnesses:
                await self._sound(alarms.SERVER_KEY, f"a receipt is by {name[:80]!r}, which no key of ours announced")
        read = check_receipt(receipt, epoch, self._identity.witnesses)
        if any(one.name == alarms.SERVER_KEY for one in self._store.read(alarms.standing, self._pace.now_ms())):
            await self._store.write(alarms.forget, alarms.SERVER_KEY)
        return read

    async def _learn_keys(self) -> None:
        """Follow the server's keys from those that are pinned, and pin what they lead to."""
        told = await self._client.keys()
        keys = keyring.follow(self._identity.server, self._identity.keys, told.statements)
        if len(keys) == len(self._identity.keys):
            return
        log.info("the server's keys followed one another: %s", ", ".join(key.name for key in keys))
        self._identity = self._identity.model_copy(update={"keys": keys})
        known = self._on_disk()
        if known is not None:
            identity.save(self._store.places, known.model_copy(update={"keys": keys}))

    def _turn_to_next_key(self) -> None:
        """Put the next device key in the place of the one before, once the server has receipted that it follows."""
        if self._who.next_key is not None and self._store.read(rotation.is_through, self._who):
            self._who = identity.promote_next_key(self._store.places, self._who)
            log.info("the device key is %s now", self._who.key.fingerprint)

    def _on_disk(self) -> Identity | None:
        """Return the identity as it is written; None when it is another's by now, which is not ours to change."""
        known = identity.load(self._store.places)
        return known if known is not None and known.enrolled_at_ms == self._identity.enrolled_at_ms else None

    async def _server_is_behind(self, epoch: str) -> None:
        await self._sound(alarms.SERVER_ROLLBACK, f"the server lost entries of {epoch} that it had receipted")

    async def _sound(self, name: str, detail: str) -> None:
        """Let an alarm stand; a suspected clone until a person ends it, the rest for a week, or until it has passed."""
        now = self._pace.now_ms()
        until = None if name in (alarms.CLONE, alarms.SERVER_KEY) else now + alarms.SHOWN_MS
        if await self._store.write(alarms.sound, Alarm(name, detail, now), until):
            log.error("alarm %s: %s", name, detail)

    def _next_lines(self) -> int:
        return 1 if self._careful else self._lines

    def _epoch(self, epoch: str) -> Epoch:
        return next(one for one in self._store.read(queue.all_epochs) if one.epoch == epoch)

    def _is_ours(self, epoch: Epoch) -> bool:
        """A log begun for another server or appliance cannot be delivered here."""
        ours = epoch.origin.startswith(self._identity.origins)
        return ours and epoch.public_key in self._who.signers

    def _is_due(self, epoch: Epoch) -> bool:
        if epoch.epoch in self._agenda.refill | self._agenda.ahead:
            return True
        return epoch.watermark < self._store.read(queue.to_deliver, epoch)

    async def _back_off(self, error: RequestError) -> bool:
        """Note a failure and wait; return whether that was cut short because the server answers again."""
        failure, wait = self.fail(error)
        await self._store.write(queue.note_failure, failure)
        log.warning("the evidence waits, next try in %.0f s: %s", wait, error)
        return await self._wait(wait, self._probe(silent=not self._heard) if error.silence else None)

    async def _rest_of_wait(self) -> None:
        left = self._store.read(queue.destination)
        if left.next_retry_at_ms is None:
            return
        self._careful = True
        unreachable = left.error_class == "unreachable"
        cause = Cause.TRANSIENT if unreachable else Cause(left.error_class or Cause.TRANSIENT)
        cap = cap_s(cause, left.retry_count)
        rest = remaining_s(left.next_retry_at_ms, self._pace.now_ms(), cap)
        self._heard = await self._wait(rest, self._probe(silent=True) if unreachable else None)

    async def _wait(self, seconds: float, probe: _Probe | None) -> bool:
        """Wait by the clock that runs on in suspension; return whether an answer after silence ended it early."""
        until = self._pace.boottime() + seconds
        while (now := self._pace.boottime()) < until and not self.try_now.is_set():
            if probe is not None and await self._is_back(probe, now):
                return True
            now = self._pace.boottime()
            left = until - now if probe is None else min(until, probe.at) - now
            stirred = (self.try_now,) if probe is None else (self.try_now, self.line_changed)
            await _any_event(stirred, max(min(self._pace.step_s, left), 0.001))
        return False

    def _probe(self, *, silent: bool) -> _Probe:
        return _Probe(self._pace.boottime() + self._pace.uniform(*PROBE_S), silent)

    async def _is_back(self, probe: _Probe, now: float) -> bool:
        """Ask now and then, or when the line changed, whether the server answers again after it was silent.

        One that answers all along, and fails only at what is sent, is no news: that wait goes on.
        """
        if now < probe.at and not self.line_changed.is_set():
            return False
        self.line_changed.clear()
        was_silent, answered = probe.silent, await self._is_answered()
        probe.silent, probe.at = not answered, self._probe(silent=False).at
        return answered and was_silent

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
        await _event(self.wake, IDLE_S)


def _settle(tx: Tx, epoch: str, receipt: HeldReceipt) -> None:
    queue.acknowledge(tx, epoch, receipt)
    queue.note_success(tx, receipt.at_ms)


def _carry(tx: Tx, ended: Epoch, recovered: Callable[[bytes], Draft]) -> None:
    """Carry what of a log that ended has no receipt into the open one."""
    queue.carry_over(tx, ended.epoch, ended.watermark, recovered)
    withholding.drop(tx, ended.epoch, ended.watermark)


def _poison(error: PermanentError) -> PoisonError:
    """Return the refusal of one entry, as what its wait goes by."""
    poison = PoisonError(str(error))
    poison.code, poison.seq, poison.silence = error.code, error.seq, False
    return poison


def _kind_of(line: bytes | Stub) -> str | None:
    """Return an entry's kind as far as it can be read: it may be just that which is wrong with it."""
    if isinstance(line, Stub):
        return None
    try:
        kind = json.loads(line)["kind"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unreadable"
    return str(kind)[:64]


async def _event(event: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return


async def _any_event(events: Sequence[asyncio.Event], at_most_s: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=at_most_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
