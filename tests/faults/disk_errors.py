"""I/O errors, short writes, a full disk and failing fsyncs at every n-th operation: no torn unit, no false promise."""

import asyncio
import contextlib
import errno
import json
import logging
import random
import shutil
import sys
from pathlib import Path

from ccagent import queue
from ccagent.places import Places
from ccagent.store import DamagedError, Store, StoreFailedError, StoreUnusableError, Tx
from ccshared.entries import BadEntryError, Draft, Entry
from tests.faults import appliance, shim
from tests.faults.rows import Row, scratch, seeded
from tests.faults.shim import Shim

_KINDS = {
    "write": (shim.WRITE, errno.EIO),
    "no space": (shim.WRITE, errno.ENOSPC),
    "sync": (shim.SYNC, errno.EIO),
    "truncate": (shim.TRUNCATE, errno.EIO),
    "name": (shim.NAME, errno.EACCES),
    "open": (shim.OPEN, errno.EMFILE),
}
_MODES = (shim.ONCE, shim.FROM_THEN_ON, shim.SHORT_ONCE, shim.SHORT_THEN_FAIL)


def run(seed: int, n: int) -> Row:
    """Run n stores, each with one kind of failure from some operation on."""
    made = json.loads(shim.run(__name__, str(seed), str(n)))
    return Row(made["counts"], made["faults"])


def pair(tx: Tx, first: Draft, second: Draft) -> tuple[Entry, Entry]:
    return queue.append(tx, first), queue.append(tx, second)


class Trial:
    """One store that meets a failure: what it promised, and which drafts went in pairs."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.promised: appliance.Acknowledged = {}
        self.refused = 0

    def promise(self, entries: tuple[Entry, ...]) -> None:
        self.promised.update({(entry.log, entry.seq): entry.leaf.hex() for entry in entries})

    def work(self, store: Store, base: int) -> None:
        for number in range(base, base + 12, 2):
            try:
                drafts = [appliance.draft(number + i, 5000 if number % 6 == 4 else 60) for i in (0, 1)]
                self.promise(store.write_now(pair, *drafts))
            except (StoreFailedError, StoreUnusableError):
                self.refused += 1
        asyncio.run(self.work_together(store, base + 20))

    async def work_together(self, store: Store, base: int) -> None:
        units = [store.write(pair, appliance.draft(n), appliance.draft(n + 1)) for n in range(base, base + 8, 2)]
        for outcome in await asyncio.gather(*units, return_exceptions=True):
            if isinstance(outcome, tuple):
                self.promise(outcome)
            elif isinstance(outcome, StoreFailedError | StoreUnusableError):
                self.refused += 1
            else:
                raise outcome


def _try(failing: Shim, directory: Path, chance: random.Random, row: Row) -> None:
    name = chance.choice(list(_KINDS))
    mask, error = _KINDS[name]
    mode, nth = chance.choice(_MODES), chance.randint(1, 80)
    where = f"{name}, call {nth}, mode {mode}"
    trial = Trial(appliance.settle_in(directory))
    failing.watch(directory)
    with contextlib.closing(appliance.open_store(trial.places)) as store:
        appliance.begin(store)
        store.read(lambda tx: tx.execute("PRAGMA wal_autocheckpoint = 12"))
    _open_and_work(failing, trial, (mask, nth, error, mode))
    row.count("failures met", min(trial.refused, 1))
    try:
        with contextlib.closing(appliance.open_store(trial.places)) as store:
            told = appliance.told(store)
    except (AssertionError, BadEntryError, DamagedError, StoreUnusableError) as failure:
        row.expect(False, f"{where}: {failure!r}")
        return
    lost = [place for place, leaf in trial.promised.items() if told.leaves.get(place) != leaf]
    row.expect(not lost, f"{where}: {len(lost)} promised entries are lost")
    row.expect(told.epochs == 1, f"{where}: a sound store was taken for a damaged one")
    row.expect(len(told.leaves) % 2 == 1, f"{where}: a unit was torn")


def _open_and_work(failing: Shim, trial: Trial, failure: tuple[int, int, int, int]) -> None:
    failing.fail(*failure)
    try:
        store = appliance.open_store(trial.places)
    except (StoreFailedError, StoreUnusableError):
        trial.refused += 1
        failing.fail(0, 0)
        store = appliance.open_store(trial.places)
    with contextlib.closing(store):
        trial.work(store, 100)
        failing.fail(0, 0)
        trial.promise(store.write_now(pair, appliance.draft(900), appliance.draft(901)))


def main(seed: int, n: int) -> Row:
    logging.disable(logging.CRITICAL)
    row, chance, failing = Row(), seeded(seed, "disk errors"), Shim()
    with scratch() as place:
        for _ in range(n):
            row.count("stores")
            _try(failing, place / "state", chance, row)
            shutil.rmtree(place / "state")
    return row


if __name__ == "__main__":
    made = main(int(sys.argv[1]), int(sys.argv[2]))
    json.dump({"counts": made.counts, "faults": made.faults}, sys.stdout)
