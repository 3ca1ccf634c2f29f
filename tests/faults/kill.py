"""kill -9 at random moments of a process that appends, uploads and prunes with the agent's own store and uploader.

The child says each entry that it was promised; whatever it said must be there after the kill, and what it uploads must
stand once on the server. `python -m tests.faults.kill DIRECTORY` is the child.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ccagent import clock, enrolment, identity, opening, queue, retention
from ccagent.client import Client
from ccagent.clock import ClockWatch
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import Pace, Uploader
from ccshared import canonical, merkle
from ccshared.entries import Draft, Entry
from ccshared.messages import ServerKey
from ccshared.vocabulary import Clock, Kind
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Witness, running
from tests.faults import appliance
from tests.faults.rows import Row, scratch, seeded

_ROOT = Path(__file__).parents[2]
_KILLS_OF_ONE = 25  # the witness computes each root anew, so no log becomes long
# How many wait, and how soon the next append must follow (s). The quick form shares the machine with other tests.
_FULL, _QUICK = (100_000, 2.0), (5_000, 10.0)


@dataclass(frozen=True)
class Lived:
    """What a child said before it was killed: entries by place, and how long it took to the first (s)."""

    promised: dict[tuple[str, int], str]
    first_after_s: float


def run(seed: int, n: int) -> Row:
    """Kill n children, then see how soon the next append is possible with many entries waiting."""
    logging.disable(logging.CRITICAL)
    row, chance = Row(), seeded(seed, "kill")
    with scratch() as place:
        for number in range(0, n, _KILLS_OF_ONE):
            _kill_one_appliance(place / str(number), min(_KILLS_OF_ONE, n - number), chance, row)
        _start_with_many_waiting(place / "many", _FULL if n > _KILLS_OF_ONE else _QUICK, row)
    return row


def _kill_one_appliance(directory: Path, kills: int, chance: random.Random, row: Row) -> None:
    promised: dict[tuple[str, int], str] = {}
    with running(Witness()) as witness:
        places = enrolled(directory, witness)
        for _ in range(kills):
            lived = _live(places, chance.uniform(0.0, 0.5))
            row.count("kills")
            row.count("promised entries", len(lived.promised))
            promised |= lived.promised
            _check(places, promised, row)
        _check_server(places, witness, row)


def _live(places: Places, span_s: float) -> Lived:
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.faults.kill", str(places.state_dir)]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_ROOT)]))
    environ = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        after_s = time.monotonic() - began
        time.sleep(span_s)
        child.send_signal(signal.SIGKILL)
        said = [first, *child.stdout.read().splitlines(keepends=True)]
    whole = [json.loads(line) for line in said if line.endswith("\n")]
    assert whole, "the child said nothing"
    return Lived({(log, seq): leaf for log, seq, leaf in whole}, after_s)


def _check(places: Places, promised: dict[tuple[str, int], str], row: Row) -> None:
    with contextlib.closing(appliance.open_store(places)) as store:
        told = appliance.told(store)
    lost = [place for place, leaf in promised.items() if told.leaves.get(place) != leaf]
    row.expect(not lost, f"{len(lost)} promised entries are lost, the first is {lost[:1]}")
    row.expect(told.epochs == 1, "a sound store was taken for a damaged one")


def _check_server(places: Places, witness: Witness, row: Row) -> None:
    """What the server has is the beginning of what is here, and no entry of it twice."""
    with contextlib.closing(appliance.open_store(places)) as store:
        leaves = appliance.told(store).leaves
    for log in witness.logs.values():
        ids = Counter(canonical.read(line)["id"] for line in log.lines)
        row.count("on the server", len(ids))
        row.expect(max(ids.values(), default=0) <= 1, "an entry stands twice on the server")
        here = [leaves.get((log.origin, seq)) for seq in range(len(log.lines))]
        row.expect(here == [merkle.leaf_hash(line).hex() for line in log.lines], "the server has what is not here")


def _start_with_many_waiting(directory: Path, asked: tuple[int, float], row: Row) -> None:
    waiting, within_s = asked
    with running(Witness()) as witness:
        places = enrolled(directory, witness)
    with contextlib.closing(appliance.open_store(places)) as store:
        genesis = appliance.evidence.genesis(appliance.STAMP, _beginning(places))
        store.write_now(queue.open_epoch, _epoch(places), genesis)
        for first in range(0, waiting, 5_000):
            drafts = [appliance.draft(first + i, 600) for i in range(5_000)]
            store.write_now(lambda tx, these=drafts: [queue.append(tx, one) for one in these])
    # The quickest of at most six: what else this machine does is not what is measured.
    soonest = math.inf
    for _ in range(6):
        soonest = min(soonest, _live(places, 0.1).first_after_s)
        if soonest <= within_s:
            break
    row.count("waiting at a start", waiting)
    row.count("ms to the next append", round(soonest * 1000))
    row.expect(soonest <= within_s, f"the next append took {soonest:.1f} s from the start of the process")


def enrolled(directory: Path, witness: Witness) -> Places:
    """Make the files of an appliance that is enrolled at a witness."""
    places = Places(directory)
    directory.mkdir(parents=True)
    device = witness.known_device()
    places.device_key.write_bytes(device.seed)
    identity.save(
        places,
        Identity(
            server=SERVER,
            server_url=witness.url,
            site_id=SITE,
            appliance_id=APPLIANCE,
            public_key=witness.device_key.hex(),
            keys=[ServerKey(**key) for key in witness.server_keys()],
            enrolled_at_ms=1,
            next_epoch_number=1,
        ),
    )
    return places


def _epoch(places: Places) -> queue.Epoch:
    known = identity.load(places)
    assert known is not None
    return queue.Epoch(appliance.EPOCH, known.origins + appliance.EPOCH, known.public_key, appliance.STAMP[0])


def _beginning(places: Places) -> appliance.Beginning:
    return appliance.Beginning("enrolment", _epoch(places).public_key, None, 1, "0.1.0")


async def _produce(store: Store) -> None:
    while True:
        at = clock.now_ms()
        kind = secrets.choice([Kind.HEARTBEAT, Kind.CHECK_RUN])
        text = {"text": secrets.token_hex(secrets.choice([20, 20, 20, 3000]))}
        draft = Draft(kind, secrets.token_hex(16), at, Clock.UNSYNC, secrets.token_hex(16), text)
        _say(await store.write(queue.append, draft))


def _say(entry: Entry) -> None:
    print(json.dumps([entry.log, entry.seq, entry.leaf.hex()]), flush=True)


async def _keep(store: Store) -> None:
    while True:
        await asyncio.sleep(0.05)
        await store.write(retention.prune, clock.now_ms() + 1)
        store.tend()


async def _child(places: Places) -> None:
    with contextlib.closing(opening.open_store(places, ClockWatch().stamp())) as store:
        who = identity.load_enrolment(places)
        assert who is not None
        async with Client(who.identity.server_url, enrolment.device(who), timeout_s=5) as client:
            await enrolment.ensure_epoch(store, places, client, ClockWatch().stamp())
            uploader = Uploader(store, client, who, Pace(uniform=lambda low, high: 0.01, step_s=0.01))
            producers = [_produce(store) for _ in range(3)]
            await asyncio.gather(*producers, uploader.run(), _keep(store), _wake(uploader))


async def _wake(uploader: Uploader) -> None:
    while True:
        uploader.wake.set()
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(_child(Places(Path(sys.argv[1]))))
