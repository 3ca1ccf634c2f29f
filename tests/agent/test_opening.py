"""Opening the store: verified first, mended where it is damaged, and gone on with in every case."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ccagent import daemon, opening, queue
from ccagent.config import Config
from ccagent.places import Places
from ccagent.store import Store, StoreDamagedError, StoreUnusableError
from ccshared.batch import Stub
from tests.faults import appliance
from tests.faults.appliance import EPOCH, ORIGIN, Told

COUNT = 300  # entries in the log, genesis included
RECEIPTED = 120


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An appliance whose log has 300 entries, 120 of them receipted, one of them too long for a page."""
    places = appliance.settle_in(tmp_path / "state")
    with contextlib.closing(appliance.open_store(places)) as store:
        appliance.begin(store)
        drafts = [appliance.draft(number, 6000 if number == 150 else 40) for number in range(1, COUNT)]
        store.write_now(lambda tx: [queue.append(tx, one) for one in drafts])
        appliance.acknowledge(store, RECEIPTED)
    return places


def flip(path: Path, needle: bytes, offset: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(needle) + offset] ^= 1
    path.write_bytes(data)


def told(places: Places) -> Told:
    with contextlib.closing(appliance.open_store(places)) as store:
        return appliance.told(store)


def every(*but: int) -> set[tuple[str, int]]:
    return {(ORIGIN, seq) for seq in range(COUNT) if seq not in but}


def test_a_sound_store_is_gone_on_with(places: Places) -> None:
    assert told(places).epochs == 1
    assert not places.quarantine.exists()


def test_a_flipped_bit_in_a_row_that_waits_costs_that_row_alone_and_a_gap_names_it(places: Places) -> None:
    flip(places.database, b'"number":200,')
    found = told(places)
    assert found.missing == {(ORIGIN, 200)}
    assert every(200) <= set(found.leaves)
    assert (ORIGIN, 200) not in found.leaves
    assert len(list(places.quarantine.iterdir())) == 1


def test_the_next_log_keeps_the_key_names_its_reason_and_carries_what_waited(places: Places) -> None:
    flip(places.database, b'"number":200,')
    with contextlib.closing(appliance.open_store(places)) as store:
        old, new = store.read(queue.all_epochs)
        genesis, gap, *carried = store.read(queue.lines, new.epoch, 0, 1000, 10**8)
    assert (new.number, new.public_key) == (2, old.public_key)
    assert isinstance(genesis, bytes)
    assert b'"reason":"corruption"' in genesis
    assert isinstance(gap, bytes)
    assert b'"count":1,' in gap
    assert len(carried) == COUNT - RECEIPTED - 1
    assert all(not isinstance(line, Stub) and b'"kind":"recovered"' in line for line in carried)
    assert old.carried_from == old.watermark == RECEIPTED


def test_what_was_mended_is_sound_at_the_next_start(places: Places) -> None:
    flip(places.database, b'"number":200,')
    assert told(places).epochs == told(places).epochs == 2


def no_database(places: Places) -> None:
    places.database.write_bytes(b"this is no database" * 1000)


def empty(places: Places) -> None:
    places.database.write_bytes(b"")


