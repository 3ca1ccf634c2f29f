"""The store: shared commits, savepoints, one process, and sentences where it cannot be used."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccagent import head_mark
from ccagent.head_mark import HeadMark
from ccagent.places import Places
from ccagent.store import Store, StoreFailedError, StoreInUseError, StoreUnusableError, Tx


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "state")


@pytest.fixture
def store(places: Places) -> Iterator[Store]:
    with contextlib.closing(Store.open(places)) as opened:
        opened.write_now(lambda tx: tx.execute("CREATE TABLE notes (text TEXT UNIQUE)"))
        yield opened


def note(tx: Tx, text: str) -> str:
    tx.execute("INSERT INTO notes (text) VALUES (?)", (text,))
    return text


def notes(tx: Tx) -> list[str]:
    return [row[0] for row in tx.execute("SELECT text FROM notes ORDER BY rowid")]


def note_and_raise(tx: Tx, text: str) -> None:
    note(tx, text)
    raise LookupError(text)


def traced(store: Store) -> list[str]:
    statements: list[str] = []
    store.read(lambda tx: tx.connection.set_trace_callback(statements.append))
    return statements


async def test_a_unit_returns_its_value_after_the_commit(store: Store) -> None:
    assert await store.write(note, "one") == "one"
    assert store.read(notes) == ["one"]


async def test_thirty_two_producers_in_one_turn_share_one_commit(store: Store) -> None:
    statements = traced(store)
    await asyncio.gather(*(store.write(note, str(number)) for number in range(32)))
    assert statements.count("COMMIT") == 1
    assert store.read(notes) == [str(number) for number in range(32)]


async def test_only_what_may_have_changed_the_store_counts_as_a_change(store: Store) -> None:
    before = store.changes
    store.read(notes)
    assert store.changes == before
    await store.write(note, "later")
    assert store.changes > before


async def test_one_producer_after_another_gets_a_commit_each(store: Store) -> None:
    statements = traced(store)
    for number in range(3):
        await store.write(note, str(number))
    assert statements.count("COMMIT") == 3


async def test_a_unit_that_raises_does_not_disturb_its_neighbours(store: Store) -> None:
    units = [store.write(note, "before"), store.write(note_and_raise, "bad"), store.write(note, "after")]
    before, bad, after = await asyncio.gather(*units, return_exceptions=True)
    assert (before, after) == ("before", "after")
    assert isinstance(bad, LookupError)
    assert store.read(notes) == ["before", "after"]


async def test_a_constraint_that_fails_reaches_only_its_caller(store: Store) -> None:
    units = [store.write(note, "same"), store.write(note, "same"), store.write(note, "other")]
    _, second, _ = await asyncio.gather(*units, return_exceptions=True)
    assert isinstance(second, sqlite3.IntegrityError)
    assert store.read(notes) == ["same", "other"]


async def test_a_failing_commit_fails_all_of_them_and_the_next_works(store: Store) -> None:
    store.write_now(
        lambda tx: tx.execute("CREATE TABLE child (text REFERENCES notes (text) DEFERRABLE INITIALLY DEFERRED)")
    )

    def orphan(tx: Tx) -> None:
        tx.execute("INSERT INTO child VALUES ('nobody')")

    units = [store.write(note, "innocent"), store.write(orphan)]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreFailedError, StoreFailedError]
    assert await store.write(note, "next") == "next"
    assert store.read(notes) == ["next"]


async def test_a_unit_that_costs_the_whole_transaction_fails_all_of_them(store: Store) -> None:
    units = [
        store.write(note, "innocent"),
        store.write(lambda tx: tx.execute("INSERT OR ROLLBACK INTO notes VALUES ('innocent')")),
    ]
    outcomes = await asyncio.gather(*units, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreFailedError, StoreFailedError]
    assert store.read(notes) == []


async def test_a_caller_that_gave_up_before_the_commit_leaves_nothing(store: Store) -> None:
    task = asyncio.ensure_future(store.write(note, "given up"))
    other = asyncio.ensure_future(store.write(note, "kept"))
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.wait([task, other])
    assert task.cancelled()
    assert await other == "kept"
    assert store.read(notes) == ["kept"]


def test_a_write_now_is_committed_when_it_returns(store: Store) -> None:
    statements = traced(store)
    assert store.write_now(note, "at once") == "at once"
    assert statements.count("COMMIT") == 1


def test_what_a_write_now_raises_is_undone(store: Store) -> None:
    with pytest.raises(LookupError):
        store.write_now(note_and_raise, "bad")
    assert store.read(notes) == []


async def test_closing_commits_what_waits(places: Places) -> None:
    store = Store.open(places)
    store.write_now(lambda tx: tx.execute("CREATE TABLE notes (text TEXT)"))
    waiting = asyncio.ensure_future(store.write(note, "late"))
    await asyncio.sleep(0)
    store.close()
    assert await waiting == "late"
    with contextlib.closing(Store.open(places)) as again:
        assert again.read(notes) == ["late"]


def test_a_query_that_writes_is_refused_and_writing_goes_on(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.read(note, "smuggled")
    assert store.write_now(note, "declared") == "declared"
    assert store.read(notes) == ["declared"]


def test_a_closed_store_says_so(places: Places) -> None:
    store = Store.open(places)
    store.close()
    store.close()
    with pytest.raises(StoreUnusableError, match="closed"):
        store.read(lambda tx: None)


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("locking_mode", "exclusive"),
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("mmap_size", 0),
        ("auto_vacuum", 2),
    ],
)
def test_the_file_is_opened_as_durably_as_promised(store: Store, pragma: str, value: object) -> None:
    row = store.read(lambda tx: tx.execute(f"PRAGMA {pragma}").fetchone())
    assert (row[0] if row else 0) == value


def test_no_shared_memory_file_is_made_and_nobody_else_can_read(places: Places, store: Store) -> None:
    assert not places.database.with_name("agent.db-shm").exists()
    for path in (places.database, places.lock, places.head_mark, places.database.with_name("agent.db-wal")):
        assert path.stat().st_mode & 0o077 == 0


def test_a_second_process_is_told_that_the_store_is_in_use(places: Places, store: Store) -> None:
    program = (
        "import sys, pathlib\n"
        "from ccagent.places import Places\n"
        "from ccagent.store import Store, StoreInUseError\n"
        "try:\n"
        "    Store.open(Places(pathlib.Path(sys.argv[1])))\n"
        "except StoreInUseError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(places.state_dir)], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith(f"another cc-agent is using {places.state_dir}: ")


def test_a_second_store_in_the_same_process_is_refused_too(places: Places, store: Store) -> None:
    with pytest.raises(StoreInUseError):
        Store.open(places)


def test_a_state_directory_that_cannot_be_made_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusableError) as caught:
        Store.open(Places(tmp_path / "file" / "state"))
    assert "\n" not in str(caught.value)
    assert "cannot be used (Not a directory): give uid" in str(caught.value)


def test_a_state_directory_without_room_to_write_gives_one_sentence() -> None:
    with pytest.raises(StoreUnusableError, match=r"the state directory /proc/1 cannot be used \(.*\): give uid"):
        Store.open(Places(Path("/proc/1")))


def test_a_database_that_is_none_gives_one_sentence_and_frees_the_lock(places: Places) -> None:
    places.state_dir.mkdir()
    places.database.write_bytes(b"not a database " * 500)
    for _ in range(2):
        with pytest.raises(StoreUnusableError, match="not a database"):
            Store.open(places)


def test_a_database_of_a_newer_agent_is_left_alone(places: Places) -> None:
    with contextlib.closing(Store.open(places)) as store:
        store.write_now(lambda tx: tx.execute("PRAGMA user_version = 900"))
        store.write_now(lambda tx: tx.execute(f"PRAGMA application_id = {0x63630000 + 900}"))
    with pytest.raises(StoreUnusableError, match="newer cc-agent"):
        Store.open(places)


async def test_after_an_io_error_the_file_is_opened_anew(places: Places, store: Store) -> None:
    await store.write(note, "kept")

    def broken(tx: Tx) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    before = store.read(lambda tx: tx.connection)
    with pytest.raises(StoreFailedError):
        await store.write(broken)
    assert store.read(lambda tx: tx.connection) is not before
    assert store.read(notes) == ["kept"]


async def test_the_mark_of_a_unit_that_failed_is_not_written(places: Places, store: Store) -> None:
    def mark(tx: Tx, size: int) -> None:
        tx.head_mark = HeadMark("1-aaaaaaaa", size, "0" * 64)

    def mark_and_raise(tx: Tx) -> None:
        mark(tx, 8)
        raise LookupError

    await asyncio.gather(store.write(mark, 7), store.write(mark_and_raise), return_exceptions=True)
    assert head_mark.read(places.head_mark) == HeadMark("1-aaaaaaaa", 7, "0" * 64)


def test_a_torn_mark_leaves_the_one_before(places: Places, store: Store) -> None:
    for size in (7, 8, 9):
        store.write_now(lambda tx, size: setattr(tx, "head_mark", HeadMark("1-aaaaaaaa", size, "0" * 64)), size)
    whole = places.head_mark.read_bytes()
    found = set()
    for at in (20, 532):
        data = bytearray(whole)
        data[at] ^= 1
        places.head_mark.write_bytes(bytes(data))
        found.add(head_mark.read(places.head_mark))
    assert found == {HeadMark("1-aaaaaaaa", 8, "0" * 64), HeadMark("1-aaaaaaaa", 9, "0" * 64)}
    places.head_mark.write_bytes(whole[:20])
    assert head_mark.read(places.head_mark) is None


def test_a_mark_that_the_database_does_not_bear_out_is_not_written_over(places: Places, store: Store) -> None:
    ahead = HeadMark("1-aaaaaaaa", 7, "0" * 64)
    store.write_now(lambda tx: setattr(tx, "head_mark", ahead))
    store.close()
    with contextlib.closing(Store.open(places)) as again:
        assert not again.mark_agrees
        again.write_now(lambda tx: setattr(tx, "head_mark", HeadMark("1-aaaaaaaa", 3, "1" * 64)))
        assert head_mark.read(places.head_mark) == ahead
        again.settle_mark()
        assert head_mark.read(places.head_mark) == HeadMark("1-aaaaaaaa", 3, "1" * 64)


def test_a_full_budget_fails_cleanly_and_leaves_the_ballast(places: Places, store: Store) -> None:
    pages = store.read(lambda tx: tx.execute("PRAGMA page_count").fetchone()[0])
    store.read(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages + 10}"))
    with pytest.raises(StoreFailedError, match="full"):
        store.write_now(note, "x" * 100_000)
    assert places.ballast.stat().st_size == 1024 * 1024
    assert store.write_now(note, "small") == "small"
    assert store.read(notes) == ["small"]
