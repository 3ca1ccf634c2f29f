"""Retention: receipted payloads leave after their time, their leaves stay, and nothing else ever leaves."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccagent import daemon, head_mark, queue, retention, verify, withholding
from ccagent.clock import Clocks, ClockWatch
from ccagent.config import Config
from ccagent.places import Places
from ccagent.store import Store
from ccagent.withholding import Refusal
from ccshared import merkle
from ccshared.batch import Stub
from ccshared.vocabulary import StubReason
from tests.faults import appliance
from tests.faults.appliance import EPOCH, STAMP

COUNT = 800
LATER_MS = STAMP[0] + 1


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return appliance.settle_in(tmp_path / "state")


@pytest.fixture
def store(places: Places) -> Iterator[Store]:
    with contextlib.closing(appliance.open_store(places)) as store:
        appliance.begin(store)
        store.write_now(lambda tx: [queue.append(tx, appliance.draft(number)) for number in range(1, COUNT)])
        yield store


def prune_all(store: Store) -> int:
    total = 0
    while gone := store.write_now(retention.prune, LATER_MS):
        total += gone
    return total


def rows(store: Store) -> int:
    count: int = store.read(lambda tx: tx.execute("SELECT count(*) FROM queued_evidence").fetchone()[0])
    return count


def test_nothing_that_is_not_receipted_ever_leaves(store: Store) -> None:
    assert prune_all(store) == 0
    assert rows(store) == COUNT


def test_whole_blocks_of_receipted_rows_leave_and_a_root_needs_them_no_more(store: Store) -> None:
    before = store.read(queue.root_at, EPOCH, 700)
    appliance.acknowledge(store, 700)
    assert prune_all(store) == 512
    assert rows(store) == COUNT - 512
    assert store.read(queue.root_at, EPOCH, 700) == before


def test_rows_receipted_lately_stay(store: Store) -> None:
    appliance.acknowledge(store, 700)
    assert store.write_now(retention.prune, STAMP[0]) == 0


def test_what_left_can_still_be_sent_as_stubs(store: Store) -> None:
    whole = [merkle.leaf_hash(line) for line in store.read(queue.lines, EPOCH, 0, COUNT, 10**8) if type(line) is bytes]
    appliance.acknowledge(store, COUNT)
    prune_all(store)
    lines = store.read(queue.lines, EPOCH, 0, COUNT, 10**8)
    assert lines[:768] == [Stub(leaf, StubReason.PRUNED) for leaf in whole[:768]]
    assert [merkle.leaf_hash(line) for line in lines[768:] if type(line) is bytes] == whole[768:]


def test_the_log_goes_on_and_verifies_at_the_next_start(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    prune_all(store)
    store.write_now(queue.append, appliance.draft(COUNT))
    store.close()
    with contextlib.closing(appliance.open_store(places)) as again:
        assert len(appliance.told(again).leaves) == COUNT + 1
        assert again.read(queue.size_of, EPOCH) == COUNT + 1


def test_a_log_of_which_all_that_is_receipted_has_left_verifies_at_the_next_start(store: Store, places: Places) -> None:
    appliance.acknowledge(store, 512)
    assert prune_all(store) == 512
    store.close()
    with contextlib.closing(appliance.open_store(places)) as again:
        assert len(again.read(queue.all_epochs)) == 1
        assert again.read(queue.status).waiting == COUNT - 512


def test_a_mark_that_names_an_entry_which_has_left_is_borne_out_by_its_leaf(store: Store, places: Places) -> None:
    mark = head_mark.HeadMark(EPOCH, 100, merkle.leaf_hash(first_line(store, 99)).hex())
    appliance.acknowledge(store, COUNT)
    prune_all(store)
    store.close()
    with contextlib.closing(head_mark.MarkFile.open(places.head_mark)) as marks:
        marks.write(mark)
    with contextlib.closing(Store.open(places)) as again:
        assert again.mark_at_open == mark
        assert again.mark_agrees


def first_line(store: Store, seq: int) -> bytes:
    (line,) = store.read(queue.lines, EPOCH, seq, 1, 10**6)
    assert isinstance(line, bytes)
    return line


def test_a_row_that_was_damaged_is_found_before_it_leaves(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    store.release()
    data = bytearray(places.database.read_bytes())
    data[data.index(b'"number":77,') + 3] ^= 1
    places.database.write_bytes(data)
    with pytest.raises(queue.DamagedLogError):
        store.write_now(retention.prune, LATER_MS)
    assert store.is_damaged
    assert rows(store) == COUNT


def test_a_log_that_lost_a_receipted_row_is_mended_once_and_its_other_rows_stay(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    store.release()
    data = bytearray(places.database.read_bytes())
    data[data.index(b'"number":77,') + 3] ^= 1
    places.database.write_bytes(data)
    with pytest.raises(queue.DamagedLogError):
        store.write_now(retention.prune, LATER_MS)
    daemon.tend(daemon.open_agent(Config(), places, store))
    prune_all(store)
    assert not store.is_damaged
    assert appliance.told(store).missing == {(appliance.ORIGIN, 77)}


async def test_the_agent_lets_rows_leave_thirty_days_after_their_receipt_by_the_server(
    store: Store, places: Places
) -> None:
    appliance.acknowledge(store, COUNT)
    agent = daemon.open_agent(Config(), places, store)
    agent.watch = at_wall(LATER_MS + 10 * 365 * 86_400_000)
    assert await daemon.prune(agent) == 0  # however far ahead the wall clock is
    heard(store, STAMP[0] + retention.KEEP_MS)
    assert await daemon.prune(agent) == 0
    heard(store, STAMP[0] + retention.KEEP_MS + 1000)
    assert await daemon.prune(agent) == 768


async def test_a_receipt_from_the_far_future_makes_no_row_leave_before_our_own_clock_says_so(
    store: Store, places: Places
) -> None:
    appliance.acknowledge(store, COUNT)
    heard(store, STAMP[0] + 10 * 365 * 86_400_000)  # the server's clock ran ahead, and what it signed stays signed
    agent = daemon.open_agent(Config(), places, store)
    agent.watch = at_wall(LATER_MS)
    assert await daemon.prune(agent) == 0
    agent.watch = at_wall(STAMP[0] + retention.KEEP_MS + 1000)
    assert await daemon.prune(agent) == 768


async def test_a_store_that_fills_up_goes_by_the_servers_clock_alone(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    heard(store, STAMP[0] + retention.KEEP_MS + 1000)
    agent = daemon.open_agent(Config(), places, store)
    agent.watch = at_wall(0)
    assert await daemon.prune(agent) == 0
    pages = store.read(lambda tx: int(tx.execute("PRAGMA page_count").fetchone()[0]))
    store.read(lambda tx: setattr(tx, "budget_pages", pages))
    assert await daemon.prune(agent) == 768


def at_wall(wall_ms: int) -> ClockWatch:
    return ClockWatch(Clocks(lambda: wall_ms, lambda: 1.0, lambda: True))


def heard(store: Store, cosigned_at_ms: int) -> None:
    """One more entry, and a receipt for it that was given then."""
    store.write_now(queue.append, appliance.draft(cosigned_at_ms))
    opened = store.read(queue.current)
    assert opened is not None
    held = appliance.receipt(store, opened.epoch, opened.origin, store.read(queue.head).size)
    store.write_now(queue.acknowledge, opened.epoch, replace(held, cosigned_at_s=cosigned_at_ms // 1000))


async def test_the_agent_that_runs_tends_its_store_by_itself(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    heard(store, LATER_MS + retention.KEEP_MS + 1000)
    agent = daemon.open_agent(Config(), places, store)
    agent.watch = at_wall(STAMP[0] + 2 * retention.KEEP_MS)
    keeping = asyncio.create_task(daemon._keep(agent))
    for _ in range(1000):
        if rows(store) == COUNT + 1 - 768:
            break
        await asyncio.sleep(0.01)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert rows(store) == COUNT + 1 - 768


def test_the_own_log_verifies_against_its_receipts_before_and_after(store: Store) -> None:
    witnesses = {appliance.WITNESS_NAME: appliance.ed25519.public_key(appliance.WITNESS)}
    appliance.acknowledge(store, 300)
    appliance.acknowledge(store, COUNT)
    assert [(log.receipts, log.trouble) for log in store.read(verify.against_receipts, witnesses)] == [(2, None)]
    prune_all(store)
    (after,) = store.read(verify.against_receipts, witnesses)
    assert (after.size, after.trouble) == (COUNT, None)


def test_a_receipt_that_nobody_pinned_signed_is_named(store: Store) -> None:
    appliance.acknowledge(store, 300)
    (found,) = store.read(verify.against_receipts, {})
    assert found.receipts == 0
    assert found.trouble is not None


async def test_the_longer_backup_window_of_the_server_keeps_rows_longer(store: Store, places: Places) -> None:
    appliance.acknowledge(store, COUNT)
    agent = daemon.open_agent(Config(), places, store)
    agent.watch = at_wall(STAMP[0] + 10 * retention.KEEP_MS)
    daemon._keep_as_long(places, 45)
    heard(store, STAMP[0] + 90 * 86_400_000)
    assert await daemon.prune(agent) == 0
    heard(store, STAMP[0] + 90 * 86_400_000 + 1000)
    assert await daemon.prune(agent) == 768


async def test_a_device_key_that_gave_way_is_forgotten_when_its_logs_were_receipted_long_ago(
    store: Store, places: Places
) -> None:
    appliance.acknowledge(store, COUNT)
    opened = store.read(queue.current)
    assert opened is not None
    assert store.read(retention.keys_in_use, STAMP[0] - 1000) == {opened.public_key}
    assert store.read(retention.keys_in_use, STAMP[0] + 2000) == set()
    places.earlier_device_keys.write_bytes(appliance.DEVICE + bytes(range(32)))
    await daemon.prune(daemon.open_agent(Config(), places, store))
    assert places.earlier_device_keys.read_bytes() == appliance.DEVICE


def test_rows_leave_up_to_the_first_payload_that_is_withheld(store: Store) -> None:
    appliance.acknowledge(store, COUNT)
    for at_ms in (0, 1_800_000, 3_600_000):
        store.write_now(withholding.refuse, Refusal(EPOCH, 600, "heartbeat", "entry-invalid", "as if"), at_ms)
    assert prune_all(store) == 512
    store.write_now(withholding.deliver, EPOCH, 600, 1)
    assert prune_all(store) == 256


def test_what_waits_in_a_log_that_ended_is_counted_too(store: Store) -> None:
    appliance.acknowledge(store, 300)
    before = store.read(queue.status)
    assert before.waiting == COUNT - 300
    store.write_now(queue.close_epoch, EPOCH, STAMP[0], "as if")
    after = store.read(queue.status)
    assert (after.waiting, after.waiting_bytes, after.oldest_at_ms) == (
        COUNT - 300,
        before.waiting_bytes,
        before.oldest_at_ms,
    )
