"""What the next batch and the status cost the agent when a million entries wait, beside a thousand."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

from ccagent import queue
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccagent.uploader import MAX_PLAIN
from ccshared import merkle
from ccshared.batch import MAX_LINES
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.bench.measure import Block, Pair, Result, no_slower, times

MANY, FEW = 1_000_000, 1_000
ROUNDS, STATUS_CALLS, CHUNK = 101, 20, 100 * queue.RANGE_EVERY
AT_MOST, OR_AT_MOST_S = 1.5, 50e-6
EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)
GENESIS = Draft(Kind.GENESIS, "0" * 32, 1_000, Clock.SYNC, "0" * 32, {})
FILLER = b"x" * 400
KEPT = """
    INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""


def filled(folder: Path, size: int) -> Store:
    """Return a store in which so many entries wait; they are put where append would, for that is not on trial."""
    store = Store.open(Places(folder))
    first = store.write_now(queue.open_epoch, EPOCH, GENESIS)
    roots = [first.leaf]
    for start in range(1, size, CHUNK):
        roots = store.write_now(_fill, start, min(start + CHUNK, size), roots)
    store.empty_log()
    return store


def _fill(tx: Tx, start: int, end: int, compact: list[bytes]) -> list[bytes]:
    """Keep the entries `start` … `end - 1` on top of a compact range, and return the one that they reach."""
    rows, size = [], start
    for seq in range(start, end):
        payload = b"%032x" % seq + FILLER
        leaf = merkle.leaf_hash(payload)
        rows.append((EPOCH.epoch, seq, f"{seq:032x}", payload, leaf, (seq + 1) * len(payload), 1_000 + seq))
        size, compact = merkle.extend(size, compact, [leaf])
        if size % queue.RANGE_EVERY == 0:
            tx.execute("INSERT INTO ranges VALUES (?, ?, ?)", (EPOCH.epoch, size, b"".join(compact)))
    tx.connection.executemany(KEPT, rows)
    tx.known.clear()
    return compact


def _next_batch(store: Store) -> Block:
    async def block() -> None:
        lines = store.read(queue.lines, EPOCH.epoch, 1, MAX_LINES, MAX_PLAIN)
        store.read(queue.root_at, EPOCH.epoch, 1 + len(lines))
        assert len(lines) == MAX_LINES

    return block


def _status(store: Store) -> Block:
    async def block() -> None:
        for _ in range(STATUS_CALLS):
            assert store.read(queue.status).waiting >= FEW

    return block


async def measure(folder: Path) -> list[Result]:
    """Return the rows: the next batch, proved and with its root, and the status."""
    with (
        contextlib.closing(filled(folder / "many", MANY)) as many,
        contextlib.closing(filled(folder / "few", FEW)) as few,
    ):
        batch = await times(Pair(_next_batch(many), _next_batch(few)), ROUNDS)
        status = await times(Pair(_status(many), _status(few)), ROUNDS)
    each = [(ours / STATUS_CALLS, other / STATUS_CALLS) for ours, other in status]
    return [
        no_slower("waiting", f"next batch, {MANY:,} wait ÷ {FEW:,}", batch, AT_MOST, OR_AT_MOST_S),
        no_slower("waiting", f"status, {MANY:,} wait ÷ {FEW:,}", each, AT_MOST, OR_AT_MOST_S),
    ]


def run() -> list[Result]:
    """Measure on the disk that holds the working directory."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as made:
        return asyncio.run(measure(Path(made)))
