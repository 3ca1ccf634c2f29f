"""A disk that is full, because of others or because of us: what must not be lost is kept, and the rest counted.

The process runs with the shim preloaded, which lets its files grow by so many bytes and no more.
`python -m tests.faults.full SEED N` is that process. At full length `small_disk` does it to a running agent as well.
"""

import contextlib
import json
import logging
import random
import shutil
import sys
from pathlib import Path

from ccagent import budget, evidence, queue
from ccagent.budget import NoRoomError
from ccagent.store import Store, StoreFailedError, Tx
from ccshared import canonical
from ccshared.vocabulary import Kind
from tests.faults import appliance, kill, shim, small_disk
from tests.faults.rows import Row, scratch, seeded
from tests.faults.shim import Shim

_ROUTINE = 400  # entries offered while there is no room
_STORES_OF_THE_QUICK_FORM = 8


def run(seed: int, n: int) -> Row:
    """Fill the disk below n stores, and give it room again; at full length below a running agent too."""
    made = json.loads(shim.run(__name__, str(seed), str(n)))
    row = Row(made["counts"], made["faults"])
    if n > _STORES_OF_THE_QUICK_FORM:
        with scratch() as place:
            small_disk.run(place / "real", row, kill.enrolled)
    return row


class Trial:
    """One store on a disk that fills up."""

    def __init__(self, store: Store, row: Row) -> None:
        self.store = store
        self.row = row
        self.number = 0
        self.promised: appliance.Acknowledged = {}

    def offer(self) -> bool:
        """Offer routine evidence; return whether it was kept. One that failed with the disk is offered again."""
        self.number += 1
        draft = appliance.draft(self.number, 600, Kind.CHECK_RUN)
        with contextlib.suppress(StoreFailedError):
            return self._note(self.store.write_now(queue.offer, draft))
        return self._note(self.store.write_now(queue.offer, draft))

    def settle(self) -> bool:
        """Prove a repair."""
        self.number += 1
        try:
            return self._note(self.store.write_now(queue.append, appliance.draft(self.number, 600, Kind.REMEDIATION)))
        except (NoRoomError, StoreFailedError):
            return False

    def _note(self, entry: queue.Entry | None) -> bool:
        if entry is not None:
            self.promised[entry.log, entry.seq] = entry.leaf.hex()
        return entry is not None


def _by_others(failing: Shim, trial: Trial, chance: random.Random) -> None:
    """Others leave less than a mebibyte; the store gives up its ballast, and says so by refusing what is routine."""
    failing.quota(chance.randint(0, 300_000))
    refused = sum(not trial.offer() for _ in range(_ROUTINE))
    trial.row.count("refused", refused)
    trial.row.expect(refused > 0, "a full disk refused nothing")
    trial.row.expect(trial.settle(), "a repair could not be proved on the ballast")
    refused += _use_up(trial)
    _give_room(failing, trial, refused)


def _by_us(failing: Shim, trial: Trial, chance: random.Random) -> None:
    """The budget is used up to 95 %."""
    failing.quota(-1)
    pages: int = trial.store.read(lambda tx: tx.execute("PRAGMA page_count").fetchone()[0])
    _budget(trial.store, pages + chance.randint(40, 200))
    refused = sum(not trial.offer() for _ in range(_ROUTINE * 2))
    trial.row.count("refused", refused)
    trial.row.expect(refused > 0, "a budget that is used up refused nothing")
    trial.row.expect(trial.store.read(budget.may_repair), "at 95 % no repair could start")
    trial.row.expect(trial.settle(), "a repair made at 95 % could not be proved")
    refused += _use_up(trial)
    trial.row.expect(not trial.store.read(budget.may_repair), "a repair could start at 99 %")
    _budget(trial.store, 500_000)
    _tells(trial, refused)


def _budget(store: Store, pages: int) -> None:
    def limit(tx: Tx) -> None:
        tx.budget_pages = pages

    store.read(limit)


def _use_up(trial: Trial) -> int:
    """Prove repairs until there is no room for that either: receipts are still taken and refusals counted."""
    trial.row.count("repairs proved", sum(1 for _ in iter(trial.settle, False)))
    refused = 0
    for _ in range(40):
        _upload(trial)
        refused += not trial.offer()
    return refused


def _upload(trial: Trial) -> None:
    """A receipt is taken however full it is."""
    size = trial.store.read(queue.head).size
    appliance.acknowledge(trial.store, size)
    trial.row.expect(trial.store.read(queue.status).watermark == size, "a receipt found no room")


def _give_room(failing: Shim, trial: Trial, refused: int) -> None:
    failing.quota(-1)
    trial.store.tend()  # as the agent does twice a minute
    _tells(trial, refused)


def _tells(trial: Trial, refused: int) -> None:
    told = trial.store.write_now(queue.tell_of_refused, evidence.gap(appliance.STAMP))
    trial.row.expect(told is not None, "there is room, and no gap is told of")
    if told is not None:
        count = canonical.read(told.payload)["body"]["count"]
        trial.row.count("told by gaps", count)
        trial.row.expect(count == refused, f"{refused} were refused, the gap says {count}")
        trial.row.expect(trial.offer(), "there is room, and routine evidence is refused")
    trial.row.expect(trial.store.read(budget.refused).count == 0, "the count was not begun anew")


def main(seed: int, n: int) -> Row:
    logging.disable(logging.CRITICAL)
    row, chance, failing = Row(), seeded(seed, "full"), Shim()
    with scratch() as place:
        for number in range(n):
            row.count("stores")
            _try(failing, place / "state", (number % 2 == 0, chance), row)
            shutil.rmtree(place / "state")
    return row


def _try(failing: Shim, directory: Path, how: tuple[bool, random.Random], row: Row) -> None:
    places = appliance.settle_in(directory)
    failing.watch(directory)
    failing.quota(-1)
    with contextlib.closing(appliance.open_store(places)) as store:
        appliance.begin(store)
        trial = Trial(store, row)
        (_by_others if how[0] else _by_us)(failing, trial, how[1])
    with contextlib.closing(appliance.open_store(places)) as store:
        told = appliance.told(store)
    lost = [place for place, leaf in trial.promised.items() if told.leaves.get(place) != leaf]
    row.expect(not lost, f"{len(lost)} promised entries are lost")
    row.expect(told.epochs == 1, "a sound store was taken for a damaged one")


if __name__ == "__main__":
    made = main(int(sys.argv[1]), int(sys.argv[2]))
    json.dump({"counts": made.counts, "faults": made.faults}, sys.stdout)