def half(places: Places) -> None:
    data = places.database.read_bytes()
    places.database.write_bytes(data[: len(data) // 2])


def zeroed_page(places: Places) -> None:
    data = bytearray(places.database.read_bytes())
    page = data.index(b'"number":200,') // 4096
    data[page * 4096 : page * 4096 + 4096] = bytes(4096)
    places.database.write_bytes(data)


def bad_header(places: Places) -> None:
    data = bytearray(places.database.read_bytes())
    data[:100] = bytes(100)
    places.database.write_bytes(data)


def gone(places: Places) -> None:
    places.database.unlink()


@pytest.mark.parametrize("damage", [no_database, empty, half, zeroed_page, bad_header, gone])
def test_the_agent_starts_whatever_was_done_to_the_file_and_lists_what_is_missing(
    places: Places, damage: Callable[[Places], None]
) -> None:
    damage(places)
    found = told(places)
    assert found.epochs == 2 or damage in (empty, gone)
    assert set(found.leaves) | found.missing >= every()
    assert not set(found.leaves) & found.missing


def test_a_database_put_back_from_an_older_copy_begins_a_new_log_that_lists_what_it_forgot(places: Places) -> None:
    copy = places.database.read_bytes()
    with contextlib.closing(appliance.open_store(places)) as store:
        for number in range(COUNT, COUNT + 7):
            store.write_now(queue.append, appliance.draft(number))
    places.database.write_bytes(copy)
    found = told(places)
    assert found.epochs == 2
    assert found.missing == {(ORIGIN, seq) for seq in range(COUNT, COUNT + 7)}
    assert every() <= set(found.leaves)


def test_a_mark_that_lags_behind_is_normal(places: Places) -> None:
    mark = places.head_mark.read_bytes()
    with contextlib.closing(appliance.open_store(places)) as store:
        store.write_now(queue.append, appliance.draft(COUNT))
    places.head_mark.write_bytes(mark)
    assert told(places).epochs == 1


def test_a_salvage_that_was_cut_short_is_done_again_from_quarantine(places: Places) -> None:
    flip(places.database, b'"number":200,')
    with contextlib.closing(Store.hold(places)) as store:
        directory = opening._quarantine(store.places, appliance.STAMP)
    places.database.unlink()
    places.database.write_bytes(b"half a database")
    assert told(places).missing == {(ORIGIN, 200)}
    assert [directory] == list(places.quarantine.iterdir())
    assert not places.salvaging.exists()


def test_damage_found_while_running_is_mended_without_a_restart(places: Places) -> None:
    with contextlib.closing(appliance.open_store(places)) as store:
        agent = daemon.open_agent(Config(), places, store)
        store.release()
        flip(places.database, b'"number":200,')
        with pytest.raises(queue.DamagedLogError):
            store.read(queue.lines, EPOCH, 0, 1000, 10**8)
        daemon.tend(agent)
        assert appliance.told(store).missing == {(ORIGIN, 200)}
        assert not store.is_damaged


def test_a_file_that_became_unreadable_while_running_is_mended_too(places: Places) -> None:
    with contextlib.closing(appliance.open_store(places)) as store:
        agent = daemon.open_agent(Config(), places, store)
        store.release()
        zeroed_page(places)
        bad_header(places)
        daemon.tend(agent)
        assert appliance.told(store).epochs == 2


def test_a_store_of_a_newer_agent_is_left_alone(places: Places) -> None:
    with contextlib.closing(Store.open(places)) as store:
        store.write_now(lambda tx: [tx.execute(f"PRAGMA {name}") for name in newer()])
    with pytest.raises(StoreUnusableError, match="newer cc-agent"):
        appliance.open_store(places)
    assert not places.quarantine.exists()


def newer() -> list[str]:
    return ["user_version = 99", f"application_id = {0x63630000 + 99}"]


def test_a_question_mends_nothing(places: Places) -> None:
    places.database.write_bytes(b"this is no database" * 1000)
    with contextlib.closing(opening.look(places)) as store, pytest.raises(StoreDamagedError):
        store.read(queue.status)
    assert not places.quarantine.exists()
    assert told(places).epochs == 2


def test_entries_that_a_question_found_in_a_damaged_write_ahead_log_are_still_salvaged(
    places: Places, tmp_path: Path
) -> None:
    with contextlib.closing(appliance.open_store(places)) as store:
        for number in range(COUNT, COUNT + 5):
            store.write_now(queue.append, appliance.draft(number))
        shutil.copytree(places.state_dir, tmp_path / "copy")
    copy = Places(tmp_path / "copy")
    flip(copy.state_dir / "agent.db-wal", b'"number":%d,' % (COUNT + 1))
    with contextlib.closing(opening.look(copy)) as store:
        store.read(queue.status)
    found = told(copy)
    assert set(found.leaves) | found.missing >= {(ORIGIN, seq) for seq in range(COUNT + 5)}
    assert len(found.missing) <= 1
