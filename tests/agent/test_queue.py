"""The evidence queue: idempotent, insert-only, derived from its rows, and still there after a kill."""

import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccagent import head_mark, queue
from ccagent.places import Places
from ccagent.queue import Epoch, Failure, HeldReceipt
from ccagent.store import Store, Tx
from ccshared import entries, merkle
from ccshared.entries import Draft, Entry
from ccshared.vocabulary import Clock, Kind

EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)


def draft(number: int, kind: Kind = Kind.HEARTBEAT, **body: object) -> Draft:
    return Draft(kind, f"{number:032x}", 1_000 + number, Clock.SYNC, f"{number:032x}", dict(body))


def fill(tx: Tx, first: int, count: int) -> list[bytes]:
    return [queue.append(tx, draft(number)).leaf for number in range(first, first + count)]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.fixture
def fresh(places: Places) -> Iterator[Store]:
    with contextlib.closing(Store.open(places)) as opened:
        yield opened


@pytest.fixture
def store(fresh: Store) -> Store:
    fresh.write_now(queue.open_epoch, EPOCH, draft(0, Kind.GENESIS))
    return fresh


def verified(payloads: list[bytes]) -> list[Entry]:
    """Read the whole log as its receiver would."""
    prev, found = entries.GENESIS_PREV, []
    for seq, payload in enumerate(payloads):
        found.append(entries.read(payload, EPOCH.origin, seq, prev))
        prev = found[-1].leaf.hex()
    return found


def test_before_an_epoch_is_open_nothing_can_be_appended(fresh: Store) -> None:
    assert fresh.read(queue.current) is None
    assert fresh.read(queue.status).epoch is None
    with pytest.raises(queue.NoEpochError):
        fresh.write_now(queue.append, draft(1))


def test_an_epoch_begins_with_its_genesis(store: Store) -> None:
    assert store.read(queue.current) == EPOCH
    (genesis,) = verified(store.read(queue.lines, EPOCH.epoch, 0, 10, 10_000))
    assert (genesis.kind, genesis.seq) == ("genesis", 0)


def test_a_second_epoch_waits_until_the_first_is_closed(store: Store) -> None:
    second = dataclasses.replace(EPOCH, epoch="2-0a0b0c0d", origin="cc.example/log/ap-1/2-0a0b0c0d")
    with pytest.raises(queue.EpochOpenError):
        store.write_now(queue.open_epoch, second, draft(9, Kind.GENESIS))
    store.write_now(queue.close_epoch, EPOCH.epoch, 2_000, "rollback")
    store.write_now(queue.open_epoch, second, draft(9, Kind.GENESIS))
    assert [one.closed_at_ms for one in store.read(queue.all_epochs)] == [2_000, None]
    assert store.read(queue.head).size == 1


def test_appending_the_same_draft_again_gives_the_stored_entry(store: Store) -> None:
    first = store.write_now(queue.append, draft(1, note="a"))
    store.write_now(queue.append, draft(2))
    assert store.write_now(queue.append, draft(1, note="a")) == first
    assert store.write_now(queue.append, draft(0, Kind.GENESIS)).seq == 0
    assert store.read(queue.head).size == 3


@pytest.mark.parametrize("other", [draft(1, note="b"), draft(1, Kind.GAP, note="a"), draft(0, note="a")])
def test_a_known_bundle_id_with_other_content_is_refused(store: Store, other: Draft) -> None:
    store.write_now(queue.append, draft(1, note="a"))
    with pytest.raises(queue.OtherContentError):
        store.write_now(queue.append, other)
    assert store.read(queue.head).size == 2


def test_an_unfit_draft_is_refused_and_leaves_no_hole(store: Store) -> None:
    with pytest.raises(entries.BadEntryError):
        store.write_now(queue.append, draft(1, ratio=0.5))
    assert store.write_now(queue.append, draft(2)).seq == 1


def test_the_head_mark_follows_each_append(places: Places, store: Store) -> None:
    entry = store.write_now(queue.append, draft(1))
    mark = head_mark.read(places.head_mark)
    assert mark is not None
    assert (mark.epoch, mark.size, mark.leaf) == (EPOCH.epoch, 2, entry.leaf.hex())
    assert store.newest_mark == mark


def test_a_database_restored_from_an_older_copy_is_behind_its_mark(
    places: Places, store: Store, tmp_path: Path
) -> None:
    store.close()
    old = places.database.read_bytes()
    with contextlib.closing(Store.open(places)) as later:
        later.write_now(queue.append, draft(1))
    places.database.write_bytes(old)
    with contextlib.closing(Store.open(places)) as restored:
        assert restored.mark_at_open is not None
        assert not restored.mark_agrees


