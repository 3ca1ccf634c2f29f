"""Repairs on a real store with the real backup check, on clocks that a test moves; what stands for the root helper
writes the status file that the check reads, or does not.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ccagent import alarms, attempts, evidence, incidents, patrol, policy, queue, repairing, scrubbing
from ccagent.clock import Clocks, ClockWatch
from ccagent.config import BackupSettings, ChecksSettings, Config
from ccagent.evidence import Beginning
from ccagent.healing import Healer
from ccagent.helper_client import HelperAbsentError, HelperRefusedError
from ccagent.host import Host
from ccagent.incidents import Incident
from ccagent.patrol import Patrol
from ccagent.places import Places
from ccagent.policy import InForce
from ccagent.queue import Epoch
from ccagent.resolvers.level2 import Planners
from ccagent.store import Store
from ccshared.messages import PlanAnswer, PlanRequest
from ccshared.policy import Policy, Window
from tests.agent.directing import policy_of, rule, runbook, sign_policy
from tests.agent.witness_app import Witness

EPOCH = Epoch("1-0a0b0c0d", "cc.example/log/appliance-1/1-0a0b0c0d", "ab" * 32, 1_000)
MINUTE, HOUR = 60_000, 3_600_000


class Clinic:
    """A machine with a backup that goes stale, an agent that heals, and hands that do as `mends` says."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.store, self.server = root, store, Witness()
        self.wall_ms, self.boot_s = 1_800_000_000_000, 500.0
        (root / "machine" / "var").mkdir(parents=True, exist_ok=True)
        self.watch = ClockWatch(Clocks(lambda: self.wall_ms, lambda: self.boot_s, lambda: True, lambda: "boot-1"))
        self.asked: list[dict[str, Any]] = []
        self.mends: Callable[[], None] = lambda: self.backup(1)
        self.there = True
        status = BackupSettings(status_file=Path("/var/backup.json"))
        self.healer = Healer(
            store=store,
            watch=self.watch,
            scrub_key=scrubbing.load_key(root / "scrub.key"),
            config=Config(checks=ChecksSettings(backup=status)),
            ask=self.ask,
            host=lambda: Host("clinic-1", root / "machine", path=os.environ["PATH"], privileged=False),
        )

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self.there:
            raise HelperAbsentError("nobody")
        if request["ask"] == "outcome":
            raise HelperRefusedError("nothing of this id was begun")
        self.asked.append(request)
        self.mends()
        step = {"about": "the step", "exit_code": 0, "output": "record of patient MRN: 48151623"}
        return {"ok": True, "status": "succeeded", "reason": "", "steps": [step]}

    def enrol(self) -> None:
        began = Beginning("enrolment", EPOCH.public_key, None, 1_000, "0.1.0")
        self.store.write_now(queue.open_epoch, EPOCH, evidence.genesis(self.watch.stamp(), began))

    def follow(self, made: Policy) -> None:
        self.healer.in_force = InForce(made, sign_policy(self.server, made))

    def backup(self, age_hours: float) -> None:
        now = datetime.fromtimestamp(self.wall_ms / 1000, UTC)
        said = {"last_backup": (now - timedelta(hours=age_hours)).isoformat(), "last_restore_test": now.isoformat()}
        (self.root / "machine" / "var" / "backup.json").write_text(json.dumps(said | {"checksum": "ab" * 32}))

    def pass_ms(self, span_ms: int) -> None:
        self.wall_ms += span_ms
        self.boot_s += span_ms / 1000

    async def round(self) -> patrol.Summary:
        """Patrol once, then repair what is due."""
        key, site = self.healer.scrub_key, "site-1"
        summary = await patrol.round(
            Patrol(
                self.store, self.watch, self.healer.host(), self.healer.config.checks, key, "0.1.0", site, self.healer
            )
        )
        await repairing.work_off(self.healer)
        return summary

    def open(self) -> Incident | None:
        return next((one for one in self.store.read(incidents.open_rows) if one.check == "backup"), None)

    def sealed(self, kind: str) -> list[dict[str, Any]]:
        lines = self.store.read(queue.lines, EPOCH.epoch, 0, 10_000, 10**9)
        entries = [json.loads(line) for line in lines if isinstance(line, bytes)]
        return [
            one["body"] for one in entries if one["kind"] == kind and one["body"].get("check", "backup") == "backup"
        ]

    def settled(self) -> list[tuple[str | None, str | None, str]]:
        """Return level, action and outcome of the backup's incidents that are over."""
        reports = self.store.read(incidents.changed_since)
        return [
            (one.resolution_level, one.resolution_action, str(one.outcome))
            for one in reports
            if one.incident_type == "backup_stale" and one.resolved_at_ms is not None
        ]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with contextlib.closing(Store.open(Places(tmp_path / "state"))) as store:
        made = Clinic(tmp_path, store)
        made.enrol()
        made.backup(30)
        yield made


