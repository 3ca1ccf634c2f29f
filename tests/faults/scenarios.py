"""What the recorded process does: `python -m tests.faults.scenarios NAME DIRECTORY LOG`, with the shim preloaded.

Each entry that was acknowledged is marked in the record at that moment. `prepare` makes what is on the disk before.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Protocol

from ccagent import queue, retention
from ccagent import store as stores
from ccagent.places import Places
from ccagent.store import Store, StoreFailedError, StoreUnusableError
from ccshared.entries import Draft, Entry
from tests.faults import appliance
from tests.faults.shim import SYNC, Shim

LATER_MS = appliance.STAMP[0] + retention.KEEP_MS


def prepare(name: str, directory: Path) -> None:
    """Make the state directory as it is before the recorded process starts."""
    places = appliance.settle_in(directory)
    if name == "migration":
        with_first_schema(places)
    elif name == "salvage":
        damaged(places)


def with_first_schema(places: Places) -> None:
    """Leave a database as the first release made it."""
    files = stores._schema_files
    stores._schema_files = lambda: files()[:1]  # type: ignore[assignment]
    try:
        store = Store.open(places)
        appliance.begin(store)
        for number in range(1, 30):
            store.write_now(queue.append, appliance.draft(number))
        store.close()
    finally:
        stores._schema_files = files


def damaged(places: Places) -> None:
    """Leave a database in which one entry in the middle is spoilt, and its first 20 are receipted."""
    store = appliance.open_store(places)
    appliance.begin(store)
    for number in range(1, 60):
        store.write_now(queue.append, appliance.draft(number))
    appliance.acknowledge(store, 20)
    store.close()
    data = bytearray(places.database.read_bytes())
    data[data.index(b'"number":33,') + 3] ^= 1
    places.database.write_bytes(data)


class Record(Protocol):
    """Where it is written that an entry was acknowledged."""

    def mark(self, text: str) -> None: ...


class Recorded:
    """A store whose acknowledged entries are marked in the record."""

    def __init__(self, store: Store, record: Record) -> None:
        self.store = store
        self.record = record
        self.number = 0

    def drafts(self, count: int) -> list[Draft]:
        first, self.number = self.number, self.number + count
        numbers = range(10_000 + first, 10_000 + first + count)
        return [appliance.draft(number, 6000 if number % 13 == 5 else 60) for number in numbers]

    def acknowledged(self, entry: Entry) -> None:
        self.record.mark(json.dumps([entry.log, entry.seq, entry.leaf.hex()]))

    def append(self, count: int) -> None:
        for one in self.drafts(count):
            self.acknowledged(self.store.write_now(queue.append, one))

    async def append_together(self, rounds: int, producers: int) -> None:
        for _ in range(rounds):
            for entry in await asyncio.gather(*(self.store.write(queue.append, one) for one in self.drafts(producers))):
                self.acknowledged(entry)

    def fill(self, count: int) -> None:
        """Append many in one commit."""
        drafts = self.drafts(count)
        for entry in self.store.write_now(lambda tx: [queue.append(tx, one) for one in drafts]):
            self.acknowledged(entry)


def together(run: Recorded) -> None:
    asyncio.run(run.append_together(2, 5))


def fail_to_sync(run: Recorded) -> None:
    """Let a sync fail now and then: what the kernel then calls clean never reaches the disk."""
    appliance.begin(run.store)
    shim = Shim()
    for number in range(24):
        shim.fail(SYNC, 1 + number % 4, errno.EIO, number % 2)
        for _ in range(2):
            with contextlib.suppress(StoreFailedError, StoreUnusableError):
                run.append(3)
        shim.fail(0, 0)
        run.append(2)


def append(run: Recorded) -> None:
    appliance.begin(run.store)
    for _ in range(4):
        run.append(8)
        asyncio.run(run.append_together(4, 5))
        appliance.acknowledge(run.store, run.store.read(queue.head).size - 3)
        run.store.write_now(queue.note_success, appliance.STAMP[0])


def keep_for_a_month(run: Recorded) -> None:
    appliance.begin(run.store)
    for _ in range(3):
        run.fill(300)
        appliance.acknowledge(run.store, run.store.read(queue.head).size)
        run.append(2)
        while run.store.write_now(retention.prune, LATER_MS):
            run.append(1)
            run.store.tend()


def go_on(run: Recorded) -> None:
    if run.store.read(queue.current) is None:
        appliance.begin(run.store)
    run.append(12)


SCENARIOS = {
    "append": append,
    "checkpoint": append,
    "retention": keep_for_a_month,
    "migration": go_on,
    "salvage": go_on,
    "syncs": fail_to_sync,
    "normal": append,
}
_CHECKPOINT_PAGES = {"append": 1000, "checkpoint": 12, "retention": 60, "normal": 40}


def main(name: str, directory: Path, log: Path) -> None:
    logging.disable(logging.CRITICAL)
    shim = Shim()
    shim.watch(directory, log)
    store = appliance.open_store(Places(directory))
    pages = _CHECKPOINT_PAGES.get(name, 20)
    store.read(lambda tx: tx.execute(f"PRAGMA wal_autocheckpoint = {pages}"))
    if name == "normal":
        store.read(lambda tx: tx.execute("PRAGMA synchronous = NORMAL"))
    SCENARIOS[name](Recorded(store, shim))
    if name != "append":
        store.close()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
