"""Flipped bits, zeroed pages, truncation, a missing log: what is intact is salvaged, what is not is listed."""

import contextlib
import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ccagent import opening, queue, salvage
from ccagent.places import Places
from ccagent.store import DamagedError, Store
from tests.faults import appliance
from tests.faults.appliance import Told
from tests.faults.rows import Row, scratch, seeded

DATABASE, WAL = salvage.DATABASE, salvage.WAL
_PAGE = 4096

Place = tuple[str, int]
Damage = Callable[[random.Random, dict[str, bytearray]], None]


@dataclass(frozen=True)
class Sound:
    """A sound state directory: its entries' leaves, and where in the files each stands in one piece."""

    directory: Path
    leaves: appliance.Acknowledged
    copies: dict[Place, list[tuple[str, int, bytes]]]


def run(seed: int, n: int) -> Row:
    """Damage sound stores n times; each must open, hold every intact entry, and list exactly what it lacks."""
    logging.disable(logging.CRITICAL)
    row, chance = Row(), seeded(seed, "flips")
    with scratch() as place:
        sound = [_sound(place / name, closed=name == "closed") for name in ("closed", "killed")]
        for number in range(n):
            damaged = place / "damaged"
            which = chance.choice(sound)
            name = chance.choice([name for name in DAMAGES if which is sound[1] or not name.endswith("log")])
            intact = _damage(which, damaged, DAMAGES[name], chance)
            _check(f"damage {number}, {name}", which, damaged, intact, row)
            shutil.rmtree(damaged)
    kept, intact_count = row.counts.get("salvaged", 0), row.counts.get("intact rows", 0)
    row.expect(kept >= 0.99 * intact_count, f"only {kept} of {intact_count} intact rows were salvaged")
    return row


def flip_database(chance: random.Random, files: dict[str, bytearray]) -> None:
    _flip(chance, files[DATABASE])


def flip_log(chance: random.Random, files: dict[str, bytearray]) -> None:
    _flip(chance, files[WAL])


def flip_many(chance: random.Random, files: dict[str, bytearray]) -> None:
    for _ in range(8):
        _flip(chance, files[DATABASE])


def zero_page(chance: random.Random, files: dict[str, bytearray]) -> None:
    page = chance.randrange(len(files[DATABASE]) // _PAGE) * _PAGE
    files[DATABASE][page : page + _PAGE] = bytes(_PAGE)


def zero_first_page(_: random.Random, files: dict[str, bytearray]) -> None:
    files[DATABASE][:_PAGE] = bytes(_PAGE)


def truncate_database(chance: random.Random, files: dict[str, bytearray]) -> None:
    del files[DATABASE][chance.randrange(len(files[DATABASE])) :]


def truncate_log(chance: random.Random, files: dict[str, bytearray]) -> None:
    del files[WAL][chance.randrange(len(files[WAL])) :]


def lose_log(_: random.Random, files: dict[str, bytearray]) -> None:
    del files[WAL]


DAMAGES: dict[str, Damage] = {
    "a bit of the database": flip_database,
    "eight bits of the database": flip_many,
    "a bit of the log": flip_log,
    "a zeroed page": zero_page,
    "the first page zeroed": zero_first_page,
    "a truncated database": truncate_database,
    "a truncated log": truncate_log,
    "no log": lose_log,
}


def _flip(chance: random.Random, data: bytearray) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _sound(directory: Path, *, closed: bool) -> Sound:
    places = appliance.settle_in(directory.with_name(f"{directory.name}.run"))
    store = appliance.open_store(places)
    appliance.begin(store)
    for number in range(1, 120):
        store.write_now(queue.append, appliance.draft(number, 9000 if number % 17 == 3 else 200))
        if number in (40, 90):
            appliance.acknowledge(store, number)
        if number == 70:
            store.read(lambda tx: tx.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    if closed:
        store.close()
    shutil.copytree(places.state_dir, directory)
    store.close()
    with contextlib.closing(Store.open(places)) as again:
        leaves = appliance.told(again).leaves
    return Sound(directory, leaves, _copies(directory))


def _copies(directory: Path) -> dict[Place, list[tuple[str, int, bytes]]]:
    found: dict[Place, list[tuple[str, int, bytes]]] = {}
    for name in (DATABASE, WAL):
        data = (directory / name).read_bytes() if (directory / name).exists() else b""
        for first, end in salvage._whole_entries(data):
            match = salvage._TAIL.search(data[first:end])
            if match is not None:
                copies = found.setdefault((match[1].decode(), int(match[3])), [])
                copies.append((name, first, data[first : end + 32]))
    return found


def _damage(sound: Sound, target: Path, damage: Damage, chance: random.Random) -> set[Place]:
    """Write a damaged copy; return the places of which a whole row is still somewhere in it."""
    target.mkdir()
    names = [name for name in (DATABASE, WAL) if (sound.directory / name).exists()]
    files = {name: bytearray((sound.directory / name).read_bytes()) for name in names}
    damage(chance, files)
    for path in sound.directory.iterdir():
        if path.name in files:
            (target / path.name).write_bytes(files[path.name])
        elif path.name == "ballast":
            os.link(path, target / path.name)
        elif path.name not in names:
            shutil.copy(path, target / path.name)
    return {
        place
        for place, copies in sound.copies.items()
        if any(files.get(name, b"")[at : at + len(data)] == data for name, at, data in copies)
    }


def _check(where: str, sound: Sound, damaged: Path, intact: set[Place], row: Row) -> None:
    row.count("damaged stores")
    with contextlib.closing(appliance.open_store(Places(damaged))) as store:
        told = _told(store, row)
        store.write_now(queue.append, appliance.draft(999_999))
    row.count("intact rows", len(intact))
    row.count("salvaged", sum(told.leaves.get(place) == sound.leaves[place] for place in intact))
    row.count("listed as missing", len(told.missing))
    altered = [place for place, leaf in sound.leaves.items() if told.leaves.get(place, leaf) != leaf]
    row.expect(not altered, f"{where}: {altered[:2]} are not what was sealed")
    gone = {place for place in sound.leaves if place not in told.leaves}
    row.expect(gone == told.missing, f"{where}: {len(gone)} are missing, {len(told.missing)} are listed")
    with contextlib.closing(appliance.open_store(Places(damaged))) as store:
        again = appliance.told(store)
    row.expect(again.epochs == told.epochs, f"{where}: the salvaged store was taken for a damaged one")


def _told(store: Store, row: Row) -> Told:
    """Read all; what was damaged among the receipted entries is found here, before it is used, and mended."""
    try:
        told = appliance.told(store)
    except DamagedError as error:
        row.count("found while in use")
        opening.mend(store, appliance.STAMP, str(error))
        told = appliance.told(store)
    if told.epochs > 1:
        row.count("found")
    return told
