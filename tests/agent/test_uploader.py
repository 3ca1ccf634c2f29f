import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ccagent import clock, enrolment, evidence, queue
from ccagent.client import Cause, Client, ConfigurationError, PermanentError, RequestError, TransientError
from ccagent.identity import DeviceKey, Enrolment, Identity
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import Pace, Uploader, _Probe, cap_s, grown, halved, remaining_s, wait_s
from ccshared.messages import ServerKey
from ccshared.vocabulary import Clock
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Witness, running

EPOCH = "1-00000001"


@dataclass
class Bench:
    """An agent's store with an open log, and an uploader to a witness."""

    store: Store
    witness: Witness
    uploader: Uploader

    async def add(self, count: int, size: int = 1) -> None:
        for _ in range(count):
            draft = evidence.heartbeat((clock.now_ms(), Clock.UNSYNC), secrets.token_hex(size))
            await self.store.write(queue.append, draft)

    @property
    def status(self) -> queue.QueueStatus:
        return self.store.read(queue.status)

    @property
    def stored(self) -> int:
        log = self.witness.logs.get(EPOCH)
        return len(log.lines) if log else 0


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


@pytest.fixture
async def bench(witness: Witness, tmp_path: Path) -> AsyncIterator[Bench]:
    device = witness.known_device()
    who = Enrolment(identity_of(witness, device.seed), DeviceKey(device.seed))
    store = Store.open(Places(tmp_path))
    begun = queue.Epoch(EPOCH, who.identity.origins + EPOCH, who.key.public.hex(), clock.now_ms())
    beginning = evidence.Beginning("enrolment", who.key.public.hex(), None, 1, "0")
    await store.write(queue.open_epoch, begun, evidence.genesis((1, Clock.UNSYNC), beginning))
    async with Client(witness.url, enrolment.device(who), timeout_s=2) as client:
        yield Bench(store, witness, Uploader(store, client, who, Pace(step_s=0.01)))
    store.close()


def identity_of(witness: Witness, seed: bytes) -> Identity:
    return Identity(
        server=SERVER,
        server_url=witness.url,
        site_id=SITE,
        appliance_id=APPLIANCE,
        public_key=DeviceKey(seed).public.hex(),
        keys=[ServerKey(**key) for key in witness.server_keys()],
        enrolled_at_ms=1,
        next_epoch_number=2,
    )


async def test_what_waits_is_sent_and_receipted(bench: Bench) -> None:
    await bench.add(4)
    await bench.uploader.drain()
    assert bench.stored == bench.status.watermark == 5
    assert bench.status.waiting == 0
    assert bench.status.last_receipt == bench.witness.logs[EPOCH].receipt


async def test_a_lost_answer_is_made_up_for_without_sending_anything_twice(bench: Bench) -> None:
    await bench.add(4)
    bench.witness.tricks["append"].append("lose-answer")
    with pytest.raises(TransientError):
        await bench.uploader.drain()
    assert bench.status.watermark == 0
    await bench.uploader.drain()
    assert bench.stored == bench.status.watermark == 5
    assert bench.witness.batches == [5]


@pytest.mark.parametrize(
    "trick",
    [
        "503",
        "502",
        "429",
        "portal",
        "redirect",
        "hang-up",
        "huge",
        "garbage",
        "no-receipt",
        "other-key",
        "unknown-name",
        "bare",
        "other-device",
        "html-400",
    ],
)
async def test_nothing_but_a_receipt_acknowledges(bench: Bench, trick: str) -> None:
    bench.witness.tricks["append"].append(trick)
    with pytest.raises(TransientError):
        await bench.uploader.drain()
    assert bench.status.watermark == 0
    await bench.uploader.drain()
    assert bench.status.watermark == bench.stored == 1


async def test_a_receipt_with_our_signature_over_another_root_is_not_believed(bench: Bench) -> None:
    await bench.add(3)
    bench.witness.tricks["append"].append("wrong-root")
    bench.witness.device_seed = bench.uploader._who.key.seed
    await bench.uploader.drain()
    first = bench.store.read(queue.all_epochs)[0]
    assert (first.watermark, first.closed_at_ms is None, first.carried_from) == (0, False, 0)


async def test_an_old_receipt_does_not_acknowledge_a_new_batch(bench: Bench) -> None:
    await bench.uploader.drain()
    await bench.add(2)
    bench.witness.tricks["append"].append("stale")
    with pytest.raises(TransientError, match="a receipt for 1 entries"):
        await bench.uploader.drain()
    assert bench.status.watermark == 1


async def test_a_server_that_takes_without_a_receipt_is_sent_no_more(bench: Bench) -> None:
    await bench.add(600)
    bench.witness.tricks["append"].append("no-receipt")
    with pytest.raises(TransientError, match="no receipt"):
        await bench.uploader.drain()
    assert bench.witness.batches == [500]


