"""A round of the patrol, with the real checks, on a real store."""

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ccagent import evidence, incidents, patrol, queue, scrubbing, states
from ccagent.clock import Clocks, ClockWatch
from ccagent.config import BackupSettings, ChecksSettings, EncryptionSettings, PluginSettings
from ccagent.evidence import Beginning
from ccagent.host import Host
from ccagent.patrol import Patrol, Summary
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store
from ccshared import entries
from ccshared.entries import Entry
from ccshared.vocabulary import Clock, Status

EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/ap-1/1-0a0b0c0d", "ab" * 32, 1_000)
HOUR = 3_600_000


class World:
    """A machine whose files are below a directory, with an agent, and clocks that a test moves."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self.store = store
        self.wall_ms = 1_800_000_000_000
        self.boot_s = 500.0
        (root / "machine" / "var").mkdir(parents=True)
        self.watch = ClockWatch(Clocks(lambda: self.wall_ms, lambda: self.boot_s, lambda: True))
        self.plugin = "echo 'all is well'; exit 0"

    def pass_ms(self, span_ms: int) -> None:
        self.wall_ms += span_ms
        self.boot_s += span_ms / 1000

    def backup(self, age_hours: float, **other: object) -> None:
        now = datetime.fromtimestamp(self.wall_ms / 1000, UTC)
        status = {
            "last_backup": (now - timedelta(hours=age_hours)).isoformat(),
            "last_restore_test": now.isoformat(),
            "checksum": "ab" * 32,
            **other,
        }
        (self.root / "machine" / "var" / "backup.json").write_text(json.dumps(status))

    def enrol(self) -> None:
        began = Beginning("enrolment", EPOCH.public_key, None, 1_000, "0.1.0")
        self.store.write_now(queue.open_epoch, EPOCH, evidence.genesis(self.watch.stamp(), began))

    async def round(self) -> Summary:
        settings = ChecksSettings(
            backup=BackupSettings(status_file=Path("/var/backup.json")),
            encryption=EncryptionSettings(),
            plugin=(PluginSettings(name="scripted", argv=("sh", "-c", self.plugin)),),
        )
        host = Host("clinic-1", self.root / "machine", path=os.environ["PATH"], privileged=False)
        return await patrol.round(
            Patrol(
                self.store, self.watch, host, settings, scrubbing.load_key(self.root / "scrub.key"), "0.1.0", "site-1"
            )
        )

    def log(self) -> list[Entry]:
        prev, found = entries.GENESIS_PREV, []
        for seq, payload in enumerate(self.store.read(queue.lines, EPOCH.epoch, 0, 10_000, 10**9)):
            found.append(entries.read(payload, EPOCH.origin, seq, prev))
            prev = found[-1].leaf.hex()
        return found

    def about(self, check: str) -> list[Entry]:
        return [entry for entry in self.log() if entry.body.get("check") == check]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with contextlib.closing(Store.open(Places(tmp_path / "state"))) as store:
        yield World(tmp_path, store)


async def test_a_stale_backup_is_sealed_opens_one_incident_and_asks_a_person_once(world: World) -> None:
    world.enrol()
    world.backup(30)
    summary = await world.round()
    run, asked = world.about("backup")
    assert (run.kind, run.body["status"], run.body["severity"]) == ("check_run", "fail", "medium")
    assert run.body["since"] == summary.at_ms
    assert "164.308(a)(7)(ii)(A)" in run.body["hipaa_controls"]
    assert (asked.kind, asked.body["level"], asked.body["type"]) == ("escalation", "L3", "backup_stale")
    assert [asked.body["incident"]] == [
        one.id for one in world.store.read(incidents.open_rows) if one.check == "backup"
    ]


async def test_the_first_round_seals_every_check(world: World) -> None:
    world.enrol()
    world.backup(1)
    summary = await world.round()
    sealed = {entry.body["check"] for entry in world.log() if entry.kind == "check_run"}
    assert sealed == {finding.check for finding in summary.findings}
    assert len(sealed) == 7
    assert summary.sealed == len(world.log()) - 1


async def test_a_second_round_within_the_hour_seals_nothing_new(world: World) -> None:
    world.enrol()
    world.backup(30)
    await world.round()
    before = world.log()
    world.pass_ms(300_000)
    summary = await world.round()
    assert (summary.sealed, summary.opened, summary.escalated) == (0, (), ())
    assert world.log() == before
    (incident,) = [one for one in world.store.read(incidents.open_rows) if one.check == "backup"]
    assert incident.occurrences == 2


async def test_after_an_hour_each_check_is_sealed_again(world: World) -> None:
    world.enrol()
    world.backup(30)
    first = await world.round()
    world.pass_ms(HOUR)
    summary = await world.round()
    assert summary.sealed == len(summary.findings)
    again = world.about("backup")[-1]
    assert (again.kind, again.body["since"], again.at) == ("check_run", first.at_ms, first.at_ms + HOUR)


async def test_a_changed_reason_is_sealed_at_once(world: World) -> None:
    world.enrol()
    world.backup(30)
    first = await world.round()
    world.pass_ms(300_000)
    world.backup(60)
    summary = await world.round()
    assert summary.sealed == 1
    assert world.about("backup")[-1].body["severity"] == "critical"
    assert world.about("backup")[-1].body["since"] == first.at_ms


async def test_a_check_that_passes_again_closes_the_incident_as_the_persons_success(world: World) -> None:
    world.enrol()
    world.backup(30)
    await world.round()
    world.pass_ms(300_000)
    world.backup(1)
    summary = await world.round()
    assert len(summary.closed) == 1
    report = next(one for one in world.store.read(incidents.changed_since) if one.id == summary.closed[0])
    assert (report.resolution_level, report.outcome, report.resolution_time_ms) == ("L3", "success", 300_000)
    assert world.about("backup")[-1].body["status"] == "pass"
    assert world.about("backup")[-1].body["since"] == summary.at_ms


async def test_an_unknown_answer_closes_nothing(world: World) -> None:
    world.enrol()
    world.backup(30)
    await world.round()
    (world.root / "machine" / "var" / "backup.json").write_text("no json")
    summary = await world.round()
    assert summary.closed == ()
    assert world.about("backup")[-1].body["status"] == "unknown"
    assert "backup" in {one.check for one in world.store.read(incidents.open_rows)}


async def test_before_enrolment_nothing_is_sealed_but_incidents_are_kept(world: World) -> None:
    world.backup(30)
    summary = await world.round()
    assert (summary.sealed, summary.enrolled) == (0, False)
    assert world.store.read(queue.all_epochs) == []
    assert "backup" in {one.check for one in world.store.read(incidents.open_rows)}
    assert world.store.write_now(queue.running_since, 5) == summary.at_ms
    world.enrol()
    world.pass_ms(300_000)
    assert (await world.round()).sealed == len(summary.findings)


async def test_an_escalation_cut_short_is_made_up_for_by_the_next_round(world: World) -> None:
    world.enrol()
    world.backup(30)
    await world.round()
    world.store.write_now(lambda tx: tx.execute("UPDATE incidents SET escalated_at = NULL"))
    summary = await world.round()
    assert len(summary.escalated) == len(world.store.read(incidents.open_rows))


async def test_a_round_on_a_full_store_is_counted_and_made_up_for_by_the_next(world: World) -> None:
    world.enrol()
    world.backup(30)
    pages = world.store.read(lambda tx: tx.budget_pages)
    world.store.read(lambda tx: setattr(tx, "budget_pages", 1))
    full = await world.round()
    assert (full.sealed, full.escalated) == (0, ())
    assert full.refused == len(full.findings)
    world.store.read(lambda tx: setattr(tx, "budget_pages", pages))
    after = await world.round()
    assert after.escalated == full.opened
    assert after.refused == 0


async def test_a_stepped_wall_clock_is_put_on_record_once(world: World) -> None:
    world.enrol()
    world.backup(1)
    world.wall_ms += 20_000
    await world.round()
    await world.round()
    steps = [entry for entry in world.log() if entry.kind == "clock_step"]
    assert [(step.body["delta_ms"], step.clock) for step in steps] == [(20_000, Clock.STEPPED)]
    assert {entry.clock for entry in world.log() if entry.kind == "check_run"} == {Clock.UNSYNC}


async def test_a_round_seals_its_states_in_one_commit(world: World) -> None:
    world.enrol()
    world.backup(1)
    statements: list[str] = []
    world.store.read(lambda tx: tx.connection.set_trace_callback(statements.append))
    summary = await world.round()
    assert statements.count("COMMIT") == (2 if summary.escalated else 1)


def test_silence_of_a_day_is_broken_by_a_heartbeat(world: World) -> None:
    world.enrol()
    for hours, sealed in ((23.9, 0), (24, 1), (25, 0)):
        at_ms = 1_800_000_000_000 + round(hours * HOUR)
        stamp = (at_ms, Clock.SYNC)
        beat, gap = evidence.heartbeat(stamp, "0.1.0"), evidence.gap(stamp)
        assert world.store.write_now(patrol._note, [], patrol._Beside(beat, gap)).sealed == sealed
    assert world.log()[-1].kind == "heartbeat"


async def test_personal_data_in_a_plugins_answer_never_reaches_the_files(world: World) -> None:
    world.enrol()
    world.backup(1)
    world.plugin = "echo 'CRITICAL - record of patient MRN: 48151623 and SSN 078-05-1120 not saved'; exit 2"
    summary = await world.round()
    (finding,) = [one for one in summary.findings if one.check == "plugin_scripted"]
    assert finding.status is Status.FAIL
    kept = b"".join(path.read_bytes() for path in (world.root / "state").iterdir())
    assert b"not saved" in kept
    assert b"48151623" not in kept
    assert b"078-05-1120" not in kept


async def test_the_states_say_what_was_seen_last(world: World) -> None:
    world.enrol()
    world.backup(30)
    summary = await world.round()
    state = world.store.read(states.known)["clinic-1", "backup"]
    assert (state.status, state.since_ms, state.sealed_at_ms) == ("fail", summary.at_ms, summary.at_ms)
