"""What sealing and keeping an entry costs beside one bare INSERT of the same bytes with the same durability.

And beside the queues on SQLite that a user would pick instead, each in a process of its own.
"""

import asyncio
import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ccagent import queue
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.bench import rivals
from tests.bench.measure import Block, Pair, Result, faster, times

EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)
ROUNDS, ENTRIES, PRODUCERS = 31, 64, 32
ALONE, AWAITED, TOGETHER = 0.80, 0.60, 4.0  # of the bare INSERTs' speed
ALONE_OF_RIVAL, TOGETHER_OF_RIVAL = 0.85, 3.0


def _draft(number: int, kind: Kind = Kind.HEARTBEAT) -> Draft:
    return Draft(kind, f"{number:032x}", 1_000 + number, Clock.SYNC, f"{number:032x}", {"filler": "x" * 1750})


@dataclass(frozen=True)
class Stores:
    """The agent's store and the bare database, both open; `numbers` counts the drafts."""

    ours: Store
    bare: sqlite3.Connection
    numbers: Iterator[int]
    payload: bytes

    async def alone(self) -> None:
        for _ in range(ENTRIES):
            self.ours.write_now(queue.append, _draft(next(self.numbers)))

    async def awaited(self) -> None:
        for _ in range(ENTRIES):
            await self.ours.write(queue.append, _draft(next(self.numbers)))

    async def together(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PRODUCERS):
                tasks.create_task(self._produce())

    async def _produce(self) -> None:
        for _ in range(ENTRIES // PRODUCERS):
            await self.ours.write(queue.append, _draft(next(self.numbers)))

    async def inserts(self) -> None:
        for _ in range(ENTRIES):
            self.bare.execute("INSERT INTO kept (payload) VALUES (?)", (self.payload,))
            self.bare.commit()


async def measure(folder: Path) -> list[Result]:
    """Return the rows: one producer that waits for each commit, awaited, 32 at once, and both beside each rival."""
    with contextlib.closing(Store.open(Places(folder / "agent"))) as store, contextlib.closing(_bare(folder)) as bare:
        store.write_now(queue.open_epoch, EPOCH, _draft(0, Kind.GENESIS))
        entry = store.write_now(queue.append, _draft(1))
        both = Stores(store, bare, itertools.count(2), entry.payload)
        size = len(entry.payload)
        rows = [
            await _row(f"seal and keep {size} bytes ÷ one bare INSERT", Pair(both.alone, both.inserts), ALONE),
            await _row("the same, awaited ÷ one bare INSERT", Pair(both.awaited, both.inserts), AWAITED),
            await _row(f"{PRODUCERS} producers ÷ bare INSERTs one by one", Pair(both.together, both.inserts), TOGETHER),
        ]
        for name in rivals.QUEUES:
            with rivals.queue(name, folder / name, size) as rival:
                one, many = _of(rival, 1), _of(rival, PRODUCERS)
                rows += [
                    await _row(f"one by one ÷ {name}", Pair(both.alone, one), ALONE_OF_RIVAL),
                    await _row(f"{PRODUCERS} producers ÷ {name}", Pair(both.together, many), TOGETHER_OF_RIVAL),
                ]
        return rows


async def _row(what: str, pair: Pair, at_least: float) -> Result:
    return faster("append", what, await times(pair, ROUNDS), at_least, ENTRIES)


def _of(rival: rivals.Queue, producers: int) -> Block:
    async def block() -> None:
        rival.seconds(producers, ENTRIES)

    return block


def _bare(folder: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(folder / "bare.db")
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "locking_mode = EXCLUSIVE"):
        conn.execute(f"PRAGMA {pragma}")
    conn.execute("CREATE TABLE kept (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    conn.commit()
    return conn


def run() -> list[Result]:
    """Measure on the disk that holds the working directory; memory has no fsync to wait for."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as made:
        return asyncio.run(measure(Path(made)))
