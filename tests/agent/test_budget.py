"""What is kept when the store fills up, what is refused, and how that is told."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccagent import budget, evidence, queue
from ccagent.budget import Fullness, NoRoomError
from ccagent.store import Store, Tx
from ccshared import canonical
from ccshared.vocabulary import Kind
from tests.faults import appliance
from tests.faults.appliance import STAMP


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    places = appliance.settle_in(tmp_path / "state")
    with contextlib.closing(appliance.open_store(places)) as store:
        appliance.begin(store)
        bulk = [appliance.draft(number, 4000) for number in range(1000, 1400)]
        store.write_now(lambda tx: [queue.append(tx, one) for one in bulk])
        yield store


def fill(store: Store, percent: float) -> None:
    """Set the budget so that the file, as it is, takes so much of it."""

    def limit(tx: Tx) -> None:
        pages = tx.execute("PRAGMA page_count").fetchone()[0] - tx.execute("PRAGMA freelist_count").fetchone()[0]
        tx.budget_pages = int(pages * 100 / percent)

    store.read(limit)


def test_a_roomy_store_is_asked_for_its_length_every_64th_entry(store: Store) -> None:
    asked: list[str] = []
    store.read(lambda tx: tx.connection.set_trace_callback(asked.append))
    store.write_now(lambda tx: [queue.append(tx, appliance.draft(number)) for number in range(128)])
    assert asked.count("PRAGMA page_count") in (2, 3)


def test_routine_evidence_is_refused_and_counted_from_95_percent_on(store: Store) -> None:
    fill(store, 96)
    assert store.read(budget.fullness) == Fullness.NO_ROUTINE
    assert store.write_now(queue.offer, appliance.draft(1, kind=Kind.CHECK_RUN)) is None
    assert store.write_now(queue.offer, appliance.draft(2, kind=Kind.CHECK_RUN)) is None
    assert store.read(budget.refused) == budget.Refused(2, STAMP[0] + 1, STAMP[0] + 2)


def test_what_was_repaired_and_asked_is_kept_up_to_the_last_page(store: Store) -> None:
    fill(store, 99.5)
    for number, kind in enumerate((Kind.REMEDIATION, Kind.ESCALATION, Kind.HEARTBEAT), start=1):
        store.write_now(queue.append, appliance.draft(number, kind=kind))
    assert not store.read(budget.may_repair)


def test_when_it_is_used_up_only_gaps_and_what_is_carried_over_are_taken(store: Store) -> None:
    fill(store, 101)
    with pytest.raises(NoRoomError):
        store.write_now(queue.append, appliance.draft(1, kind=Kind.REMEDIATION))
    store.write_now(queue.append, evidence.gap(STAMP))


def test_a_draft_that_stands_already_is_found_however_full_it_is(store: Store) -> None:
    one = appliance.draft(1, kind=Kind.CHECK_RUN)
    entry = store.write_now(queue.append, one)
    fill(store, 101)
    assert store.write_now(queue.append, one) == entry


def test_a_disk_that_others_filled_counts_as_full(store: Store) -> None:
    store.read(lambda tx: setattr(tx, "has_ballast", False))
    assert store.read(budget.fullness) == Fullness.NO_ROUTINE


def test_a_gap_tells_the_exact_count_once_there_is_room_again(store: Store) -> None:
    fill(store, 96)
    for number in range(1, 8):
        store.write_now(queue.offer, appliance.draft(number, kind=Kind.CHECK_RUN))
    assert store.write_now(queue.tell_of_refused, evidence.gap(STAMP)) is None
    fill(store, 50)
    told = store.write_now(queue.tell_of_refused, evidence.gap(STAMP))
    assert told is not None
    body = canonical.read(told.payload)["body"]
    assert body == {"count": 7, "first": STAMP[0] + 1, "last": STAMP[0] + 7, "reason": "full"}
    assert store.read(budget.refused).count == 0
    assert store.write_now(queue.tell_of_refused, evidence.gap(STAMP)) is None


def test_there_is_no_flapping_at_the_edge(store: Store) -> None:
    fill(store, 96)
    store.write_now(queue.offer, appliance.draft(1, kind=Kind.CHECK_RUN))
    fill(store, 94)
    assert store.write_now(queue.offer, appliance.draft(2, kind=Kind.CHECK_RUN)) is None
    fill(store, 90)
    store.write_now(queue.tell_of_refused, evidence.gap(STAMP))
    assert store.write_now(queue.offer, appliance.draft(3, kind=Kind.CHECK_RUN)) is not None


def test_receipts_are_taken_when_it_is_full(store: Store) -> None:
    fill(store, 101)
    appliance.acknowledge(store, 2)
    assert store.read(queue.status).watermark == 2


def test_people_are_told_how_full_it_is(store: Store) -> None:
    fill(store, 80)
    room = store.read(budget.room)
    assert room.used_percent in (79, 80)
    assert 0 < room.used_bytes < room.budget_bytes
