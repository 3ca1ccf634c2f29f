"""kill -9 of the agent at each step of an order and of a repair: neither runs twice, and neither vanishes.

Agent and helper are real processes on real files; the server is small and real on its socket.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ccagent import attempts, incidents, opening, order_book, queue
from ccagent.clock import ClockWatch
from ccagent.helper import pinning
from ccagent.helper.pinned import Pin
from ccagent.places import Places
from ccshared.messages import ServerKey
from ccshared.runbooks import Runbook
from tests.agent import root_helper
from tests.agent.directing import give_order, give_policy, order_of, policy_of, runbook
from tests.agent.root_helper import RootHelper
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Witness, running

CRASHING = Path(__file__).with_name("crashing_agent.py")
STALE = {"last_backup": "2020-01-01T00:00:00Z", "last_restore_test": "2020-01-01T00:00:00Z", "checksum": "ab" * 32}


def until(true: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


class Box:
    """An enrolled appliance: agent and helper as processes, a runbook that leaves a line and mends the backup."""

    def __init__(self, server: Witness, helper: RootHelper) -> None:
        self.server, self.helper = server, helper
        self.places = Places(helper.place / "agent")
        self.status = helper.place / "backup.json"
        self.status.write_text(json.dumps(STALE))
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.mended = helper.place / "mended.json"
        self.mended.write_text(json.dumps(STALE | {"last_backup": moment, "last_restore_test": moment}))
        keys = [ServerKey.model_validate(key) for key in server.server_keys()]
        pinning.pin(helper.state_dir, Pin(server=SERVER, site=SITE, appliance=APPLIANCE, keys=keys), replace=True)
        helper.start(
            f'[agent]\nstate_dir = "{self.places.state_dir}"\n[checks]\ntime_limit_s = 2\n'
            f'[checks.backup]\nstatus_file = "{self.status}"\n'
        )
        self.config = helper.place / "config.toml"
        self.agents: list[subprocess.Popen[bytes]] = []

    def book(self) -> Runbook:
        steps = f"echo ran >> {self.helper.ran}; sleep 1; cp {self.mended} {self.status}"
        return runbook("run-backup", "/bin/sh", "-c", steps)

    def call(self, *args: str) -> None:
        argv = [sys.executable, "-c", "from ccagent.cli import main; main()", "--config", str(self.config), *args]
        environment = os.environ | {"CC_ENROLL_CODE": self.server.new_code()}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def run(self, crash: str | None = None) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", "from ccagent.cli import main; main()"]
        if crash is not None:
            argv = [sys.executable, str(CRASHING), crash]
        with (self.helper.place / "agent.log").open("ab") as log:
            self.agents.append(subprocess.Popen([*argv, "--config", str(self.config), "run"], stdout=log, stderr=log))
        return self.agents[-1]

    def crash(self, place: str) -> None:
        agent = self.run(place)
        assert agent.wait(40) == -signal.SIGKILL, (self.helper.place / "agent.log").read_text()

    def stop(self) -> None:
        for agent in self.agents:
            if agent.poll() is None:
                agent.terminate()
                agent.wait(15)

    def stored(self, query: Callable[..., Any], *args: Any) -> Any:
        self.stop()
        store = opening.open_store(self.places, ClockWatch().stamp())
        try:
            return store.read(query, *args)
        finally:
            store.close()

    def proofs(self, kind: str) -> list[dict[str, Any]]:
        def lines(tx: Any) -> list[Any]:
            return [line for log in queue.all_epochs(tx) for line in queue.lines(tx, log.epoch, 0, 10_000, 10**9)]

        entries = [json.loads(line) for line in self.stored(lines) if isinstance(line, bytes)]
        return [
            one["body"] for one in entries if one["kind"] == kind and one["body"].get("check", "backup") == "backup"
        ]


@pytest.fixture
def box() -> Iterator[Box]:
    with running(Witness()) as server, root_helper.standing() as helper:
        made = Box(server, helper)
        made.call("enroll", "--server-url", server.url)
        yield made
        made.stop()


# Where the agent dies, and how the order stands in the end: run exactly once, or not at all and reported as failed.
PLACES = {
    "before:orders_in._acknowledge": ("succeeded", 1),
    "after:orders_in._acknowledge": ("succeeded", 1),
    "before:order_book.start": ("succeeded", 1),
    "before:orders_in._do": ("failed", 0),
    "before:hands.carry_out": ("failed", 0),
    "during:hands.carry_out": ("succeeded", 1),
    "after:hands.carry_out": ("succeeded", 1),
    "before:orders_in._finish": ("succeeded", 1),
    "after:orders_in._finish": ("succeeded", 1),
    "after:orders_in._end": ("succeeded", 1),
    "before:order_book.answer": ("succeeded", 1),
    "after:order_book.answer": ("succeeded", 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_order_never_runs_twice_and_never_vanishes(box: Box, place: str) -> None:
    status, times = PLACES[place]
    book = box.book()
    give_policy(box.server, policy_of(book, mode="observe"))
    box.call("once")
    order = give_order(box.server, order_of(book))
    box.crash(place)
    box.run()
    until(lambda: box.server.order_status.get(order) == status)
    time.sleep(0.5)
    assert box.helper.lines() == ["ran"] * times
    kept = box.stored(order_book.known, order)
    assert (kept.status, kept.result is not None) == (status, True)
    assert [proof["status"] for proof in box.proofs("order_result") if proof["order"] == order] == [status]


REPAIRS = {
    "before:attempts.begin": ("success", 1),
    "before:hands.carry_out": ("failed", 0),
    "during:hands.carry_out": ("success", 1),
    "before:repairing._end": ("success", 1),
    "before:repairing._settle": ("success", 1),
    "after:repairing._end": ("success", 1),
}


@pytest.mark.parametrize("place", REPAIRS)
def test_a_repair_cut_short_counts_as_a_try_and_is_not_run_again(box: Box, place: str) -> None:
    outcome, times = REPAIRS[place]
    give_policy(box.server, policy_of(box.book(), mode="observe"))
    box.call("once")
    give_policy(box.server, policy_of(box.book()))
    box.crash(place)
    box.run()
    until(lambda: counted(box) >= 1)
    time.sleep(0.5)
    assert box.helper.lines() == ["ran"] * times
    assert box.stored(attempts.unended) == []
    assert [proof["outcome"] for proof in box.proofs("remediation")] == [outcome]
    open_ = {one.check for one in box.stored(incidents.open_rows)}
    assert ("backup" in open_) == (outcome == "failed")


def counted(box: Box) -> int:
    """Return how many remediations the server has received."""
    lines = [line for log in box.server.logs.values() for line in log.lines if isinstance(line, bytes)]
    return sum(json.loads(line)["kind"] == "remediation" for line in lines)
