"""Sweeps: what time alone changes, in bounded chunks over all tenants.

Each chunk is a transaction of its own in platform scope that first tries the sweep's lock, so two processes never do
the same work, and what one leaves undone the next run carries on. A sweep that fails is counted and logged; it ends
neither the server nor the other sweeps.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ccserver import errors, liveness, promoting, self_verification, telling
from ccserver.queries import healed_days, notifications, problems, queue_samples
from ccserver.queries import sweeps as queries
from ccserver.retention import Swept, Terms
from ccserver.scope import Database, PlatformScope

log = logging.getLogger("ccserver.sweeps")
Chunk = Callable[[PlatformScope, int, Terms], Awaitable[Swept]]
_PAUSE_SECONDS = 0.05  # between chunks: requests come first


@dataclass(frozen=True)
class Sweep:
    """What one sweep does: its statement, at most `rows` rows a chunk and `chunks` chunks a run, and how often."""

    name: str
    says: str
    chunk: Chunk
    every: timedelta = timedelta(hours=1)
    rows: int = 500
    chunks: int = 20


@dataclass(frozen=True)
class Outcome:
    """How a run went: rows changed, whether more is left, whether another process had it, and its error."""

    name: str
    rows: int = 0
    chunks: int = 0
    more: bool = False
    busy: bool = False
    error: str | None = None


class _NotKept(Exception):  # noqa: N818  it carries a result, and rolls a dry run back
    def __init__(self, swept: Swept) -> None:
        self.swept = swept


def _confirmed(chunk: Chunk) -> Chunk:
    """Undo what a chunk did, with an error, where nobody confirms the clock by which its rows were so old."""

    async def held(scope: PlatformScope, rows: int, terms: Terms) -> Swept:
        swept = await chunk(scope, rows, terms)
        if swept.chosen and not await queries.clock_is_confirmed(scope, time.time()):
            raise errors.SweepHeldBackError
        return swept

    return held


_SAMPLE_DAYS = 90
_MINUTE = timedelta(minutes=1)
NOTICING = Sweep(
    "problems",
    "what began, changed or ended, and who is to be told of it",
    lambda scope, rows, _: telling.notice(scope, rows),
    timedelta(seconds=10),
    rows=1100,
)
SWEEPS: tuple[Sweep, ...] = (
    Sweep(
        "liveness",
        "is_online, by the last check-in",
        lambda scope, rows, _: queries.mark_liveness(scope, rows, liveness.ONLINE_FOR),
        _MINUTE,
    ),
    Sweep(
        "silence",
        "appliances that check in while no receipt was given for 48 h",
        lambda scope, rows, _: queries.mark_silence(scope, rows),
        _MINUTE,
    ),
    Sweep("orders", "orders whose time is over", lambda scope, rows, _: queries.expire_orders(scope, rows), _MINUTE),
    Sweep(
        "candidates",
        "rules that repairs speak for, or no longer do",
        lambda scope, rows, _: promoting.propose(scope, rows),
        _MINUTE,
        rows=100,
    ),
    Sweep(
        "trials",
        "learned rules, by how they fare",
        lambda scope, rows, _: promoting.settle(scope, rows),
        _MINUTE,
        rows=100,
    ),
    Sweep("sessions", "sessions that expired", lambda scope, rows, _: queries.drop_sessions(scope, rows)),
    Sweep(
        "idempotency_keys",
        "answers to creates, after a day",
        lambda scope, rows, _: queries.drop_idempotency_keys(scope, rows),
    ),
    Sweep("codes", "spent enrolment codes", lambda scope, rows, terms: queries.drop_codes(scope, rows, terms.codes)),
    Sweep(
        "invitations",
        "spent one-time links",
        lambda scope, rows, terms: queries.drop_invitations(scope, rows, terms.invitations),
    ),
    Sweep(
        "waivers",
        "old waivers",
        _confirmed(lambda scope, rows, terms: queries.drop_waivers(scope, rows, terms.waivers)),
    ),
    Sweep(
        "comments",
        "comments of old incidents",
        _confirmed(lambda scope, rows, terms: queries.drop_comments(scope, rows, terms.incidents)),
    ),
    Sweep(
        "incidents",
        "old closed incidents",
        _confirmed(lambda scope, rows, terms: queries.drop_incidents(scope, rows, terms.incidents)),
    ),
    Sweep(
        "snapshots",
        "old snapshots",
        _confirmed(lambda scope, rows, terms: queries.drop_snapshots(scope, rows, terms.snapshots)),
    ),
    Sweep(
        "check_states",
        "checks that no run names any more",
        lambda scope, rows, terms: queries.drop_check_states(scope, rows, terms.check_states),
    ),
    Sweep(
        "evidence",
        "payloads older than six years",
        _confirmed(lambda scope, rows, terms: queries.prune_payloads(scope, rows, terms.evidence)),
    ),
    Sweep(
        "verification",
        "each log against its receipt, once a day",
        lambda scope, rows, _: self_verification.advance(scope, rows),
        _MINUTE,
    ),
    Sweep(
        "queue_samples",
        "old samples of what waited on appliances",
        lambda scope, rows, _: queue_samples.drop(scope, rows, _SAMPLE_DAYS),
        rows=5000,
    ),
    Sweep(
        "healed_days",
        "old days of what was healed",
        _confirmed(lambda scope, rows, terms: healed_days.drop(scope, rows, terms.incidents)),
    ),
    Sweep(
        "told",
        "old problems, with what was told of them",
        lambda scope, rows, terms: problems.drop(scope, rows, terms.problems),
    ),
    Sweep(
        "tests",
        "old tests of channels",
        lambda scope, rows, terms: notifications.drop_tests(scope, rows, terms.problems),
    ),
    NOTICING,
    Sweep(
        "problems_all",
        "the same of every site, whenever it changed",
        lambda scope, rows, _: telling.notice(scope, rows, telling.EVER),
        timedelta(minutes=10),
        rows=1100,
    ),
)
NAMES = tuple(sweep.name for sweep in SWEEPS)


async def run(db: Database, sweep: Sweep, terms: Terms, *, dry_run: bool = False) -> Outcome:
    """Run a sweep now, whenever it last ran. A dry run does one chunk and rolls it back."""
    outcome = Outcome(sweep.name)
    try:
        outcome = await _chunks(db, sweep, terms, dry_run)
        error = None
    except errors.CentralCommandError as caught:
        error = str(caught)
    except Exception as caught:  # whatever it is, it must end neither the server nor the other sweeps
        log.exception("sweep %s broke", sweep.name)
        error = type(caught).__name__
    if error is not None:
        log.warning("sweep %s failed: %s", sweep.name, error)
        outcome = Outcome(sweep.name, error=error)
    if not dry_run and not outcome.busy:
        await _conclude(db, outcome)
    return outcome


async def run_due(db: Database, terms: Terms, sweeps: Sequence[Sweep] = SWEEPS) -> list[Outcome]:
    """Run what no process began within its interval, one after the other."""
    done = []
    for sweep in sweeps:
        async with db.platform() as scope:
            due = await queries.begin(scope, sweep.name, sweep.every)
        if due:
            done.append(await run(db, sweep, terms))
    return done


async def tell_due(
    db: Database, terms: Terms, tell: Callable[[Outcome], None], sweeps: Sequence[Sweep] = SWEEPS
) -> None:
    """Run what is due, and tell how each came out."""
    for outcome in await run_due(db, terms, sweeps):
        tell(outcome)


async def _chunks(db: Database, sweep: Sweep, terms: Terms, dry_run: bool) -> Outcome:
    rows = 0
    for number in range(1, (1 if dry_run else sweep.chunks) + 1):
        swept = await _chunk(db, sweep, terms, dry_run)
        if swept is None:
            return Outcome(sweep.name, rows, number - 1, more=True, busy=True)
        rows += swept.done
        if not swept.done:
            return Outcome(sweep.name, rows, number)
        await asyncio.sleep(_PAUSE_SECONDS)
    return Outcome(sweep.name, rows, number, more=True)


async def _chunk(db: Database, sweep: Sweep, terms: Terms, dry_run: bool) -> Swept | None:
    """Do one chunk in one transaction; None when another process is at this sweep."""
    try:
        async with db.platform() as scope:
            if not await queries.lock(scope, sweep.name):
                return None
            swept = _counted(sweep, await sweep.chunk(scope, sweep.rows, terms))
            if dry_run:
                _take_back(swept)
            return swept
    except _NotKept as dry:
        return dry.swept


def _counted(sweep: Sweep, swept: Swept) -> Swept:
    if not 0 <= swept.done == swept.chosen <= sweep.rows:
        raise errors.SweepMiscountError
    return swept


def _take_back(swept: Swept) -> None:
    raise _NotKept(swept)


async def _conclude(db: Database, outcome: Outcome) -> None:
    try:
        async with db.platform() as scope:
            await queries.conclude(scope, outcome.name, outcome.rows, outcome.error and outcome.error[:300])
    except errors.CentralCommandError as error:
        log.warning("sweep %s: its end was not written: %s", outcome.name, error)
