"""An incident seen, settled, proved and its proof queued, beside how the field usually keeps these four.

The usual pattern: each call opens a connection of its own to a plain SQLite file, does its statement, commits, closes.
"""

import asyncio
import contextlib
import itertools
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ccagent import evidence, finding, incidents, queue, scrubbing
from ccagent.finding import Drift
from ccagent.incidents import Incident, Resolution, Sighting
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.scrubbing import Scrubbed
from ccagent.store import Store, Tx
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind, Level, Outcome, Severity
from tests.bench.measure import Pair, Result, faster, times

ROUNDS, INCIDENTS = 21, 16
AT_LEAST = 6.0
EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)
STAMP = (1_790_000_000_000, Clock.SYNC)
RESOLUTION = Resolution(Level.L1, "restart-service", Outcome.SUCCESS)
USUAL = """
    CREATE TABLE incidents (id TEXT PRIMARY KEY, site_id TEXT, host_id TEXT, incident_type TEXT, severity TEXT,
        raw_data TEXT, pattern_signature TEXT, created_at TEXT DEFAULT CURRENT_TIMESTAMP, resolved_at TEXT,
        resolution_level TEXT, resolution_action TEXT, outcome TEXT, resolution_time_ms INTEGER);
    CREATE INDEX idx_incidents_pattern ON incidents (pattern_signature);
    CREATE INDEX idx_incidents_type ON incidents (incident_type);
    CREATE INDEX idx_incidents_created ON incidents (created_at);
    CREATE TABLE pattern_stats (pattern_signature TEXT PRIMARY KEY, total_occurrences INTEGER, l1_resolutions INTEGER,
        success_count INTEGER, total_resolution_time_ms INTEGER, last_seen TEXT);
    CREATE TABLE evidence (id TEXT PRIMARY KEY, incident_id TEXT, bundle_json TEXT, bundle_hash TEXT, created_at TEXT);
    CREATE TABLE queued_evidence (id INTEGER PRIMARY KEY AUTOINCREMENT, bundle_id TEXT UNIQUE, bundle_json TEXT,
        created_at TEXT DEFAULT CURRENT_TIMESTAMP, retry_count INTEGER DEFAULT 0, next_retry_at TEXT, last_error TEXT,
        uploaded_at TEXT);
    CREATE INDEX idx_queued_evidence_retry ON queued_evidence (next_retry_at);
"""


@dataclass(frozen=True)
class Both:
    """The agent's store, and the file of the usual pattern; `numbers` tells one incident from another."""

    ours: Store
    usual: Path
    found: Scrubbed
    numbers: Iterator[int]

    async def keep(self) -> None:
        """As the agent does: seen in one commit, settled, proved and queued in the next."""
        for _ in range(INCIDENTS):
            sighting = Sighting(self.found, STAMP[0], f"i-{next(self.numbers)}")
            await self.ours.write(incidents.see, sighting)
            (incident,) = self.ours.read(incidents.open_rows)
            await self.ours.write(_settle, incident, evidence.remediation(STAMP, incident, RESOLUTION))

    async def keep_as_usual(self) -> None:
        """As the field does: four calls, four connections, four commits."""
        for _ in range(INCIDENTS):
            one = f"i-{next(self.numbers)}"
            self._create(one)
            self._resolve(one)
            bundle = json.dumps({"incident": one, "finding": self.found.facts, "reason": self.found.reason})
            self._call(
                "INSERT INTO evidence VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP)", (f"e-{one}", one, bundle, "ab" * 32)
            )
            self._call("INSERT INTO queued_evidence (bundle_id, bundle_json) VALUES (?, ?)", (f"e-{one}", bundle))

    def _create(self, one: str) -> None:
        row = (
            one,
            "site",
            self.found.host_id,
            "backup_stale",
            "high",
            json.dumps(self.found.facts),
            "0123456789abcdef",
        )
        self._call(
            "INSERT INTO incidents (id, site_id, host_id, incident_type, severity, raw_data, pattern_signature)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
            "INSERT INTO pattern_stats VALUES ('0123456789abcdef', 1, 0, 0, 0, CURRENT_TIMESTAMP)"
            " ON CONFLICT DO UPDATE SET total_occurrences = total_occurrences + 1, last_seen = CURRENT_TIMESTAMP",
        )

    def _resolve(self, one: str) -> None:
        self._call(
            "UPDATE incidents SET resolved_at = CURRENT_TIMESTAMP, resolution_level = 'L1', outcome = 'success',"
            " resolution_action = 'restart-service', resolution_time_ms = 12 WHERE id = ?",
            (one,),
            "UPDATE pattern_stats SET l1_resolutions = l1_resolutions + 1, success_count = success_count + 1,"
            " total_resolution_time_ms = total_resolution_time_ms + 12",
        )

    def _call(self, statement: str, values: tuple[object, ...], more: str | None = None) -> None:
        with contextlib.closing(sqlite3.connect(self.usual)) as conn, conn:
            conn.execute(statement, values)
            if more is not None:
                conn.execute(more)


def _settle(tx: Tx, incident: Incident, proof: Draft) -> None:
    incidents.settle(tx, incident.id, RESOLUTION, STAMP[0])
    queue.append(tx, proof)


async def measure(folder: Path) -> list[Result]:
    """Return the row."""
    drift = Drift(Severity.HIGH, "backup_stale")
    found = scrubbing.scrub(b"k" * 32, finding.failed("backup", "box", "the last backup is old", {"age_h": 51}, drift))
    with contextlib.closing(sqlite3.connect(folder / "usual.db")) as conn:
        conn.executescript(USUAL)
    with contextlib.closing(Store.open(Places(folder / "agent"))) as store:
        store.write_now(queue.open_epoch, EPOCH, Draft(Kind.GENESIS, "0" * 32, 1_000, Clock.SYNC, "0" * 32, {}))
        both = Both(store, folder / "usual.db", found, itertools.count())
        found_times = await times(Pair(both.keep, both.keep_as_usual), ROUNDS)
    what = "create, settle, prove, queue ÷ a connection a call, four commits"
    return [faster("incident", what, found_times, AT_LEAST, INCIDENTS)]


def run() -> list[Result]:
    """Measure on the disk that holds the working directory."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as made:
        return asyncio.run(measure(Path(made)))