async def test_a_server_that_claims_more_than_was_ever_made_is_not_believed(bench: Bench) -> None:
    await bench.uploader.drain()
    await bench.add(1)
    bench.witness.tricks["head"].append("too-far")
    with pytest.raises(TransientError, match="more than"):
        await bench.uploader.drain()


async def test_a_backlog_goes_in_batches_of_500_each_of_them_receipted(bench: Bench) -> None:
    await bench.add(1200)
    await bench.uploader.drain()
    assert bench.witness.batches == [500, 500, 201]
    assert bench.status.waiting == 0


async def test_a_batch_is_at_most_a_mebibyte_compressed(bench: Bench) -> None:
    await bench.add(40, size=50_000)
    await bench.uploader.drain()
    assert bench.status.waiting == 0
    assert max(bench.witness.bodies) <= 1024 * 1024


async def test_a_server_whose_database_was_restored_is_filled_up_again(bench: Bench) -> None:
    await bench.add(9)
    await bench.uploader.drain()
    del bench.witness.logs[EPOCH]
    await bench.add(1)
    bench.uploader._lines = 4
    await bench.uploader.drain()
    assert bench.stored == bench.status.watermark == 11


async def test_a_conflict_is_resolved_by_asking_anew_at_most_three_times(bench: Bench) -> None:
    bench.witness.tricks["append"].extend(["409-gap"] * 3)
    await bench.uploader.drain()
    assert bench.status.watermark == 1
    await bench.add(1)
    bench.witness.tricks["append"].extend(["409-fork"] * 4)
    with pytest.raises(RequestError) as caught:
        await bench.uploader.drain()
    assert caught.value.cause == Cause.PROTOCOL
    assert bench.witness.calls.count("append") == 8


@pytest.mark.parametrize("trick", ["422", "413", "400", "checkpoint"])
async def test_what_the_server_refuses_for_good_is_kept_and_backed_off_from(bench: Bench, trick: str) -> None:
    await bench.add(3)
    bench.witness.tricks["append"].extend([trick] * 100)
    task = asyncio.create_task(bench.uploader.run())
    await until(lambda: bench.store.read(queue.destination).retry_count == 1)
    await asyncio.sleep(0.1)
    task.cancel()
    assert bench.witness.calls.count("append") <= 3
    assert bench.status.waiting == 4


async def test_a_failure_is_noted_once_and_success_begins_anew(bench: Bench) -> None:
    bench.witness.tricks["append"].append("503")
    with pytest.raises(TransientError) as caught:
        await bench.uploader.drain()
    failure, wait = bench.uploader.fail(caught.value)
    await bench.store.write(queue.note_failure, failure)
    noted = bench.store.read(queue.destination)
    assert noted.retry_count == 1
    assert noted.error_class == "transient"
    assert 5 <= wait <= 120
    await bench.uploader.drain()
    assert bench.store.read(queue.destination).retry_count == 0


async def test_the_first_try_after_a_failure_sends_one_entry_then_what_fits(bench: Bench) -> None:
    await bench.add(20)
    bench.uploader.fail(TransientError("as if"))
    await bench.uploader.drain()
    assert bench.witness.batches == [1, 20]


async def test_new_evidence_is_sent_at_once(bench: Bench) -> None:
    task = asyncio.create_task(bench.uploader.run())
    await until(lambda: bench.status.watermark == 1)
    await bench.add(1)
    bench.uploader.wake.set()
    await until(lambda: bench.status.watermark == 2)
    task.cancel()


async def test_what_nothing_changed_is_not_looked_through_again_and_what_is_sealed_then_is_sent(bench: Bench) -> None:
    for _ in range(2):  # the receipt of the first time is a change of its own
        await bench.uploader.drain()
    asked: list[str] = []
    bench.store.read(lambda tx: tx.connection.set_trace_callback(asked.append))
    asked.clear()
    await bench.uploader.drain()
    assert asked == []
    await bench.add(1)
    await bench.uploader.drain()
    assert bench.stored == bench.status.watermark == 2


async def test_new_evidence_does_not_end_a_wait(bench: Bench) -> None:
    bench.witness.tricks["append"].append("503")
    task = asyncio.create_task(bench.uploader.run())
    await until(lambda: bench.store.read(queue.destination).retry_count == 1)
    await bench.add(1)
    bench.uploader.wake.set()
    await asyncio.sleep(0.2)
    task.cancel()
    assert bench.witness.calls.count("append") == 1


async def test_an_answer_ends_a_wait_that_silence_caused(bench: Bench) -> None:
    bench.uploader._pace = Pace(uniform=lambda low, high: 0.05 if low == 60.0 else high, step_s=0.01)
    bench.witness.tricks["history"].append("portal")
    task = asyncio.create_task(bench.uploader.run())
    await until(lambda: bench.status.watermark == 1)
    task.cancel()


