"""The agent's store: one SQLite file, one connection on the event loop's own thread, one process.

A commit takes some 0.2 ms; a thread or an executor would cost more than it saves. Locking is EXCLUSIVE because the
WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs two connections, and because a full disk can then still be opened.
"""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Self, TypeVar, TypeVarTuple

from ccagent import head_mark, room
from ccagent.head_mark import HeadMark, MarkFile
from ccagent.places import Places
from ccagent.room import Ballast

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PRAGMAS = (
    "locking_mode = EXCLUSIVE",  # before anything is read, so that no shared-memory file is ever made
    "auto_vacuum = INCREMENTAL",  # a new file's only: said to another it writes, and before it is verified nothing may
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "mmap_size = 0",
)
_MIGRATION = re.compile(r"([0-9]{3})_[a-z0-9_]+\.sql")
# Beyond the budget, for what must be kept when it is used up: receipts, and counts of what was refused.
_HEADROOM_BYTES = 1024 * 1024
_LOOK_FOR_ROOM_S = 10.0
# In pages. SQLite's own 1000; on a full disk the log begins anew early, so that counting does not use up the ballast.
_CHECKPOINT_AT, _CHECKPOINT_AT_WHEN_FULL = 1000, 16
# After these the connection's picture of the file is not to be trusted.
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SECOND_NUMBER = 0x63_63_00_00
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# While opening, the file itself must be at fault: its schema is another.
_ODD_AT_OPEN = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT})
# Python cannot even read SQLite's sentence about a schema whose text is spoilt.
_FAILURES = (OSError, sqlite3.Error, UnicodeDecodeError)
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


class StoreInUseError(Exception):
    """Another cc-agent holds the state directory."""


class StoreUnusableError(Exception):
    """The state directory or its database cannot be used; the message says why and what to do."""


class StoreFailedError(Exception):
    """A commit or read failed below SQL; whether the unit was kept is not known, so do it again."""


class DamagedError(Exception):
    """What the database says is not what was put there; it is to be salvaged before more is done with it."""


class StoreDamagedError(StoreUnusableError):
    """The database cannot be read as one."""


Rows = sqlite3.Cursor


class Tx:
    """What a unit or a query may use: SQL, and a new head mark to be written once the transaction is committed.

    `known` keeps what a unit read or wrote for the next one; it is emptied whenever anything is undone. `budget_pages`
    is how many pages the file may have; `has_ballast` is whether the disk still has its last reserve, and where it has
    not, `has_room` whether half of that is still free: the other half is for receipts and counts.
    """

    __slots__ = ("budget_pages", "connection", "execute", "has_ballast", "has_room", "head_mark", "known")

    def __init__(self, connection: sqlite3.Connection, budget_pages: int) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.head_mark: HeadMark | None = None
        self.known: dict[str, Any] = {}
        self.budget_pages = budget_pages
        self.has_ballast = True
        self.has_room = True


class _Waiting:
    """A unit that waits for the next commit, and whom to tell."""

    __slots__ = ("future", "unit")

    def __init__(self, unit: Callable[[Tx], Any], future: asyncio.Future[Any]) -> None:
        self.unit = unit
        self.future = future


