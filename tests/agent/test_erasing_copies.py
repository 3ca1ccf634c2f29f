"""Erased payloads where more than one log knows of them: carried over, salvaged from a damaged file, withheld."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ccagent import erasing, evidence, leaves, queue, verify
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccshared.batch import Stub
from ccshared.erasure import Erasure
from ccshared.vocabulary import Kind, StubReason
from tests.faults import appliance
from tests.faults.appliance import EPOCH, ORIGIN

NEXT = "2-0a0b0c0e"
NEXT_ORIGIN = ORIGIN.replace(EPOCH, NEXT)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An appliance whose log has ten entries, five of them receipted."""
    places = appliance.settle_in(tmp_path / "state")
    with contextlib.closing(appliance.open_store(places)) as store:
        appliance.begin(store)
        store.write_now(lambda tx: [queue.append(tx, appliance.draft(number)) for number in range(1, 10)])
        appliance.acknowledge(store, 5)
    return places


@pytest.fixture
def store(places: Places) -> Iterator[Store]:
    with contextlib.closing(appliance.open_store(places)) as opened:
        yield opened


def go_on(tx: Tx) -> None:
    """End the log and carry what waits into the next."""
    old = queue.current(tx)
    assert old is not None
    queue.close_epoch(tx, EPOCH, 1, "rollback")
    genesis = appliance.draft(100, kind=Kind.GENESIS)
    queue.open_epoch(tx, Epoch(NEXT, NEXT_ORIGIN, old.public_key, 1), genesis)
    queue.carry_over(tx, EPOCH, 5, lambda payload: evidence.recovered(appliance.STAMP, payload))


def named(store: Store, epoch: str, seq: int) -> Erasure:
    return Erasure(epoch, seq, store.read(leaves.read, epoch, seq, seq + 1)[0].hex(), "redaction-1")


def erase(store: Store, wanted: Erasure) -> set[tuple[str, int]]:
    targets = store.read(erasing.find, wanted)
    store.write_now(erasing.erase, wanted, targets, erasing.drafts(appliance.STAMP, targets, wanted))
    store.empty_log()
    return {(one.epoch, one.seq) for one in targets}


def why(store: Store, epoch: str, seq: int) -> str | None:
    (line,) = store.read(queue.lines, epoch, seq, 1, 10**6)
    return line.why if isinstance(line, Stub) else None


def test_what_was_carried_goes_in_both_logs_once_the_later_one_is_receipted(store: Store, places: Places) -> None:
    store.write_now(go_on)
    wanted = named(store, NEXT, 2)
    with pytest.raises(erasing.NotReceiptedError):
        store.read(erasing.find, wanted)
    with pytest.raises(erasing.NotReceiptedError):
        store.read(erasing.find, named(store, EPOCH, 6))
    store.write_now(queue.acknowledge, NEXT, appliance.receipt(store, NEXT, NEXT_ORIGIN, 6))
    assert b'"number":6,' in places.database.read_bytes() + (places.state_dir / "agent.db-wal").read_bytes()
    assert erase(store, wanted) == {(NEXT, 2), (EPOCH, 6)}
    assert (why(store, NEXT, 2), why(store, EPOCH, 6)) == (StubReason.ERASED, StubReason.ERASED)
    assert (why(store, NEXT, 3), why(store, EPOCH, 7)) == (None, None)
    assert not any(b'"number":6,' in path.read_bytes() for path in places.state_dir.glob("agent.db*"))
    store.read(verify.store)


def test_a_carried_genesis_is_not_erased(store: Store) -> None:
    def carried(tx: Tx) -> None:
        queue.append(tx, evidence.recovered(appliance.STAMP, bytes(queue.lines(tx, EPOCH, 0, 1, 10**6)[0])))  # type: ignore[arg-type]

    with pytest.raises(queue.OtherContentError):
        store.write_now(carried)  # in its own log its id stands already
    store.write_now(go_on)
    store.write_now(carried)
    size = store.read(queue.size_of, NEXT)
    store.write_now(queue.acknowledge, NEXT, appliance.receipt(store, NEXT, NEXT_ORIGIN, size))
    with pytest.raises(erasing.WrongTargetError, match="never erased"):
        store.read(erasing.find, named(store, NEXT, size - 1))


def test_what_was_erased_is_not_carried_over_again(store: Store) -> None:
    store.write_now(go_on)
    store.write_now(queue.acknowledge, NEXT, appliance.receipt(store, NEXT, NEXT_ORIGIN, 6))
    erase(store, named(store, NEXT, 2))
    assert store.write_now(queue.carry_over, EPOCH, 5, lambda old: evidence.recovered(appliance.STAMP, old)) == 0


def test_a_salvage_leaves_what_was_erased_where_it_is(places: Places) -> None:
    with contextlib.closing(appliance.open_store(places)) as store:
        wanted, before = named(store, EPOCH, 3), store.read(queue.root_at, EPOCH, 5)
        erase(store, wanted)
    data = bytearray(places.database.read_bytes())
    data[data.index(b'"number":8,') + 3] ^= 1
    places.database.write_bytes(data)
    with contextlib.closing(appliance.open_store(places)) as store:
        assert len(store.read(queue.all_epochs)) == 2
        assert why(store, EPOCH, 3) == StubReason.ERASED
        assert store.read(queue.root_at, EPOCH, 5) == before
        assert appliance.told(store).missing == {(ORIGIN, 8)}
        assert store.read(erasing.find, wanted) == []
        with pytest.raises(erasing.WrongTargetError):
            store.read(erasing.find, replace(wanted, leaf="ab" * 32))


def test_what_the_server_has_no_payload_of_waits(store: Store) -> None:
    refused = "INSERT INTO refused_entries VALUES (?, 3, 'heartbeat', 'x', 'x', 3, 1, 1, NULL)"
    store.write_now(lambda tx: tx.execute(refused, (EPOCH,)))
    with pytest.raises(erasing.NotReceiptedError):
        store.read(erasing.find, named(store, EPOCH, 3))