async def test_an_answer_does_not_end_a_wait_that_our_server_caused(bench: Bench) -> None:
    bench.uploader._pace = Pace(uniform=lambda low, high: 0.05 if low == 60.0 else high, step_s=0.01)
    bench.witness.tricks["append"].append("503")
    task = asyncio.create_task(bench.uploader.run())
    await until(lambda: bench.store.read(queue.destination).retry_count == 1)
    await asyncio.sleep(0.3)
    task.cancel()
    assert bench.witness.calls.count("head") == 1


async def test_a_log_of_another_appliance_is_left_alone(bench: Bench, witness: Witness) -> None:
    stranger = identity_of(witness, bench.uploader._who.key.seed).model_copy(update={"appliance_id": "appliance-2"})
    bench.uploader._identity = stranger
    await bench.uploader.drain()
    assert witness.calls == []
    assert bench.status.waiting == 1


@pytest.mark.parametrize(
    ("retry_count", "minutes"), [(1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (7, 60), (10**6, 60)]
)
def test_the_cap_doubles_from_two_minutes_to_an_hour(retry_count: int, minutes: int) -> None:
    assert cap_s(Cause.TRANSIENT, retry_count) == minutes * 60


def test_what_a_person_must_put_right_is_tried_every_quarter_of_an_hour_at_least() -> None:
    assert cap_s(Cause.CONFIGURATION, 1) == 120
    assert cap_s(Cause.CONFIGURATION, 9) == 900


def test_waits_are_spread_from_a_twentieth_of_the_cap_and_five_seconds_to_the_cap() -> None:
    error = TransientError("x")
    assert wait_s(error, 0, lambda low, _: low) == 5
    assert wait_s(error, 3, lambda low, _: low) == 24
    assert wait_s(error, 3, lambda _, high: high) == 480
    assert len({wait_s(error, 3, Pace().uniform) for _ in range(1000)}) > 990


def test_the_wish_of_the_server_goes_before_our_own() -> None:
    error = TransientError("x")
    error.retry_after_s = 600
    assert wait_s(error, 1, lambda low, _: low) == 600
    assert wait_s(error, 1, lambda _, high: high) == 660


def test_what_the_server_asks_for_is_only_the_least_once_it_did_not_help_three_times() -> None:
    error = TransientError("x")
    error.retry_after_s = 30
    assert wait_s(error, 3, lambda _, high: high) == 33
    assert wait_s(error, 4, lambda _, high: high) == 960
    assert wait_s(error, 4, lambda low, _: low) == 48
    assert wait_s(error, 4, lambda *_: 0.0) == 30


async def test_a_conflict_at_the_first_try_after_a_wait_costs_one_request(bench: Bench) -> None:
    bench.witness.tricks["append"].extend(["409-fork"] * 4)
    bench.uploader._careful = True
    with pytest.raises(RequestError):
        await bench.uploader.drain()
    assert bench.witness.calls.count("append") == 1


async def test_a_server_that_answered_all_along_ends_no_wait_by_answering(bench: Bench) -> None:
    bench.uploader._pace = Pace(uniform=lambda low, high: 0.01, step_s=0.01)
    assert await bench.uploader._wait(0.3, _Probe(0.0, silent=False)) is False
    assert bench.witness.calls.count("head") > 3


async def test_an_answer_after_silence_ends_the_wait(bench: Bench) -> None:
    bench.uploader._pace = Pace(uniform=lambda low, high: 0.01, step_s=0.01)
    bench.witness.tricks["head"].extend(["portal"] * 2)
    assert await bench.uploader._wait(60, _Probe(0.0, silent=False)) is True
    assert bench.witness.calls.count("head") == 3


def test_a_permanent_refusal_waits_as_long_as_any_other_failure() -> None:
    assert wait_s(PermanentError("x"), 6, lambda _, high: high) == 3600
    assert wait_s(ConfigurationError("x"), 6, lambda _, high: high) == 900


def test_batches_halve_down_to_one_and_grow_up_to_500() -> None:
    assert [halved(500), halved(3), halved(1)] == [250, 1, 1]
    assert [grown(1), grown(250), grown(400), grown(500)] == [2, 500, 500, 500]


def test_a_wait_survives_a_restart_but_a_moved_clock_cannot_stretch_it() -> None:
    assert remaining_s(None, 0, 120) == 0
    assert remaining_s(61_000, 1_000, 120) == 60
    assert remaining_s(10**13, 0, 120) == 120
    assert remaining_s(1_000, 61_000, 120) == 0


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Return once `condition()` is true."""
    for _ in range(round(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")