class _Raised:
    """What a unit raised, told apart from what one returned."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Store:
    """The open store. `mark_at_open` is the head mark as the last run left it, None when there was none.

    `newest_mark` is the newest that this run wrote, or that one. `is_damaged` says that something read was not what
    was put there. `changes` grows whenever something may have changed: what was looked through at the same
    number need not be looked through again.
    """

    def __init__(self, places: Places, lock: int, marks: MarkFile, mark_at_open: HeadMark | None) -> None:
        self.places = places
        self._lock = lock
        self._marks = marks
        self._tx: Tx | None = None
        self._waiting: list[_Waiting] = []
        self._ballast = Ballast(places.ballast)
        self._looked_for_room_at = -_LOOK_FOR_ROOM_S
        self._must_checkpoint = False
        # Until the mark was found to agree, or what it knows more is on record, it must not be written over.
        self._mark_withheld = mark_at_open is not None
        self.mark_at_open = mark_at_open
        self.newest_mark = mark_at_open
        self._withheld: HeadMark | None = None
        self.is_damaged = False
        self.changes = 0

    @classmethod
    def hold(cls, places: Places) -> Self:
        """Take the lock, and leave the database as it is until it is first used.

        StoreInUseError when another process has it, StoreUnusableError when the directory cannot be used; each
        message is one sentence with the next step.
        """
        try:
            places.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(places)
            try:
                mark = head_mark.read(places.head_mark)
                return cls(places, lock, MarkFile.open(places.head_mark), mark)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise StoreUnusableError(_unusable(places, error)) from error

    @classmethod
    def open(cls, places: Places) -> Self:
        """Take the lock, open the database and bring its schema up to date.

        StoreInUseError and StoreUnusableError as above; StoreDamagedError when it is no database any more.
        """
        store = cls.hold(places)
        try:
            store._usable()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def mark_agrees(self) -> bool:
        """Whether the database has what the head mark of the last run saw; where it has not, rows vanished."""
        self._usable()
        return not self._mark_withheld

    def settle_mark(self) -> None:
        """Write the mark over: what it knew more than the database is on record now."""
        self._mark_withheld = False
        self._write_mark(self._withheld)
        with contextlib.suppress(OSError):  # it is written again with the next commit
            self._marks.sync()

    def release(self) -> None:
        """Close the database but keep the lock, so that its files can be moved; the next use opens what is there.

        The head mark stays as it is until it is settled.
        """
        # A cursor that an old traceback still holds would keep the closed connection, and its lock on the file, alive.
        gc.collect()
        self._drop_connection()
        self.changes += 1
        self._mark_withheld = True
        self.is_damaged = False

    async def write(self, unit: Callable[[Tx, *Ts], T], *args: *Ts) -> T:
        """Run `unit(tx, *args)` in its own savepoint and return what it returned, once it is committed.

        Units that arrive in one turn of the event loop share a commit. What a unit raises undoes that unit alone and
        reaches only its caller; StoreFailedError reaches every caller of a commit that failed. A unit does SQL only.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(lambda tx: unit(tx, *args), future))
        if len(self._waiting) == 1:
            loop.call_soon(self._commit_waiting)
        return await future

    def write_now(self, unit: Callable[[Tx, *Ts], T], *args: *Ts) -> T:
        """Do the same in a commit of its own before returning; units that wait for their turn come after it."""
        outcome = self._transact([lambda tx: unit(tx, *args)])[0]
        if isinstance(outcome, _Raised):
            raise outcome.error
        value: T = outcome
        return value

    def read(self, query: Callable[[Tx, *Ts], T], *args: *Ts) -> T:
        """Return `query(tx, *args)`; it sees committed rows only, and a query that writes is refused."""
        tx = self._usable()
        try:
            with _only_reading(tx):
                return query(tx, *args)
        except DamagedError:
            self.is_damaged = True
            raise
        except sqlite3.Error as error:
            self._after(error)
            if _is_broken(error):
                raise StoreFailedError(f"the store could not be read: {error}") from error
            raise

    def examine(self, query: Callable[[Tx], T]) -> T:
        """Return `query(tx)`; whatever SQLite stumbles over in the file is a DamagedError too, but not a failing disk.

        StoreDamagedError when the file cannot even be opened.
        """
        try:
            return self.read(query)
        except StoreFailedError as error:
            if not self.is_damaged:
                raise
            raise DamagedError(str(error)) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise DamagedError(f"the database cannot be read as the store: {error}") from error

    def tend(self) -> None:
        """Free pages that retention emptied, sync the head mark and put the ballast back: to be done now and then."""
        tx = self._usable()
        try:
            tx.connection.executescript("PRAGMA incremental_vacuum(256)")
            self._marks.sync()
        except sqlite3.Error as error:
            self._after(error)
        except OSError as error:
            log.warning("the head mark could not be synced: %s", error)
        _has_reserve(tx, self._ballast.put_back())

    def empty_log(self) -> None:
        """Move what the write-ahead log holds into the database and cut it off: older pages in it show what is gone."""
        tx = self._usable()
        try:
            tx.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self._after(error)

    def close(self) -> None:
        """Commit what waits, close the database and let the lock go; a second time does nothing."""
        if self._lock < 0:
            return
        if self._waiting:
            self._commit_waiting()
        self._drop_connection()
        self._marks.close()
        os.close(self._lock)
        self._lock = -1

    def _commit_waiting(self) -> None:
        waiting = [one for one in self._waiting if not one.future.cancelled()]
        self._waiting = []
        if not waiting:
            return
        try:
            outcomes = self._transact([one.unit for one in waiting])
        except (StoreFailedError, StoreUnusableError, OSError) as error:
            failure = str(error) if isinstance(error, OSError) else None
            for one in waiting:  # whoever waits is answered, whatever it was that failed
                again = StoreFailedError(f"the store failed: {failure}") if failure else type(error)(*error.args)
                again.__cause__ = error.__cause__ or error
                one.future.set_exception(again)
            return
        for one, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, _Raised):
                one.future.set_exception(outcome.error)
            else:
                one.future.set_result(outcome)

    def _transact(self, units: Sequence[Callable[[Tx], Any]]) -> list[Any]:
        """Return what each unit returned, or _Raised, after COMMIT; a full disk gets a second try on the ballast."""
        try:
            return self._commit(units)
        except StoreFailedError as error:
            if not self._gave_up_ballast(error.__cause__):
                raise
        return self._commit(units)

    def _commit(self, units: Sequence[Callable[[Tx], Any]]) -> list[Any]:
        self.changes += 1
        tx = self._usable()
        tx.head_mark = None
        if not tx.has_ballast:
            self._look_for_room(tx)
        try:
            tx.execute("BEGIN IMMEDIATE")
            outcomes = [_run_alone(tx, units[0])] if len(units) == 1 else [_run(tx, unit) for unit in units]
            if tx.connection.in_transaction:
                tx.execute("COMMIT")
        except BaseException as error:
            self._after(error)
            if isinstance(error, sqlite3.Error):
                raise StoreFailedError(f"the store could not commit: {error}") from error
            raise
        self._write_mark(tx.head_mark)
        if any(isinstance(outcome, _Raised) and isinstance(outcome.error, DamagedError) for outcome in outcomes):
            self.is_damaged = True
        return outcomes

    def _gave_up_ballast(self, error: BaseException | None) -> bool:
        """Give up the ballast when it was the disk that is full and not our own budget that is used up."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NO_ROOM:
            return False
        try:
            if room.free_bytes(self.places.state_dir) >= room.BALLAST_BYTES or not self._ballast.give_up():
                return False
            tx = self._usable()
        except (OSError, StoreUnusableError) as failure:
            log.warning("the disk is full, and the ballast could not be given up: %s", failure)
            return False
        log.warning("the disk is full: its last mebibyte is kept for what must not be lost")
        _has_reserve(tx, False)
        self._looked_for_room_at = time.monotonic()
        # What the log holds moves into the database while there is room for it; the log's own room is used again.
        with contextlib.suppress(sqlite3.Error):
            tx.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        return True

    def _look_for_room(self, tx: Tx) -> None:
        with contextlib.suppress(OSError):
            tx.has_room = room.free_bytes(self.places.state_dir) >= room.BALLAST_BYTES // 2
        now = time.monotonic()
        if now - self._looked_for_room_at >= _LOOK_FOR_ROOM_S:
            self._looked_for_room_at = now
            _has_reserve(tx, self._ballast.put_back())

    def _write_mark(self, mark: HeadMark | None) -> None:
        if mark is None:
            return
        if self._mark_withheld:
            self._withheld = mark
            return
        self.newest_mark = mark
        try:
            self._marks.write(mark)
        except OSError as error:  # the rows are safe; only the finding of a rolled-back disk is weaker
            log.warning("the head mark could not be written: %s", error)

    def _after(self, error: BaseException) -> None:
        """Undo what is left of a transaction; after an I/O error begin anew with the file as it is."""
        if self._tx is None:
            return
        self._tx.known.clear()
        try:
            if self._tx.connection.in_transaction:
                self._tx.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_connection()
        if _is_broken(error):
            self.is_damaged = self.is_damaged or _is_damage(error)
            self._must_checkpoint = True
            self._drop_connection()

    def _usable(self) -> Tx:
        if self._tx is None:
            if self._lock < 0:
                raise StoreUnusableError("the store is closed")
            connection = _connect(self.places)
            try:
                self._begin(connection)
            except BaseException as error:
                connection.close()
                if isinstance(error, _FAILURES):
                    raise _failure(self.places, error) from error
                raise
        if self._tx is None:
            raise StoreUnusableError("the store is closed")
        return self._tx

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take a connection into use, once the file is known to be what the kernel says it is.

        After a failed fsync the kernel calls pages clean that never reached the disk; what is in the log must
        be written and synced anew before anything is promised on top of it.
        """
        if self._must_checkpoint:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StoreFailedError("the store could not be written anew after an error")
            self._must_checkpoint = False
        tx = Tx(connection, _limit_pages(connection, self.places))
        if not self._ballast.put_back():
            _has_reserve(tx, False)
        if self._mark_withheld and self.mark_at_open is not None:
            self._mark_withheld = not _has(tx, self.mark_at_open)
        self._tx = tx

    def _drop_connection(self) -> None:
        tx, self._tx = self._tx, None
        if tx is not None:
            try:
                tx.connection.close()
            except sqlite3.Error as error:
                log.warning("the database did not close cleanly: %s", error)


