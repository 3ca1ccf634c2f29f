"""Opening the store so that the agent starts in every case, and never goes on from a past it cannot prove.

First the file is verified: its structure, every row that is not receipted, each log against its newest receipt, and
its end against the head mark. When it fails, the files go to quarantine, what proves itself is salvaged into a new
database, and a new epoch begins that says exactly what is missing. When the file is sound but shorter than the mark
says, a backup was put back: then too a new epoch begins, because the server may know what this disk has forgotten.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ccagent import queue, rebuilding, salvage, succession, verify
from ccagent.evidence import Stamp
from ccagent.head_mark import HeadMark
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import DamagedError, Store, StoreDamagedError, StoreFailedError, StoreUnusableError, Tx
from ccagent.succession import Ended

log = logging.getLogger(__name__)

CORRUPTION, ROLLBACK = "corruption", "rollback"


def open_store(places: Places, stamp: Stamp) -> Store:
    """Open the store, salvaging and beginning a new epoch where that is needed.

    StoreInUseError when another process has it; StoreUnusableError when the directory cannot be used, or a newer agent
    wrote the file.
    """
    store = Store.hold(places)
    try:
        _keep_wal(places)
        trouble = "a salvage was cut short" if places.salvaging.exists() else _trouble(store)
        if trouble is not None:
            mend(store, stamp, trouble)
        elif not store.mark_agrees:
            _go_on_after_rollback(store, stamp)
        _let_go_of_wal(places)
    except BaseException as error:
        store.close()
        if isinstance(error, OSError):
            raise StoreUnusableError(
                f"the store could not be salvaged: {error}: mend the disk, then start again"
            ) from error
        raise
    return store


def look(places: Places) -> Store:
    """Hold the store for a question: nothing is mended, and the write-ahead log is kept for who does.

    StoreInUseError when another process has it; reading it raises StoreUnusableError where it cannot be read.
    """
    store = Store.hold(places)
    try:
        _keep_wal(places)
    except BaseException:
        store.close()
        raise
    return store


def mend(store: Store, stamp: Stamp, trouble: str) -> None:
    """Put the store's files into quarantine, salvage what proves itself, and go on in a new epoch.

    Also while the agent runs, when `store.is_damaged`. It may be cut short at any moment: the next start does it again
    from what is in quarantine.
    """
    log.error("the store is damaged (%s): it goes to quarantine, and what proves itself is salvaged", trouble)
    mark = store.newest_mark
    store.release()
    directory = _quarantine(store.places, stamp)
    _clear_away(store.places)
    tables = salvage.tables(directory)
    with salvage.opened(directory) as wreck:
        logs = rebuilding.old_logs(wreck, tables, mark, store.places)
        try:
            store.write_now(rebuilding.rebuild, wreck, logs, tables, stamp[0])
        except StoreFailedError as error:
            log.warning("there is no room for what was salvaged, it stays in %s: %s", directory, error)
            logs = [replace(one, rows={}) for one in logs]
        ended = [one.ended for one in logs]
        begun = succession.begin(
            store, stamp, CORRUPTION, ended, lambda tx, recovered: rebuilding.carry(tx, wreck, logs, recovered)
        )
    _tell(begun, ended)
    store.settle_mark()
    store.places.salvaging.unlink(missing_ok=True)
    _sync(store.places.state_dir)


def _trouble(store: Store) -> str | None:
    """Return what is wrong with the file, None when it verifies."""
    try:
        store.examine(verify.store)
    except (DamagedError, StoreDamagedError) as error:
        return str(error)
    if not store.mark_agrees and _kept_wal(store.places).exists():
        return "entries that were promised are not where SQLite finds them"
    return None


def _go_on_after_rollback(store: Store, stamp: Stamp) -> None:
    """End the open log and go on in a new one: what the mark saw is not in the file."""
    opened, mark = store.read(queue.current), store.mark_at_open
    ended = _ended(store, opened, mark)

    def carry(tx: Tx, recovered: succession.Recovered) -> None:
        if opened is not None:
            queue.carry_over(tx, opened.epoch, opened.watermark, recovered)

    _tell(succession.begin(store, stamp, ROLLBACK, ended, carry), ended)
    store.settle_mark()


def _ended(store: Store, opened: Epoch | None, mark: HeadMark | None) -> list[Ended]:
    """Return the logs that end: the open one, and the marked one where that is another, with what is missing."""
    ended = [Ended(opened, [])] if opened is not None else []
    known = store.read(queue.all_epochs)
    if mark is None:
        return ended
    origin = succession.origin_of(store.places, mark.epoch, [one.origin for one in known])
    marked = next((one for one in known if one.epoch == mark.epoch), None)
    if marked is None and origin is not None:
        marked = Epoch(mark.epoch, origin, opened.public_key if opened else "", 0)
    if marked is None:
        return ended
    size = store.read(queue.size_of, mark.epoch)
    missing = succession.ranges(range(min(size, mark.size - 1), mark.size))
    return [*(one for one in ended if one.epoch.epoch != mark.epoch), Ended(marked, missing)]


def _tell(begun: Epoch | None, ended: Sequence[Ended]) -> None:
    for one in ended:
        count = sum(last - first + 1 for first, last in one.missing)
        log.warning("the log %s ended; %d of its entries are missing here", one.epoch.epoch, count)
    if begun is not None:
        log.warning("the log goes on as %s", begun.epoch)


def _kept_wal(places: Places) -> Path:
    return places.database.with_name(salvage.KEPT_WAL)


def _wal(places: Places) -> Path:
    return places.database.with_name(salvage.WAL)


def _keep_wal(places: Places) -> None:
    """Keep the write-ahead log as the last run left it, until the file is verified.

    SQLite takes it as far as it can read it and removes it when it closes; where a bit of it flipped, what follows
    would be gone with it.
    """
    kept = _kept_wal(places)
    try:
        if _wal(places).exists() and not kept.exists():
            os.link(_wal(places), kept)
    except OSError as error:
        log.warning("the write-ahead log could not be kept until it is verified: %s", error)


def _let_go_of_wal(places: Places) -> None:
    try:
        _kept_wal(places).unlink(missing_ok=True)
    except OSError as error:
        log.warning("the verified write-ahead log could not be removed: %s", error)


def _quarantine(places: Places, stamp: Stamp) -> Path:
    """Return the directory that holds the damaged files; a name in `salvaging` says from then on that it is the truth.

    They are linked there before they are removed here, so that at every moment one of the two is whole.
    """
    with contextlib.suppress(FileNotFoundError):
        return places.quarantine / places.salvaging.read_text("utf-8")
    directory = _new_directory(places.quarantine, stamp)
    for path in (places.database, _wal(places), _kept_wal(places)):
        if path.exists():
            os.link(path, directory / path.name)
            _sync(directory / path.name)
    _sync(directory)
    _sync(places.quarantine)
    temporary = places.salvaging.with_name("salvaging.new")
    temporary.write_text(directory.name, "utf-8")
    _sync(temporary)
    _sync(places.state_dir)
    temporary.replace(places.salvaging)
    _sync(places.state_dir)
    return directory


def _new_directory(quarantine: Path, stamp: Stamp) -> Path:
    quarantine.mkdir(mode=0o700, exist_ok=True)
    at = datetime.fromtimestamp(stamp[0] / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while True:
        directory = quarantine / (at if number == 1 else f"{at}-{number}")
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return directory


def _clear_away(places: Places) -> None:
    for path in (places.database, _wal(places), _kept_wal(places)):
        path.unlink(missing_ok=True)
    for name in ("agent.db-journal", "agent.db-shm"):
        places.database.with_name(name).unlink(missing_ok=True)
    _sync(places.state_dir)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
