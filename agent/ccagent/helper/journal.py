"""What was begun, and what became of it: written and on the disk before a first step runs, so that none runs twice.

A SQLite file of the helper's own. Its rollback journal and `synchronous=EXTRA` put file and directory on the disk with
each commit. Time here is the order clock's: the newest time in anything that the server signed, and what has passed
since by a clock that nobody can set.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccagent import clock

COOLDOWN_MS = 300_000
WINDOW_MS = 24 * 3_600_000
MOST_IN_WINDOW = 3
BUSY_S = 5.0
STEPS_KEPT = 200  # of so many runs what their steps said; of all the others how they ended

Tx = sqlite3.Connection

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS runs (
        kind TEXT NOT NULL CHECK (kind IN ('order', 'repair')),
        id TEXT NOT NULL,
        runbook TEXT NOT NULL,
        host TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'interrupted')),
        reason TEXT NOT NULL,
        steps TEXT NOT NULL,
        begun_ms INTEGER NOT NULL,
        finished_ms INTEGER,
        keep_until_ms INTEGER NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT
    """,
    "CREATE INDEX IF NOT EXISTS runs_by_runbook ON runs (runbook, begun_ms)",
    """
    CREATE TABLE IF NOT EXISTS clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        at_ms INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        boot_ms INTEGER NOT NULL,
        policy_version INTEGER NOT NULL
    ) STRICT
    """,
    "INSERT OR IGNORE INTO clock VALUES (1, 0, '', 0, 0)",
)


class JournalUnusableError(Exception):
    """The journal cannot be used, so nothing may run; the message says what to do."""


class TooOftenError(Exception):
    """The runbook's own bound on attempts is reached; the message says when the next may be."""


@dataclass(frozen=True)
class Boot:
    """Which start of the machine this is, and the ms since then."""

    boot_id: str
    ms: int


@dataclass(frozen=True)
class Kept:
    """An order clock as it was kept: its time, and where the clock since boot stood then."""

    at_ms: int
    boot: Boot


@dataclass(frozen=True)
class Run:
    """An order or repair that is about to begin; `keep_until_ms` by the order clock."""

    kind: str
    id: str
    runbook: str
    host: str
    keep_until_ms: int


def boot_now() -> Boot:
    """Return the present boot; where it has no name no two looks are of one boot, and no time counts as passed."""
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    return Boot(boot_id, round(clock.boottime() * 1000))


def advanced(kept: Kept, boot: Boot) -> int:
    """Return the order clock's time: after another start it goes on from where it was kept last."""
    same = kept.boot.boot_id == boot.boot_id != ""
    return kept.at_ms + (max(0, boot.ms - kept.boot.ms) if same else 0)


def create(path: Path) -> None:
    """Make the journal where it is missing; JournalUnusableError when that cannot be."""
    with open_journal(path, create=True) as tx:
        for statement in _SCHEMA:
            tx.execute(statement)


@contextlib.contextmanager
def open_journal(path: Path, *, create: bool = False) -> Iterator[Tx]:
    """Yield one transaction on the journal, on the disk when the block has ended without an error.

    A missing file is an error, not an empty journal: who has lost what was begun could run it twice.
    """
    how = "rwc" if create else "rw"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{_quoted(path)}?mode={how}", uri=True, timeout=BUSY_S, isolation_level=None)
        ) as db:
            for pragma in ("journal_mode=DELETE", "synchronous=EXTRA", "trusted_schema=OFF"):
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise JournalUnusableError(
            f"{path} cannot be used ({error}): nothing runs until root mends it; run cc-agent helper pin --replace"
            " once it is moved away and nothing can be waiting that ran already"
        ) from error


def hear(tx: Tx, signed_ms: int) -> int:
    """Take note of a time that the server signed, and return the order clock's time (ms), which is no earlier."""
    boot = boot_now()
    now = max(now_ms(tx), signed_ms)
    tx.execute("UPDATE clock SET at_ms = ?, boot_id = ?, boot_ms = ?", (now, boot.boot_id, boot.ms))
    return now


def now_ms(tx: Tx) -> int:
    """Return the order clock's time (ms UTC); 0 and what has passed before anything signed was seen."""
    at_ms, boot_id, boot_ms = tx.execute("SELECT at_ms, boot_id, boot_ms FROM clock").fetchone()
    return advanced(Kept(at_ms, Boot(boot_id, boot_ms)), boot_now())