def test_the_root_at_any_size_equals_that_of_the_whole_tree(store: Store) -> None:
    leaves = [store.write_now(queue.append, draft(0, Kind.GENESIS)).leaf, *store.write_now(fill, 1, 1_100)]
    sizes = {0, 1, 2, 3, 1_101, *(256 * block + near for block in (1, 2, 3, 4) for near in (-1, 0, 1, 7))}
    for size in sizes:
        assert store.read(queue.root_at, EPOCH.epoch, size) == merkle.root(leaves[:size])
    head = store.read(queue.head)
    assert (head.size, head.last_leaf_hex) == (1_101, leaves[-1].hex())
    assert merkle.root_of(head.compact) == merkle.root(leaves)


def test_a_range_is_saved_every_256_entries(store: Store) -> None:
    store.write_now(fill, 1, 600)
    assert store.read(lambda tx: tx.execute("SELECT size FROM ranges").fetchall()) == [(256,), (512,)]


def test_no_root_is_made_up_beyond_the_log(store: Store) -> None:
    with pytest.raises(queue.BeyondLogError):
        store.read(queue.root_at, EPOCH.epoch, 2)


def test_lines_keep_to_both_limits_but_give_at_least_one(store: Store) -> None:
    store.write_now(fill, 1, 9)
    whole = store.read(queue.lines, EPOCH.epoch, 0, 500, 1_000_000)
    assert len(verified(whole)) == 10
    assert store.read(queue.lines, EPOCH.epoch, 4, 3, 1_000_000) == whole[4:7]
    assert store.read(queue.lines, EPOCH.epoch, 4, 500, len(whole[4]) + len(whole[5])) == whole[4:6]
    assert store.read(queue.lines, EPOCH.epoch, 4, 500, 1) == whole[4:5]
    assert store.read(queue.lines, EPOCH.epoch, 10, 500, 1_000) == []


def test_the_watermark_moves_only_forward(store: Store) -> None:
    store.write_now(fill, 1, 9)
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(5, "five", 50, 5_000))
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(3, "three", 60, 6_000))
    epoch = store.read(queue.current)
    assert epoch is not None
    assert (epoch.watermark, epoch.receipt) == (5, "five")
    with pytest.raises(sqlite3.IntegrityError, match="only forward"):
        store.write_now(lambda tx: tx.execute("UPDATE epochs SET watermark = 4"))


def test_a_receipt_beyond_the_log_is_refused(store: Store) -> None:
    with pytest.raises(queue.BeyondLogError):
        store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(2, "two", 50, 5_000))


def test_evidence_is_never_updated(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="never updated"):
        store.write_now(lambda tx: tx.execute("UPDATE queued_evidence SET created_at = 0"))


def test_evidence_leaves_only_when_receipted_and_never_the_newest(store: Store) -> None:
    store.write_now(fill, 1, 3)
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(2, "two", 50, 5_000))
    delete = "DELETE FROM queued_evidence WHERE seq = ?"
    store.write_now(lambda tx: tx.execute(delete, (1,)))
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        store.write_now(lambda tx: tx.execute(delete, (2,)))
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(4, "four", 60, 6_000))
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        store.write_now(lambda tx: tx.execute(delete, (3,)))


def test_failures_are_counted_at_the_destination_and_a_success_ends_them(store: Store) -> None:
    store.write_now(queue.note_failure, Failure("offline", "no route", 10, 20))
    store.write_now(queue.note_failure, Failure("offline", "still no route", 30, 60))
    failing = store.read(queue.destination)
    assert (failing.retry_count, failing.failing_since_ms, failing.next_retry_at_ms) == (2, 10, 60)
    store.write_now(queue.note_success, 70)
    well = store.read(queue.destination)
    assert (well.retry_count, well.failing_since_ms, well.last_success_at_ms) == (0, None, 70)


def test_the_status_tells_what_waits(store: Store) -> None:
    store.write_now(fill, 1, 9)
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(4, "four", 50, 5_000))
    status = store.read(queue.status)
    waiting = store.read(queue.lines, EPOCH.epoch, 4, 500, 1_000_000)
    assert (status.size, status.watermark, status.waiting) == (10, 4, 6)
    assert status.waiting_bytes == sum(len(line) for line in waiting)
    assert (status.oldest_at_ms, status.newest_at_ms) == (1_004, 1_009)
    assert (status.last_receipt, status.last_receipt_at_ms) == ("four", 5_000)
    store.write_now(queue.acknowledge, EPOCH.epoch, HeldReceipt(10, "ten", 60, 6_000))
    drained = store.read(queue.status)
    assert (drained.waiting, drained.waiting_bytes, drained.oldest_at_ms) == (0, 0, None)


