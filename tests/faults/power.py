"""Power loss: the real store's writes, syncs and renames are recorded, and the disk rebuilt as a cut may leave it."""

import contextlib
import json
import logging
import math
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ccagent.places import Places
from ccagent.store import DamagedError, StoreUnusableError
from ccshared.entries import BadEntryError
from tests.faults import appliance, disk, scenarios, shim
from tests.faults.disk import Disk, Op
from tests.faults.rows import Row, scratch, seeded

# Of all images, how many are of each; the last proves that the harness bites.
_SHARES = {"append": 2, "checkpoint": 3, "retention": 2, "migration": 1, "salvage": 2, "syncs": 2}


@dataclass(frozen=True)
class Recording:
    """A recorded run: the directory as it was before and where it was, what was done, and what was promised before."""

    name: str
    before: Path
    directory: Path
    ops: list[Op]
    inodes: dict[str, int]
    owned: appliance.Acknowledged


def run(seed: int, n: int) -> Row:
    """Check n images, and that the same harness finds what synchronous=NORMAL loses."""
    logging.disable(logging.CRITICAL)
    row = Row()
    with scratch() as place:
        for name, share in _SHARES.items():
            images = math.ceil(n * share / sum(_SHARES.values()))
            _check(record(name, place), images, seeded(seed, name), row)
        bitten = Row()
        _check(record("normal", place), max(n // 10, 60), seeded(seed, "bite"), bitten)
    lost = bitten.counts.get("acknowledged entries lost", 0)
    row.count("lost where synchronous=NORMAL", lost)
    row.expect(lost > 0, "the harness does not bite: synchronous=NORMAL lost nothing")
    return row


def record(name: str, place: Path) -> Recording:
    """Run a scenario under the shim."""
    before, directory, log = place / f"{name}.before", place / f"{name}.run", place / f"{name}.log"
    scenarios.prepare(name, directory)
    inodes = {str(path.relative_to(directory)): path.stat().st_ino for path in directory.rglob("*")}
    shutil.copytree(directory, before)
    shim.run("tests.faults.scenarios", name, str(directory), str(log))
    ops = disk.read_log(log)
    assert sum(op.type == "F" for op in ops) > 5, "the shim saw nothing: is this Python linked statically?"
    return Recording(name, before, directory, ops, inodes, _owned(name, before))


def _owned(name: str, before: Path) -> appliance.Acknowledged:
    """Return what the store held before, but for the entry that the scenario spoils."""
    if name not in {"migration", "salvage"}:
        return {}
    with tempfile.TemporaryDirectory(dir=before.parent) as made:
        shutil.copytree(before, made, dirs_exist_ok=True)
        with contextlib.closing(appliance.open_store(Places(Path(made)))) as store:
            leaves = appliance.told(store).leaves
    return {place: leaf for place, leaf in leaves.items() if place[0] == appliance.ORIGIN}


def _check(recording: Recording, images: int, chance: random.Random, row: Row) -> None:
    """Cut the power at random moments, once at each, and open what is left."""
    model = Disk(recording.before, recording.directory, recording.inodes)
    cuts = sorted(chance.randrange(1, len(recording.ops) + 1) for _ in range(images))
    acknowledged: appliance.Acknowledged = dict(recording.owned)
    done = 0
    for cut in cuts:
        for op in recording.ops[done:cut]:
            model.do(op)
            if op.type == "M":
                origin, seq, leaf = json.loads(op.data)
                acknowledged[origin, seq] = leaf
        done = cut
        with tempfile.TemporaryDirectory(dir=recording.before.parent) as made:
            image = Path(made)
            model.image(chance, image)
            _check_image(f"{recording.name}, cut after {cut} operations", image, acknowledged, row)


def _check_image(where: str, image: Path, acknowledged: appliance.Acknowledged, row: Row) -> None:
    row.count("images")
    try:
        with contextlib.closing(appliance.open_store(Places(image))) as store:
            told = appliance.told(store)
    except (AssertionError, BadEntryError, DamagedError, StoreUnusableError) as error:
        row.count("broken chains")
        row.expect(False, f"{where}: {error!r}")
        return
    lost = [place for place, leaf in acknowledged.items() if told.leaves.get(place) != leaf]
    if lost:
        row.count("acknowledged entries lost", len(lost))
        row.expect(False, f"{where}: {len(lost)} acknowledged entries are lost, the first is {lost[0]}")
    needless = told.epochs > 1 and not where.startswith("salvage")
    row.expect(not needless, f"{where}: a sound store was taken for a damaged one")
