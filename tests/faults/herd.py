"""A thousand appliances after three days without their server: they must not come back all at once, nor late.

The agent's own loops on a clock that jumps, through the code of `cc-agent simulate`. All appliances were switched on in
one second, which is the worst that chance has to scatter. The state that 72 hours leave is put in place, and the last
quarter of an hour is lived through by all; a few live through all of it, and must end in the state that was put in
place.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from ccagent import evidence, identity, opening, queue
from ccagent.config import Settings
from ccagent.evidence import Beginning
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.queue import Epoch, Failure
from ccagent.simulation import appliance, fleet
from ccagent.simulation.fleet import Outcome, Stage
from ccagent.simulation.scenario import Objectives, Outage, Scenario
from ccagent.store import Store, Tx
from ccshared import ed25519
from ccshared.messages import ServerKey
from ccshared.vocabulary import Clock
from tests.faults.appliance import ORDER, STAMP, WITNESS, WITNESS_NAME, draft
from tests.faults.memory_wire import MemoryWire
from tests.faults.rows import Row, scratch, seeded

HOUR_S = 3600.0
OUTAGE_H = 72
# By then an agent has failed so often that its longest wait has grown to the full hour.
GROWN = 6
LIVED_S = 900.0
FULL_FROM = 1000
LIVE_ALL = 4
PEAK_SHARE, MEDIAN_S = 0.05, 180


def peak_share(count: int) -> float:
    """Return the greatest share that may come in one second; for a small fleet with what chance alone may add."""
    most = PEAK_SHARE * count
    return PEAK_SHARE if count >= FULL_FROM else (most + 3 * math.sqrt(most)) / count


@dataclass(frozen=True)
class Told:
    """How it stands with one appliance's server: failures in a row, their class, and when it tries again (s)."""

    failures: int
    error_class: str | None
    wait_s: float


def run(seed: int, count: int) -> Row:
    """Let so many appliances come back, after the server's own outage and each from its clinic's."""
    row = Row()
    logging.disable(logging.CRITICAL)
    server = Outage(start_s=0, end_s=LIVED_S, silent_share=0.5)
    clinics = Outage(start_s=0, end_s=LIVED_S, spread_s=600, noticed_share=0.5, silent_share=0.5)
    _come_back(row, "server back", seed, count, server)
    _come_back(row, "links back", seed, count, clinics)
    if count >= FULL_FROM:
        _live_through_all(row, seed)
    return row


def _come_back(row: Row, name: str, seed: int, count: int, outage: Outage) -> None:
    with scratch() as folder:
        wire = MemoryWire(STAMP[0])
        for number in range(1, count + 1):
            settle_in(folder, number, wire, seed, OUTAGE_H)
        outcome = fleet.play(_scenario(seed, count, outage), Stage(folder, wire=wire, start_ms=STAMP[0]))
    row.count("appliances", count)
    _judge(row, name, outcome)


def _judge(row: Row, name: str, outcome: Outcome) -> None:
    told = outcome.summary
    row.count(f"in the worst second ({name})", told["peak_per_s"])
    row.count(f"s median first contact ({name})", round(told["median_first_contact_s"] or 0))
    row.count("entries", told["receipted"])
    for one in outcome.objectives:
        row.expect(one["held"], f"{name}: {one['objective']} is {one['got']}, wanted {one['wanted']}")
    row.expect(not outcome.interrupted, f"{name}: it was interrupted")


def _live_through_all(row: Row, seed: int) -> None:
    """Let a few live through all 72 hours, and compare with what is put in place for the others."""
    outage = Outage(start_s=0, end_s=OUTAGE_H * HOUR_S + 1, silent_share=0.5)
    with scratch() as folder:
        wire = MemoryWire(STAMP[0])
        for number in range(1, LIVE_ALL + 1):
            settle_in(folder, number, wire, seed, 0)
        scenario = _scenario(seed, LIVE_ALL, outage)
        quiet = {"duration_s": OUTAGE_H * HOUR_S, "settle_s": 0, "objectives": Objectives()}
        fleet.play(_with(scenario, quiet), Stage(folder, wire=wire, start_ms=STAMP[0]))
        for number in range(1, LIVE_ALL + 1):
            told = _told(appliance.places_of(folder, number), STAMP[0] + round(OUTAGE_H * HOUR_S * 1000))
            row.expect(told.failures >= GROWN, f"after 72 h {told.failures} failures in a row")
            row.expect(told.error_class == "unreachable", f"after 72 h it is {told.error_class}")
            row.expect(told.wait_s <= HOUR_S, f"after 72 h the next try is in {told.wait_s:.0f} s")
    row.count("lived through all of it", LIVE_ALL)


def _scenario(seed: int, count: int, outage: Outage) -> Scenario:
    return Scenario(
        server_url="https://cc.example",
        appliances=count,
        duration_s=outage.end_s + outage.spread_s + 600,
        seed=seed,
        ramp_s=0,
        settle_s=3 * HOUR_S,
        evidence_per_hour=1,
        clock="simulated",
        outage=(outage,),
        objectives=Objectives(
            peak_share_per_s=peak_share(count), median_first_contact_s=MEDIAN_S, errors=0, all_receipted=True
        ),
    )


def _with(scenario: Settings, changes: dict[str, object]) -> Scenario:
    return Scenario.model_validate(scenario.model_dump() | changes)


def _told(places: Places, now_ms: int) -> Told:
    store = Store.open(places)
    left = store.read(queue.destination)
    store.close()
    return Told(left.retry_count, left.error_class, ((left.next_retry_at_ms or now_ms) - now_ms) / 1000)


def settle_in(folder: Path, number: int, wire: MemoryWire, seed: int, hours: int) -> None:
    """Make an enrolled appliance that failed for so many hours to deliver what it sealed meanwhile."""
    places, chance = appliance.places_of(folder, number), seeded(seed, f"settle {number}")
    places.state_dir.mkdir()
    device = chance.randbytes(32)
    public, name = ed25519.public_key(device), f"ap-{number}"
    places.device_key.write_bytes(device)
    places.scrub_key.write_bytes(chance.randbytes(32))
    keys = [
        ServerKey(name=WITNESS_NAME, use="witness", public_key=ed25519.public_key(WITNESS).hex()),
        ServerKey(name="cc.example/server/order-1", use="order", public_key=ed25519.public_key(ORDER).hex()),
    ]
    known = Identity(
        server="cc.example", server_url="https://cc.example", site_id="clinic", appliance_id=name,
        public_key=public.hex(), keys=keys, enrolled_at_ms=1, next_epoch_number=2,
    )  # fmt: skip
    identity.save(places, known)
    wire.know(name, public)
    store = opening.open_store(places, STAMP)
    epoch = f"1-{chance.getrandbits(32):08x}"
    opened = Epoch(epoch, known.origins + epoch, public.hex(), STAMP[0])
    failure = Failure("unreachable", "did not answer", STAMP[0], STAMP[0] + round(chance.uniform(5, HOUR_S) * 1000))
    store.write_now(_backlog, opened, hours, failure)
    store.close()


def _backlog(tx: Tx, opened: Epoch, hours: int, failure: Failure) -> None:
    stamp = (STAMP[0], Clock.SYNC)
    queue.open_epoch(tx, opened, evidence.genesis(stamp, Beginning("enrolment", opened.public_key, None, 1, "0.1.0")))
    for number in range(hours):
        queue.append(tx, draft(number + 1))
    for _ in range(GROWN if hours else 0):
        queue.note_failure(tx, failure)
