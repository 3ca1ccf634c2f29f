import random
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ccagent import clock, enrolment, evidence, queue, withholding
from ccagent.client import Client, PermanentError, TransientError
from ccagent.identity import DeviceKey, Enrolment
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import POISON_S, Pace, PoisonError, Uploader, shorter, wait_s
from ccagent.withholding import Refusal, is_enough
from ccshared.vocabulary import Clock
from tests.agent.test_uploader import EPOCH, Bench, identity_of
from tests.agent.witness_app import Witness, running

HOUR_MS = 3_600_000


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.s = 1_800_000_000.0

    def pace(self) -> Pace:
        return Pace(boottime=lambda: self.s, now_ms=lambda: round(self.s * 1000), step_s=0.01)


class Bed(Bench):
    """A bench whose time the test moves, with entries that bear a mark where the server is to refuse them."""

    time: Time

    async def seal(self, text: str) -> None:
        await self.store.write(queue.append, evidence.heartbeat((clock.now_ms(), Clock.UNSYNC), text))

    async def pass_(self, seconds: float) -> None:
        """Try again as the loop would, until that much time has passed."""
        until = self.time.s + seconds
        while self.time.s < until:
            try:
                await self.uploader.drain()
            except PermanentError:
                self.time.s += 240
            else:
                self.time.s += 60

    @property
    def lines(self) -> list[object]:
        return list(self.witness.logs[EPOCH].lines)


@pytest.fixture
async def bed(witness: Witness, tmp_path: Path) -> AsyncIterator[Bed]:
    device = witness.known_device()
    who = Enrolment(identity_of(witness, device.seed), DeviceKey(device.seed))
    store = Store.open(Places(tmp_path))
    begun = queue.Epoch(EPOCH, who.identity.origins + EPOCH, who.key.public.hex(), clock.now_ms())
    beginning = evidence.Beginning("enrolment", who.key.public.hex(), None, 1, "0")
    await store.write(queue.open_epoch, begun, evidence.genesis((1, Clock.UNSYNC), beginning))
    time = Time()
    async with Client(witness.url, enrolment.device(who), timeout_s=2) as client:
        bed = Bed(store, witness, Uploader(store, client, who, time.pace()))
        bed.time = time
        witness.poison = lambda line: b"poison" in line
        yield bed
    store.close()


async def fill(bed: Bed, texts: list[str]) -> None:
    for text in texts:
        await bed.seal(text)


@pytest.mark.parametrize("named", [True, False])
async def test_all_before_the_entry_at_fault_is_delivered_at_once(bed: Bed, named: bool) -> None:
    bed.witness.names_poison = named
    await fill(bed, ["good"] * 30 + ["poison"] + ["good"] * 30)
    with pytest.raises(PoisonError):
        await bed.uploader.drain()
    assert bed.status.watermark == bed.stored == 31
    assert bed.witness.calls.count("append") <= (4 if named else 16)


async def test_an_entry_refused_alone_for_an_hour_is_withheld_and_the_log_goes_on(bed: Bed) -> None:
    await fill(bed, ["good", "poison", "good"])
    await bed.pass_(3500)
    assert bed.status.watermark == 2
    await bed.pass_(300)
    assert bed.status.watermark == bed.stored == 4
    assert bed.witness.logs[EPOCH].stubs == [2]
    assert [one.seq for one in bed.store.read(withholding.undelivered)] == [2]


async def test_a_withheld_payload_is_delivered_once_the_server_takes_it(bed: Bed) -> None:
    await fill(bed, ["poison", "good"])
    await bed.pass_(2 * 3600)
    await bed.uploader.deliver_withheld(now=True)
    assert bed.store.read(withholding.count) == 1
    bed.witness.poison = lambda line: False
    await bed.uploader.deliver_withheld(now=True)
    assert bed.store.read(withholding.count) == 0
    assert bed.witness.logs[EPOCH].stubs == []


async def test_a_payload_is_not_delivered_by_an_answer_that_names_another(bed: Bed) -> None:
    await fill(bed, ["poison"])
    await bed.pass_(2 * 3600)
    bed.witness.poison = lambda line: False
    bed.witness.tricks["put"].extend(["other-leaf", "portal", "503"])
    for _ in range(3):
        await bed.uploader.deliver_withheld(now=True)
    assert bed.store.read(withholding.count) == 1


async def test_a_server_mended_within_the_hour_gets_the_payload_itself_within_five_minutes(bed: Bed) -> None:
    await fill(bed, ["poison", "good"])
    await bed.pass_(1800)
    bed.witness.poison = lambda line: False
    await bed.pass_(300)
    assert bed.status.watermark == 3
    assert bed.witness.logs[EPOCH].stubs == []