@contextlib.contextmanager
def _only_reading(tx: Tx) -> Iterator[None]:
    tx.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        tx.execute("PRAGMA query_only = OFF")


def _has_reserve(tx: Tx, there: bool) -> None:
    if there != tx.has_ballast:
        tx.has_ballast = there
        tx.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_AT if there else _CHECKPOINT_AT_WHEN_FULL}")


def _run_alone(tx: Tx, unit: Callable[[Tx], Any]) -> Any:
    """Run the only unit of a transaction: what it raises undoes the transaction, so it needs no savepoint."""
    try:
        return unit(tx)
    except Exception as error:  # whatever it is, it is the caller's
        if isinstance(error, sqlite3.Error) and (_is_broken(error) or not tx.connection.in_transaction):
            raise
        tx.known.clear()
        tx.head_mark = None
        tx.execute("ROLLBACK")
        return _Raised(error)


def _run(tx: Tx, unit: Callable[[Tx], Any]) -> Any:
    """Run a unit in its savepoint; what it raises is returned, unless it has cost the whole transaction."""
    mark = tx.head_mark
    tx.execute("SAVEPOINT unit")
    try:
        outcome = unit(tx)
    except Exception as error:  # whatever it is, it is its own caller's and not its neighbours'
        if isinstance(error, sqlite3.Error) and (_is_broken(error) or not tx.connection.in_transaction):
            raise
        tx.head_mark = mark
        tx.known.clear()
        tx.execute("ROLLBACK TO unit")
        outcome = _Raised(error)
    tx.execute("RELEASE unit")
    return outcome