async def test_a_rule_repairs_what_the_check_then_finds_in_order(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    await clinic.round()
    assert clinic.open() is None
    assert clinic.settled() == [("L1", "run-backup", "success")]
    (asked,) = clinic.asked
    assert (asked["ask"], asked["runbook"], asked["rule"], asked["host"]) == (
        "repair", "run-backup", "stale-backup", "clinic-1",
    )  # fmt: skip
    assert clinic.sealed("escalation") == []


async def test_every_try_is_proved_with_the_state_before_and_after(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    clinic.mends = lambda: None
    await clinic.round()
    clinic.mends = lambda: clinic.backup(1)
    clinic.pass_ms(11 * MINUTE)
    await clinic.round()
    failed, succeeded = clinic.sealed("remediation")
    assert (failed["outcome"], failed["pre"]["status"], failed["post"]["status"]) == ("failed", "fail", "fail")
    assert (succeeded["outcome"], succeeded["post"]["status"], succeeded["level"]) == ("success", "pass", "L1")
    assert (failed["rule"], failed["action"], len(failed["digest"])) == ("stale-backup", "run-backup", 64)
    assert "48151623" not in json.dumps([failed, succeeded])


async def test_steps_that_say_they_worked_are_not_believed_but_the_check(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    clinic.mends = lambda: None
    await clinic.round()
    incident = clinic.open()
    assert incident is not None
    assert incident.escalated_at_ms is None
    assert clinic.sealed("escalation") == []
    assert [one["outcome"] for one in clinic.store.read(attempts.of_incident, incident.id)] == ["failed"]


async def test_a_repair_that_never_helps_is_tried_three_times_in_a_day_and_then_a_person_is_asked(
    clinic: Clinic,
) -> None:
    clinic.follow(policy_of())
    clinic.mends = lambda: None
    for _ in range(24 * 12):
        await clinic.round()
        clinic.pass_ms(5 * MINUTE)
    assert len(clinic.asked) == 3
    (asked,) = clinic.sealed("escalation")
    assert [one["outcome"] for one in asked["attempts"]] == ["failed"] * 3
    assert "3 times" in asked["why"]
    assert len(clinic.sealed("remediation")) == 3


async def test_the_pause_grows_with_each_failure(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    clinic.mends = lambda: None
    tries = []
    for minute in range(60):
        before = len(clinic.asked)
        await clinic.round()
        tries += [minute] * (len(clinic.asked) - before)
        clinic.pass_ms(MINUTE)
    assert tries[0] == 0
    assert 10 <= tries[1] <= 12
    assert 20 <= tries[2] - tries[1] <= 22


async def test_repairs_that_do_not_last_are_suppressed_until_a_person_clears_them(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    for _ in range(5):
        clinic.backup(30)
        await clinic.round()
        clinic.pass_ms(20 * MINUTE)
        await clinic.round()
    assert len(clinic.asked) == 3
    assert [one.runbook for one in clinic.store.read(attempts.suppressions)] == ["run-backup"]
    assert alarms.SUPPRESSED in {one.name for one in clinic.store.read(alarms.standing, clinic.wall_ms)}
    clinic.pass_ms(48 * HOUR)
    clinic.backup(30)
    await clinic.round()
    assert len(clinic.asked) == 3
    assert clinic.sealed("escalation")[-1]["why"].endswith("is suppressed")
    clinic.store.write_now(attempts.clear, "backup")
    await clinic.round()
    assert len(clinic.asked) == 4
    assert clinic.open() is None


async def test_observing_says_once_what_would_have_been_done_and_does_nothing(clinic: Clinic) -> None:
    clinic.follow(policy_of(mode="observe"))
    for _ in range(5):
        await clinic.round()
        clinic.pass_ms(10 * MINUTE)
    assert clinic.asked == []
    (asked,) = clinic.sealed("escalation")
    assert (asked["mode"], asked["would"]["runbook"], asked["would"]["rule"]) == (
        "observe", "run-backup", "stale-backup",
    )  # fmt: skip
    told = next(one for one in clinic.store.read(incidents.changed_since) if one.incident_type == "backup_stale")
    assert told.raw_data["healing"]["would"]["runbook"] == "run-backup"


async def test_without_any_policy_the_built_in_rules_say_what_they_would(clinic: Clinic) -> None:
    await clinic.round()
    assert clinic.asked == []
    (asked,) = clinic.sealed("escalation")
    assert (asked["mode"], asked["would"]["runbook"]) == ("observe", "run-backup")


async def test_what_the_mode_held_back_is_repaired_once_it_heals(clinic: Clinic) -> None:
    clinic.follow(policy_of(mode="observe"))
    await clinic.round()
    clinic.follow(policy_of())
    await clinic.round()
    assert clinic.settled() == [("L1", "run-backup", "success")]


async def test_a_stop_that_comes_between_deciding_and_doing_holds(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    stopped = policy_of(mode="stop")
    key, site = clinic.healer.scrub_key, "site-1"
    await patrol.round(
        Patrol(
            clinic.store, clinic.watch, clinic.healer.host(), clinic.healer.config.checks, key, "1", site, clinic.healer
        )
    )
    assert len(clinic.healer.due) == 1
    clinic.follow(stopped)
    assert await repairing.work_off(clinic.healer) == 0
    await clinic.round()
    assert clinic.asked == []
    assert clinic.sealed("escalation")[0]["mode"] == "stop"


async def test_a_stop_that_comes_while_the_helper_is_looked_for_costs_no_try(clinic: Clinic) -> None:
    clinic.follow(policy_of(mode="observe"))
    await clinic.round()
    clinic.follow(policy_of())
    ask, asked = clinic.healer.ask, []

    async def stopping(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["ask"])
        clinic.follow(policy_of(mode="stop"))
        return await ask(request)

    clinic.healer.ask = stopping
    await clinic.round()
    assert (asked, clinic.store.read(attempts.counts)["made"]) == (["outcome"], 0)


async def test_what_disrupts_waits_for_the_window(clinic: Clinic) -> None:
    book = runbook(disruptive=True)
    start_minute = clinic.wall_ms // MINUTE % 1440
    window = Window((0, 1, 2, 3, 4, 5, 6), (start_minute + 60) % 1440, 60)
    clinic.watch.heard_server(clinic.wall_ms)
    clinic.follow(policy_of(book, window=window))
    await clinic.round()
    assert clinic.asked == []
    assert clinic.sealed("escalation") == []
    clinic.pass_ms(61 * MINUTE)
    await clinic.round()
    assert len(clinic.asked) == 1


async def test_no_window_means_that_what_disrupts_waits(clinic: Clinic) -> None:
    clinic.follow(policy_of(runbook(disruptive=True), window=None))
    await clinic.round()
    assert clinic.asked == []


async def test_without_a_helper_nothing_is_begun_and_a_person_is_asked_once(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    clinic.there = False
    for _ in range(3):
        await clinic.round()
        clinic.pass_ms(5 * MINUTE)
    (asked,) = clinic.sealed("escalation")
    assert asked["why"] == repairing.NO_HELPER
    assert clinic.store.read(attempts.counts) == {"made": 0, "succeeded": 0}
    clinic.there = True
    await clinic.round()
    assert clinic.settled() == [("L1", "run-backup", "success")]


async def test_an_unfit_rule_asks_a_person_and_says_why(clinic: Clinic) -> None:
    clinic.follow(policy_of(rules=(rule(parameters={"path": "x"}),)))
    await clinic.round()
    assert clinic.asked == []
    assert "does not take these parameters" in clinic.sealed("escalation")[0]["why"]


@pytest.mark.parametrize(
    "answer",
    [
        PlanAnswer(runbook="format-disk"),
        PlanAnswer(runbook="run-backup", parameters={"x": 1}),
        PlanAnswer(runbook="run-backup", parameters={"x": 1.5}),
        PlanAnswer(runbook="run-backup", parameters={"X Y": {"deep": [[[]]]}}),
        PlanAnswer(runbook="run-backup", parameters={"x": "a\ud800"}, why="\ud800"),
        PlanAnswer(runbook=";rm -rf /"),
        PlanAnswer(runbook=None),
        None,
    ],
)
async def test_a_planner_that_answers_nonsense_or_nothing_leads_to_a_person(
    clinic: Clinic, answer: PlanAnswer | None
) -> None:
    clinic.follow(policy_of(rules=()))

    async def server(_: PlanRequest) -> PlanAnswer | None:
        return answer

    clinic.healer.planners = Planners(server)
    await clinic.round()
    assert clinic.asked == []
    assert len(clinic.sealed("escalation")) == 1


async def test_the_planners_repair_is_counted_for_it_with_its_failures(clinic: Clinic) -> None:
    clinic.follow(policy_of(rules=()))

    async def server(_: PlanRequest) -> PlanAnswer | None:
        return PlanAnswer(runbook="run-backup", why="it helped before")

    clinic.healer.planners = Planners(server)
    clinic.mends = lambda: None
    await clinic.round()
    incident = clinic.open()
    assert incident is not None
    clinic.mends = lambda: clinic.backup(1)
    clinic.pass_ms(11 * MINUTE)
    await clinic.round()
    assert clinic.settled() == [("L2", "run-backup", "success")]
    before = clinic.store.read(incidents.planned_before, incident.pattern_signature)
    assert before == [("run-backup", 2, 1)]


async def test_offline_the_planner_goes_by_what_helped_here(clinic: Clinic) -> None:
    clinic.follow(policy_of(rules=()))
    await clinic.round()
    incident = clinic.open()
    assert incident is not None
    clinic.backup(1)
    await clinic.round()
    clinic.store.write_now(
        lambda tx: incidents.count_order(tx, incident.pattern_signature, "run-backup", succeeded=True)
    )
    clinic.backup(30)
    await clinic.round()
    assert len(clinic.asked) == 1
    assert clinic.open() is None


async def test_a_try_that_a_crash_cut_short_is_ended_as_failed_and_not_run_again(clinic: Clinic) -> None:
    clinic.follow(policy_of())

    class CrashError(BaseException):
        pass

    def crash() -> None:
        raise CrashError

    clinic.mends = crash
    with pytest.raises(CrashError):
        await clinic.round()
    assert len(clinic.store.read(attempts.unended)) == 1
    clinic.mends = lambda: clinic.backup(1)
    await repairing.recover(clinic.healer)
    assert clinic.store.read(attempts.unended) == []
    (proof,) = clinic.sealed("remediation")
    assert proof["outcome"] == "failed"
    assert len(clinic.asked) == 1
    await clinic.round()
    assert len(clinic.asked) == 1  # it counts as a try: the pause is kept


async def test_what_a_patrol_saw_while_a_repair_ran_opens_and_closes_nothing(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    seen: list[patrol.Summary] = []
    found = await patrol.round(
        Patrol(clinic.store, clinic.watch, clinic.healer.host(), clinic.healer.config.checks, b"k" * 32, "1")
    )
    assert found.opened
    since = clinic.store.read(attempts.floor)
    stale = await patrol.checks.run_all(
        clinic.healer.host(), clinic.healer.config.checks, datetime.fromtimestamp(clinic.wall_ms / 1000, UTC)
    )
    clinic.store.write_now(lambda tx: tx.execute("UPDATE incidents SET held_by = 'mode'"))
    await clinic.round()
    assert clinic.open() is None
    summary = await patrol.take(
        Patrol(clinic.store, clinic.watch, clinic.healer.host(), clinic.healer.config.checks, b"k" * 32, "1"),
        stale,
        since,
    )
    seen.append(summary)
    assert clinic.open() is None


async def test_a_repair_is_not_begun_where_its_proof_would_find_no_room(clinic: Clinic) -> None:
    clinic.follow(policy_of())
    clinic.store.read(lambda tx: setattr(tx, "budget_pages", 1))
    await clinic.round()
    assert clinic.asked == []
    assert clinic.store.read(attempts.counts)["made"] == 0


def test_the_mode_is_what_the_policy_says(clinic: Clinic) -> None:
    for word in ("stop", "observe", "heal"):
        clinic.follow(policy_of(mode=word))
        assert clinic.healer.mode == word == policy.mode(clinic.healer.in_force)