def hear_policy(tx: Tx, version: int) -> bool:
    """Take note of a policy's version; return whether none newer was seen before."""
    (seen,) = tx.execute("SELECT policy_version FROM clock").fetchone()
    tx.execute("UPDATE clock SET policy_version = ?", (max(seen, version),))
    return bool(version >= seen)


def forget_server(tx: Tx) -> None:
    """Start the clock anew, because another server's times count from now on; what ran is still known."""
    tx.execute("UPDATE clock SET at_ms = 0, policy_version = 0")


def begin(tx: Tx, run: Run) -> bool:
    """Record that a run begins; return False, and change nothing, when its id was begun before."""
    _forget_old(tx)
    known = tx.execute("SELECT 1 FROM runs WHERE kind = ? AND id = ?", (run.kind, run.id)).fetchone()
    if known is not None:
        return False
    tx.execute(
        "INSERT INTO runs VALUES (?, ?, ?, ?, 'running', '', '[]', ?, NULL, ?)",
        (run.kind, run.id, run.runbook, run.host, hear(tx, 0), run.keep_until_ms),
    )
    return True


def finish(tx: Tx, run: Run, result: dict[str, Any]) -> None:
    """Record how a run ended: `status`, `reason` and `steps`; what ended already stays as it is."""
    tx.execute(
        "UPDATE runs SET status = ?, reason = ?, steps = ?, finished_ms = ?"
        " WHERE kind = ? AND id = ? AND status = 'running'",
        (result["status"], result["reason"], json.dumps(result["steps"]), hear(tx, 0), run.kind, run.id),
    )


def interrupt(tx: Tx, kind: str, run_id: str) -> None:
    """Record that a run was cut short; only while nothing can be running."""
    tx.execute(
        "UPDATE runs SET status = 'interrupted', finished_ms = ?,"
        " reason = 'the helper ended while it ran: look at what its steps left'"
        " WHERE kind = ? AND id = ? AND status = 'running'",
        (now_ms(tx), kind, run_id),
    )


def outcome(tx: Tx, kind: str, run_id: str) -> dict[str, Any] | None:
    """Return what is recorded of a run, None when nothing is. Times are the order clock's (ms)."""
    row = tx.execute(
        "SELECT status, reason, steps, begun_ms, finished_ms FROM runs WHERE kind = ? AND id = ?", (kind, run_id)
    ).fetchone()
    if row is None:
        return None
    return dict(zip(("status", "reason", "steps", "begun_ms", "finished_ms"), row, strict=True)) | {
        "steps": json.loads(row[2])
    }


def check_bound(tx: Tx, runbook: str) -> None:
    """Refuse a repair by this runbook that comes too soon or too often: TooOftenError.

    Cooldown of 300 s, doubling with each failure in a row, and at most 3 in 24 h, whatever host is named: the steps
    run on this machine. What was cut short, or still runs, counts as failed.
    """
    rows = tx.execute(
        "SELECT begun_ms, status FROM runs WHERE kind = 'repair' AND runbook = ? ORDER BY begun_ms DESC, rowid DESC"
        " LIMIT 64",
        (runbook,),
    ).fetchall()
    if not rows:
        return
    failures = next((count for count, row in enumerate(rows) if row[1] == "succeeded"), len(rows))
    free = rows[0][0] + min(COOLDOWN_MS << min(failures, 20), WINDOW_MS)
    if len(rows) >= MOST_IN_WINDOW:
        free = max(free, rows[MOST_IN_WINDOW - 1][0] + WINDOW_MS)
    wait_ms = free - now_ms(tx)
    if wait_ms > 0:
        raise TooOftenError(f"{runbook} was tried too often: not before {-(-wait_ms // 60_000)} min have passed")


def _forget_old(tx: Tx) -> None:
    """An id stays until its time is over, what its steps said while it is one of the newest."""
    tx.execute("DELETE FROM runs WHERE keep_until_ms < ?", (now_ms(tx),))
    tx.execute(
        "UPDATE runs SET steps = '[]' WHERE steps <> '[]'"
        " AND rowid NOT IN (SELECT rowid FROM runs ORDER BY begun_ms DESC, rowid DESC LIMIT ?)",
        (STEPS_KEPT,),
    )


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
