"""The agent's store: one SQLite file, one connection on the event loop's own thread, one process.

A commit takes some 0.2 ms; a thread or an executor would cost more than it saves. Locking is EXCLUSIVE because the
WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs two connections, and because a full disk can then still be opened.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any, Self, TypeVar, TypeVarTuple

from ccagent import head_mark
from ccagent.head_mark import HeadMark, MarkFile
from ccagent.places import Places

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PRAGMAS = (
    "auto_vacuum = INCREMENTAL",  # only a new file can still choose it
    "locking_mode = EXCLUSIVE",  # before WAL, so that no shared-memory file is ever made
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "mmap_size = 0",
)
_MIGRATION = re.compile(r"([0-9]{3})_[a-z0-9_]+\.sql")
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


class StoreInUseError(Exception):
    """Another cc-agent holds the state directory."""


class StoreUnusableError(Exception):
    """The state directory or its database cannot be used; the message says why and what to do."""


class StoreFailedError(Exception):
    """A commit or read failed below SQL; whether the unit was kept is not known, so do it again."""


class Tx:
    """What a unit or a query may use: SQL, and a new head mark to be written once the transaction is committed."""

    __slots__ = ("connection", "execute", "head_mark")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.head_mark: HeadMark | None = None


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
    """The open store. `mark_at_open` is the head mark as the last run left it, None when there was none."""

    def __init__(self, places: Places, lock: int, marks: MarkFile, mark_at_open: HeadMark | None) -> None:
        self._places = places
        self._lock = lock
        self._marks = marks
        self._tx: Tx | None = None
        self._waiting: list[_Waiting] = []
        self.mark_at_open = mark_at_open

    @classmethod
    def open(cls, places: Places) -> Self:
        """Take the lock, open the database and bring its schema up to date.

        StoreInUseError when another process has it, StoreUnusableError when it cannot be used; each message is one
        sentence with the next step.
        """
        try:
            places.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(places)
            try:
                mark = head_mark.read(places.head_mark)
                store = cls(places, lock, MarkFile.open(places.head_mark), mark)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise StoreUnusableError(_unusable(places, error)) from error
        try:
            store._usable()
        except BaseException:
            store.close()
            raise
        return store

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
        except sqlite3.Error as error:
            self._after(error)
            if _is_broken(error):
                raise StoreFailedError(f"the store could not be read: {error}") from error
            raise

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
        except (StoreFailedError, StoreUnusableError) as error:
            for one in waiting:
                again = type(error)(*error.args)
                again.__cause__ = error.__cause__
                one.future.set_exception(again)
            return
        for one, outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, _Raised):
                one.future.set_exception(outcome.error)
            else:
                one.future.set_result(outcome)

    def _transact(self, units: Sequence[Callable[[Tx], Any]]) -> list[Any]:
        """Return what each unit returned, or _Raised, after COMMIT."""
        tx = self._usable()
        tx.head_mark = None
        try:
            tx.execute("BEGIN IMMEDIATE")
            outcomes = [_run(tx, unit) for unit in units]
            tx.execute("COMMIT")
        except BaseException as error:
            self._after(error)
            if isinstance(error, sqlite3.Error):
                raise StoreFailedError(f"the store could not commit: {error}") from error
            raise
        self._write_mark(tx.head_mark)
        return outcomes

    def _write_mark(self, mark: HeadMark | None) -> None:
        if mark is None:
            return
        try:
            self._marks.write(mark)
        except OSError as error:  # the rows are safe; only the finding of a rolled-back disk is weaker
            log.warning("the head mark could not be written: %s", error)

    def _after(self, error: BaseException) -> None:
        """Undo what is left of a transaction; after an I/O error begin anew with the file as it is."""
        if self._tx is None:
            return
        try:
            if self._tx.connection.in_transaction:
                self._tx.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_connection()
        if _is_broken(error):
            self._drop_connection()

    def _usable(self) -> Tx:
        if self._tx is None:
            if self._lock < 0:
                raise StoreUnusableError("the store is closed")
            self._tx = Tx(_connect(self._places))
        return self._tx

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
        tx.execute("ROLLBACK TO unit")
        outcome = _Raised(error)
    tx.execute("RELEASE unit")
    return outcome


def _is_broken(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _BROKEN


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
        connection = sqlite3.connect(places.database, isolation_level=None, cached_statements=256)
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise StoreUnusableError(_unusable(places, error)) from error
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Run the schema's files that this database has not had yet, each in one transaction with its number."""
    have: int = connection.execute("PRAGMA user_version").fetchone()[0]
    files = _schema_files()
    if have > len(files):
        raise StoreUnusableError(
            f"the store was written by a newer cc-agent (schema {have}, this one knows {len(files)}):"
            " install that version again"
        )
    for number, sql in enumerate(files[have:], start=have + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n;PRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _schema_files() -> list[str]:
    """Return the text of schema/001_….sql, 002_…, in order; there are no gaps."""
    found = {
        int(match[1]): file
        for file in resources.files("ccagent").joinpath("schema").iterdir()
        if (match := _MIGRATION.fullmatch(file.name))
    }
    return [found[number].read_text("utf-8") for number in range(1, len(found) + 1)]


def _unusable(places: Places, error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return (
            f"the state directory {places.state_dir} cannot be used ({error.strerror}): "
            f"give uid {os.geteuid()} the right to write there, or name another one with state_dir"
        )
    return (
        f"the database {places.database} cannot be used ({error}): "
        "check the disk, then restore the file or move it away"
    )
