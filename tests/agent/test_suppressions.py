"""What people see of healing: `cc-agent suppressions`, `status`, `incidents` and the metrics, from a real agent."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccagent import alarms, attempts, opening
from ccagent.alarms import Alarm
from ccagent.attempts import Attempt, Moment
from ccagent.clock import Boot, ClockWatch
from ccshared.vocabulary import Outcome
from tests.agent.test_cli import Machine, stop

KEY = ("box", "backup", "run-backup")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose backup was repaired three times in a row, so that a person must look."""
    made = Machine(tmp_path)
    now = Moment(1_800_000_000_000, Boot("boot", 1), 1)
    with contextlib.closing(opening.open_store(made.places, ClockWatch().stamp())) as store:
        for number in range(3):
            attempt = Attempt(f"r-{number}", "i", KEY, "L1", "rule", "why", {}, {})
            store.write_now(attempts.begin, attempt, now)
            store.write_now(attempts.end, f"r-{number}", Outcome.SUCCESS, "it passes", 1)
        store.write_now(attempts.suppress_if_flapping, KEY, now)
        store.write_now(alarms.sound, Alarm(alarms.SUPPRESSED, "run-backup does not last", 1), None)
    yield made
    for agent in made.started:
        agent.kill()
        agent.communicate()


def test_they_are_listed_with_and_without_a_running_agent_and_survive_its_restarts(machine: Machine) -> None:
    for _ in range(2):
        assert "run-backup" in machine.call("suppressions", "list").stdout
        assert "suppressed" in machine.call("status").stdout
        agent = machine.start()
        assert "did not last" in machine.call("suppressions", "list").stdout
        stop(agent)


def test_a_person_clears_them_and_the_alarm_goes(machine: Machine) -> None:
    agent = machine.start()
    assert machine.status()["alarms"][0]["name"] == "healing_suppressed"
    assert machine.call("suppressions", "clear", "backup").stdout == "1 cleared\n"
    assert machine.call("suppressions", "list").stdout == "nothing is suppressed\n"
    assert machine.status()["alarms"] == []
    assert machine.call("suppressions", "clear", "backup").stdout == "0 cleared\n"
    stop(agent)


def test_clearing_needs_a_running_agent(machine: Machine) -> None:
    done = machine.call("suppressions", "clear", "backup")
    assert done.returncode != 0
    assert "start it" in done.stderr


def test_status_and_metrics_say_how_healing_stands(machine: Machine) -> None:
    told = machine.status()["healing"]
    assert (told["mode"], told["tries"], len(told["suppressions"])) == ("observe", {"made": 3, "succeeded": 3}, 1)
    metrics = machine.call("metrics").stdout
    assert "ccagent_suppressions 1" in metrics
    assert "ccagent_heals 0.0" in metrics
