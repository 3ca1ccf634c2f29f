import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccagent.commands import receipt
from ccagent.places import Places
from tests.agent.witness_app import APPLIANCE, Witness, running

PROGRAM = Path(sys.executable).parent / "cc-agent"


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


class Machine:
    """A machine with an agent installed: its settings and its state."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(folder / "state")
        self.config = folder / "config.toml"
        self.config.write_text(f'[agent]\nstate_dir = "{self.places.state_dir}"\n[checks]\ntime_limit_s = 1\n')
        self.started: list[subprocess.Popen[str]] = []

    def call(self, *args: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CC_ENROLL_CODE": code or ""}
        command = [str(PROGRAM), "--config", str(self.config), *args]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    def enroll(self, witness: Witness, *args: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.call("enroll", "--server-url", witness.url, *args, code=code or witness.new_code())

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.call("status", "--json").stdout)
        return told

    def start(self) -> subprocess.Popen[str]:
        command = [str(PROGRAM), "--config", str(self.config), "run"]
        agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.started.append(agent)
        until(self.places.socket.exists)
        return agent


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    for agent in machine.started:
        agent.kill()
        agent.communicate()


def stop(agent: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> tuple[float, str]:
    """Return how long the stop took (s), and what the agent logged."""
    started = time.monotonic()
    agent.send_signal(how)
    _, logged = agent.communicate(timeout=10)
    return time.monotonic() - started, logged


def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_enrolled_once_checks_and_delivers_until_all_is_receipted(machine: Machine, witness: Witness) -> None:
    enrolled = machine.enroll(witness)
    assert enrolled.returncode == 0
    assert APPLIANCE in enrolled.stdout
    done = machine.call("once")
    assert done.returncode == 0, done.stderr
    assert "backup" in done.stdout
    told = machine.status()
    assert told["waiting"] == 0
    assert told["receipted"] == sum(len(log.lines) for log in witness.logs.values()) > 6
    assert told["fingerprint"] in enrolled.stdout


def test_once_says_why_evidence_waits_and_delivers_it_later(machine: Machine, witness: Witness) -> None:
    machine.enroll(witness)
    witness.tricks["append"].append("503")
    waiting = machine.call("once")
    assert waiting.returncode == 3
    assert "503" in waiting.stderr
    told = machine.status()
    assert told["waiting"] > 6
    assert told["destination"]["retry_count"] == 1
    assert machine.call("once").returncode == 0
    assert machine.status()["waiting"] == 0


def test_once_before_enrolment_checks_and_says_what_is_missing(machine: Machine) -> None:
    done = machine.call("once")
    assert done.returncode == 3
    assert "cc-agent enroll" in done.stderr
    assert machine.status()["enrolled"] is False


def test_enrolled_by_root_the_helper_that_was_set_up_obeys_that_server(machine: Machine, witness: Witness) -> None:
    state = machine.places.state_dir.with_name("helper")
    with machine.config.open("a") as settings:
        settings.write(f'[helper]\nstate_dir = "{state}"\n')
    machine.enroll(witness)
    assert not state.exists()  # no helper was set up here
    state.mkdir(mode=0o700)
    assert "obeys this server" in machine.enroll(witness, "--replace").stdout
    assert json.loads((state / "pinned.json").read_text())["appliance"] == APPLIANCE
    assert APPLIANCE in machine.call("helper", "pin").stdout


def test_an_agent_that_runs_is_enrolled_delivers_and_answers(machine: Machine, witness: Witness) -> None:
    agent = machine.start()
    assert machine.status()["enrolled"] is False
    assert machine.enroll(witness).returncode == 0
    until(lambda: machine.status()["receipted"] > 6)
    told = machine.status()
    assert told["running"] is True
    assert told["appliance"] == APPLIANCE
    assert told["agent"]["last_checkin_at_ms"] is not None
    assert {check["check"] for check in told["checks"]} > {"backup", "firewall"}
    until(lambda: len(witness.incidents) == machine.status()["open_incidents"])
    took, logged = stop(agent)
    assert agent.returncode == 0
    assert took < 5
    assert "Traceback" not in logged


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_quick_and_leaves_no_socket_and_no_lock(machine: Machine, how: signal.Signals) -> None:
    agent = machine.start()
    took, logged = stop(agent, how)
    assert (agent.returncode, took < 5) == (0, True)
    assert not machine.places.socket.exists()
    assert "Traceback" not in logged
    assert machine.status()["running"] is False


def test_a_killed_agent_is_followed_by_one_that_answers(machine: Machine) -> None:
    machine.start().kill()
    machine.started[0].wait()
    assert machine.places.socket.exists()
    machine.start()
    until(lambda: machine.call("status", "--json").returncode == 0 and machine.status()["running"])


def test_a_second_agent_is_refused_in_one_sentence(machine: Machine) -> None:
    machine.start()
    until(lambda: machine.status()["running"])
    assert "another cc-agent" in one_sentence(machine.call("run"))
    assert "another cc-agent" in one_sentence(machine.call("once"))


def test_people_read_status_queue_and_incidents(machine: Machine, witness: Witness) -> None:
    machine.enroll(witness)
    machine.call("once")
    assert "receipted" in machine.call("status").stdout
    assert "open" in machine.call("queue").stdout
    assert machine.call("incidents").returncode == 0
    assert json.loads(machine.call("queue", "--json").stdout)["logs"][0]["waiting"] == 0
    assert "incidents" in json.loads(machine.call("incidents", "--json").stdout)
    assert json.loads(machine.call("queue", "--json").stdout)["room"]["budget_bytes"] > 0


def test_the_own_log_verifies_and_a_damaged_receipt_is_found(machine: Machine, witness: Witness) -> None:
    machine.enroll(witness)
    machine.call("once")
    whole = machine.call("verify")
    assert (whole.returncode, "whole" in whole.stdout) == (0, True)
    with contextlib.closing(sqlite3.connect(machine.places.database)) as database, database:
        database.execute("UPDATE receipts SET receipt = replace(receipt, 'e', 'E')")
    broken = machine.call("verify")
    assert broken.returncode == 1
    assert json.loads(machine.call("verify", "--json").stdout)["whole"] is False


def test_the_newest_receipt_is_printed_as_it_was_signed(machine: Machine, witness: Witness) -> None:
    machine.enroll(witness)
    assert machine.call("receipt").returncode == 1
    machine.call("once")
    printed = machine.call("receipt")
    assert (printed.returncode, printed.stdout.count("\n")) == (0, 6)
    assert json.loads(machine.call("receipt", "--json").stdout)["receipt"] == printed.stdout
    drawn = machine.call("receipt", "--qr")
    assert drawn.returncode == 0
    assert drawn.stdout.strip() == receipt.qr(printed.stdout).strip()
    assert set(drawn.stdout) >= {"█", "▀", "▄"}


def test_a_damaged_store_is_mended_when_the_agent_starts(machine: Machine, witness: Witness) -> None:
    machine.enroll(witness)
    machine.call("once")
    machine.places.database.write_bytes(b"no database" * 1000)
    assert "salvages" in one_sentence(machine.call("queue"))
    mended = machine.call("once")
    assert "goes to quarantine" in mended.stderr
    assert mended.returncode == 0
    assert [len(log.lines) > 1 for log in witness.logs.values()] == [True, True]
    assert [log["open"] for log in json.loads(machine.call("queue", "--json").stdout)["logs"]] == [False, True]


def test_status_before_anything_ran_says_what_to_do(machine: Machine) -> None:
    assert "cc-agent run" in one_sentence(machine.call("status"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["enroll", "--server-url", "http://cc.example"], "https"),
        (["enroll", "--server-url", "http://127.0.0.1:9"], "run the same command again"),
        (["enroll"], "--server-url"),
        (["enroll", "--server-url", "https://x", "--code-file", "/nowhere"], "/nowhere"),
        (["--state-dir", "/proc/nowhere", "once"], "/proc/nowhere"),
        (["--config", "/nowhere.toml", "status"], "/nowhere.toml"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_costs_one_sentence(machine: Machine, args: list[str], says: str) -> None:
    assert says in one_sentence(machine.call(*args, code=Witness().new_code()))


def test_a_code_comes_from_a_file_or_standard_input_and_never_shows(machine: Machine, witness: Witness) -> None:
    code = witness.new_code()
    file = machine.config.with_name("code")
    file.write_text(code + "\n")
    done = machine.call("enroll", "--server-url", witness.url, "--code-file", str(file))
    assert done.returncode == 0, done.stderr
    assert code.rpartition("/")[2] not in done.stdout + done.stderr
    assert "--replace" in one_sentence(machine.enroll(witness))


def test_asking_loads_nothing_heavy(machine: Machine) -> None:
    script = "import sys, ccagent.cli, ccagent.commands.status; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"httpx", "pydantic", "cryptography", "asyncio", "sqlite3", "orjson", "ssl"}
    assert heavy.isdisjoint(loaded.stdout.split())