def _is_broken(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _BROKEN


def _is_damage(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _has(tx: Tx, mark: HeadMark) -> bool:
    """Return whether the database holds the entry that a head mark names, or, where it has left, its leaf."""
    row = tx.execute(
        """
        SELECT leaf FROM queued_evidence WHERE epoch = ?1 AND seq = ?2
        UNION ALL
        SELECT substr(leaves, (?2 - first) * 32 + 1, 32) FROM kept_leaves
        WHERE epoch = ?1 AND first = ?2 - ?2 % 256
        """,
        (mark.epoch, mark.size - 1),
    ).fetchone()
    return row is not None and isinstance(row[0], bytes) and row[0].hex() == mark.leaf


def _limit_pages(connection: sqlite3.Connection, places: Places) -> int:
    """Hold the file to its budget and a little headroom, and return the budget in pages."""
    page_size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    budget = max(room.budget_bytes(pages * page_size, room.free_bytes(places.state_dir)) // page_size, 1)
    connection.execute(f"PRAGMA max_page_count = {budget + _HEADROOM_BYTES // page_size}")
    return budget


def _take_lock(places: Places) -> int:
    descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreInUseError(
            f"another cc-agent is using {places.state_dir}: ask it with 'cc-agent status', or stop it first"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _connect(places: Places) -> sqlite3.Connection:
    try:
        # Made here, because SQLite would let the group and everybody read it.
        os.close(os.open(places.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        is_new = places.database.stat().st_size == 0
        connection = sqlite3.connect(places.database, isolation_level=None, cached_statements=256)
        try:
            for pragma in _PRAGMAS:
                if is_new or not pragma.startswith("auto_vacuum"):
                    connection.execute(f"PRAGMA {pragma}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    except _FAILURES as error:
        raise _failure(places, error) from error
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Run the schema's files that this database has not had yet, each in one transaction with its number."""
    have: int = connection.execute("PRAGMA user_version").fetchone()[0]
    again: int = connection.execute("PRAGMA application_id").fetchone()[0]
    files = _schema_files()
    if again != _second(have):
        raise StoreDamagedError("the database says two different things about its schema")
    if have > len(files):
        raise StoreUnusableError(
            f"the store was written by a newer cc-agent (schema {have}, this one knows {len(files)}):"
            " install that version again"
        )
    for number, sql in enumerate(files[have:], start=have + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\n;PRAGMA user_version = {number};"
                f"\nPRAGMA application_id = {_second(number)};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _second(number: int) -> int:
    """Return the schema's number as it stands in the file once more, so that a flipped bit does not pass for a newer
    agent's work; the first schema had no second number."""
    return _SECOND_NUMBER + number if number > 1 else 0


def _schema_files() -> list[str]:
    """Return the text of schema/001_….sql, 002_…, in order; there are no gaps."""
    found = {
        int(match[1]): file
        for file in resources.files("ccagent").joinpath("schema").iterdir()
        if (match := _MIGRATION.fullmatch(file.name))
    }
    return [found[number].read_text("utf-8") for number in range(1, len(found) + 1)]


def _failure(places: Places, error: Exception) -> StoreUnusableError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    is_damaged = code in _DAMAGE | _ODD_AT_OPEN or isinstance(error, UnicodeDecodeError)
    if code == sqlite3.SQLITE_READONLY:
        is_damaged = not _may_be_written(places)
    if is_damaged:
        return StoreDamagedError(
            f"the database {places.database} is damaged ({error}): start the agent, it salvages what can be read"
        )
    return StoreUnusableError(_unusable(places, error))


def _may_be_written(places: Places) -> bool:
    """Return whether the file's header allows writing; a flipped bit there forbids it (SQLite's file format, 1.3.3)."""
    try:
        with places.database.open("rb") as file:
            return file.read(20)[18:] in {b"\x01\x01", b"\x02\x02"}
    except OSError:
        return True


def _unusable(places: Places, error: Exception) -> str:
    if isinstance(error, OSError):
        return (
            f"the state directory {places.state_dir} cannot be used ({error.strerror}): "
            f"give uid {os.geteuid()} the right to write there, or name another one with state_dir"
        )
    return (
        f"the database {places.database} cannot be used ({error}): "
        "check the disk, then restore the file or move it away"
    )