async def test_a_week_of_one_kind_refused_holds_up_the_others_for_little_more_than_an_hour(bed: Bed) -> None:
    await fill(bed, ["good" if n % 4 else "poison" for n in range(80)])
    await bed.pass_(3600 + 2400)
    assert bed.status.watermark == bed.stored == 81
    assert bed.store.read(withholding.count) == 20
    bed.witness.poison = lambda line: False
    await bed.uploader.deliver_withheld(now=True)
    assert bed.store.read(withholding.count) == 0


async def test_a_server_that_refuses_everything_costs_at_most_fifty_payloads_their_first_way_at_once(bed: Bed) -> None:
    await fill(bed, ["poison"] * 120)
    counts = [0]
    for _ in range(30):
        await bed.pass_(240)
        counts.append(bed.store.read(withholding.count))
    assert max(after - before for before, after in pairwise(counts)) == 50
    assert counts[15] <= 1
    assert counts[-1] == 120


async def test_what_is_withheld_is_known_after_a_restart_and_is_not_sent_again(bed: Bed, tmp_path: Path) -> None:
    await fill(bed, ["poison", "good"])
    await bed.pass_(2 * 3600)
    bed.store.close()
    again = Store.open(Places(tmp_path))
    assert again.read(withholding.places, EPOCH, 0, 10) == {1}
    again.close()


async def test_the_genesis_is_never_withheld(bed: Bed) -> None:
    bed.witness.poison = lambda line: b"genesis" in line
    await bed.pass_(2 * 3600)
    assert bed.store.read(withholding.count) == bed.stored == 0


async def test_a_refused_signature_is_no_entrys_fault(bed: Bed) -> None:
    await bed.seal("good")
    bed.witness.tricks["append"].extend(["checkpoint"] * 3)
    with pytest.raises(PermanentError) as caught:
        await bed.uploader.drain()
    assert not isinstance(caught.value, PoisonError)
    assert bed.witness.calls.count("append") == 1


async def test_a_withheld_payload_cannot_be_deleted_however_old(bed: Bed) -> None:
    await fill(bed, ["poison", "good"])
    await bed.pass_(2 * 3600)
    with pytest.raises(sqlite3.IntegrityError, match="does not have yet"):
        await bed.store.write(lambda tx: tx.execute("DELETE FROM queued_evidence WHERE seq = 1"))


async def test_a_delivered_payload_that_is_refused_again_begins_anew(bed: Bed) -> None:
    refusal = Refusal(EPOCH, 1, "heartbeat", "x", "y")
    for at_ms in (0, HOUR_MS, 2 * HOUR_MS):
        await bed.store.write(withholding.refuse, refusal, at_ms)
    await bed.store.write(withholding.deliver, EPOCH, 1, 3 * HOUR_MS)
    assert not await bed.store.write(withholding.refuse, refusal, 9 * HOUR_MS)
    assert bed.store.read(withholding.places, EPOCH, 0, 9) == set()


def test_three_refusals_over_an_hour_are_enough() -> None:
    assert not is_enough(2, HOUR_MS, 0)
    assert not is_enough(30, HOUR_MS - 1, 0)
    assert is_enough(3, HOUR_MS, 0)
    assert is_enough(3, 0, 1)
    assert not is_enough(2, 0, 1)
    assert is_enough(1, 0, 3)


def test_a_refused_batch_is_cut_before_the_entry_at_fault_or_in_halves() -> None:
    assert shorter(10, 20, 15) == 5
    assert shorter(10, 20, 10) == 1
    assert shorter(10, 20, None) == 5
    assert shorter(10, 20, 99) == 5
    assert shorter(10, 11, None) == 1


def test_one_refused_entry_is_tried_again_within_five_minutes() -> None:
    assert wait_s(PoisonError("x"), 99, lambda _, high: high) == POISON_S[1] < 300


def attempts_of_a_day(seed: int) -> int:
    """How often an append is tried in 24 h while each fails and the server answers: the first at once."""
    uniform: Callable[[float, float], float] = random.Random(seed).uniform
    error = TransientError("as if")
    error.silence = False
    at, count = 0.0, 0
    while at < 24 * 3600:
        count += 1
        at += wait_s(error, count, uniform)
    return count


def test_a_day_of_failing_appends_costs_few_attempts() -> None:
    counts = [attempts_of_a_day(seed) for seed in range(100)]
    assert max(counts) <= 70
    assert sum(counts) / len(counts) <= 56
    assert min(counts) >= 24