def test_a_status_costs_no_scan_however_much_waits(store: Store) -> None:
    store.write_now(many_rows, 100_000)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    store.read(lambda tx: tx.connection.set_progress_handler(count, 1))
    status = store.read(queue.status)
    store.read(queue.head)
    store.read(lambda tx: tx.connection.set_progress_handler(None, 0))
    assert status.waiting == 100_001
    assert steps < 5_000
    assert min(time_of_status(store) for _ in range(5)) < 0.01


def time_of_status(store: Store) -> float:
    began = time.perf_counter()
    store.read(queue.status)
    return time.perf_counter() - began


def many_rows(tx: Tx, count: int) -> None:
    """Put rows in as a long outage would leave them; what they say and the ranges are made up."""
    tx.connection.create_function("leaf_of", 1, merkle.leaf_hash, deterministic=True)
    tx.execute(
        """
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        SELECT ?, n, printf('%032x', n), zeroblob(200), leaf_of(zeroblob(200)), n * 200, n FROM numbers
        """,
        (count, EPOCH.epoch),
    )
    tx.execute(
        """
        WITH RECURSIVE sizes (size) AS (SELECT 256 UNION ALL SELECT size + 256 FROM sizes WHERE size < ?)
        INSERT INTO ranges (epoch, size, compact) SELECT ?, size, zeroblob(32 * ?) FROM sizes
        """,
        (count - 256, EPOCH.epoch, ((count + 1) // 256 * 256).bit_count()),
    )


def test_since_when_it_runs_is_set_once(fresh: Store) -> None:
    assert fresh.write_now(queue.running_since, 1_000) == 1_000
    assert fresh.write_now(queue.running_since, 2_000) == 1_000


async def test_everything_is_there_after_closing(places: Places, store: Store) -> None:
    store.write_now(fill, 1, 300)
    root = store.read(queue.root_at, EPOCH.epoch, 301)
    store.close()
    with contextlib.closing(Store.open(places)) as again:
        assert len(verified(again.read(queue.lines, EPOCH.epoch, 0, 500, 10**7))) == 301
        assert again.read(queue.root_at, EPOCH.epoch, 301) == root
        assert again.write_now(queue.append, draft(301)).seq == 301


PRODUCER = """
import asyncio, sys, pathlib
from ccagent import queue
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind

def draft(kind, number):
    return Draft(kind, f"{number:032x}", 1000 + number, Clock.SYNC, f"{number:032x}", {})

async def main():
    store = Store.open(Places(pathlib.Path(sys.argv[1])))
    epoch = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1000)
    await store.write(queue.open_epoch, epoch, draft(Kind.GENESIS, 0))
    number = 0
    while True:
        drafts = [draft(Kind.HEARTBEAT, number + step) for step in range(1, 8)]
        number += 7
        for entry in await asyncio.gather(*(store.write(queue.append, one) for one in drafts)):
            print(entry.seq, flush=True)

asyncio.run(main())
"""


def test_what_a_killed_producer_was_promised_is_there(places: Places) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PRODUCER, str(places.state_dir)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        promised = [int(child.stdout.readline()) for _ in range(600)]
        os.kill(child.pid, signal.SIGKILL)
        promised += [int(line) for line in child.stdout if line.endswith("\n")]
    with contextlib.closing(Store.open(places)) as store:
        log = verified(store.read(queue.lines, EPOCH.epoch, 0, 10**6, 10**9))
        assert set(promised) <= {entry.seq for entry in log}
        assert store.mark_at_open is not None
        assert store.mark_agrees
        root = store.read(queue.root_at, EPOCH.epoch, len(log))
        assert root == merkle.root([entry.leaf for entry in log])


@settings(max_examples=25, deadline=None)
@given(numbers=st.lists(st.integers(1, 12), max_size=40))
def test_retries_in_any_order_leave_each_bundle_once(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    with contextlib.closing(Store.open(Places(tmp_path_factory.mktemp("queue")))) as store:
        store.write_now(queue.open_epoch, EPOCH, draft(0, Kind.GENESIS))
        for number in numbers:
            store.write_now(queue.append, draft(number))
        log = verified(store.read(queue.lines, EPOCH.epoch, 0, 500, 10**7))
    assert [entry.at - 1_000 for entry in log] == [0, *dict.fromkeys(numbers)]
