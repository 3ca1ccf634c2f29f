"""The crash matrix of the root helper: killed anywhere while it answers an order, that order never runs twice."""

import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ccshared import ed25519, orders
from tests.agent.root_helper import RootHelper, compact, standing
from tests.agent.test_helper_orders import sleepers, until_ran

CRASHING = ("-m", "tests.agent.crashing_helper")
STRIDE = 7  # of some hundred lines


@pytest.fixture
def helper() -> Iterator[RootHelper]:
    with standing() as made:
        yield made


def settled(helper: RootHelper, request: dict[str, Any]) -> dict[str, Any]:
    """Send an order again after a crash, once and once more, and ask for its outcome: all say the same."""
    answer = again(helper, request)
    assert again(helper, request) == answer
    order = orders.read(request["envelope"], [ed25519.public_key(helper.seed)])
    assert helper.ask(ask="outcome", id=order.id) == answer
    return answer


def again(helper: RootHelper, request: dict[str, Any]) -> dict[str, Any]:
    """Send it until nothing of the crash is running any more."""
    until = time.monotonic() + 15
    while (answer := helper.ask(**request)).get("status") == "running" or "ask again" in answer.get("reason", ""):
        assert time.monotonic() < until
        time.sleep(0.02)
    return answer


def check(helper: RootHelper, answer: dict[str, Any]) -> str:
    """What is told is what was done: never twice, and nothing that was done is told as not done."""
    lines = helper.lines()
    helper.ran.unlink(missing_ok=True)
    assert len(lines) <= 1
    assert answer["status"] in ("succeeded", "interrupted")
    if answer["status"] == "succeeded":
        assert lines == ["ran"]
    return str(answer["status"])


def test_killed_at_any_line_of_its_answer_it_runs_an_order_once_at_most(helper: RootHelper) -> None:
    helper.start(launcher=CRASHING)
    kill, seen = helper.place / "kill", set()
    for line in range(1, 10_000, STRIDE):
        request = helper.order(helper.mark())
        kill.write_text(f"{line} one")
        unharmed = helper.ask(**request)
        kill.unlink()
        seen.add(check(helper, settled(helper, request)))
        if unharmed:
            break
    assert line > 300
    assert seen == {"succeeded", "interrupted"}


def test_killed_with_its_parent_it_knows_after_the_restart_what_was_begun(helper: RootHelper) -> None:
    kill, seen = helper.place / "kill", set()
    for line in range(40, 10_000, 97):
        helper.start(launcher=CRASHING)
        request = helper.order(helper.mark())
        kill.write_text(f"{line} all")
        unharmed = helper.ask(**request)
        kill.unlink()
        if unharmed:
            break
        assert helper.process is not None
        assert helper.process.wait(10) == -signal.SIGKILL
        helper.start()
        seen.add(check(helper, settled(helper, request)))
        helper.end()
    assert seen == {"succeeded", "interrupted"}


def test_killed_before_the_journal_is_written_an_order_can_still_run(helper: RootHelper) -> None:
    helper.start()
    request = helper.order(helper.mark())
    db = sqlite3.connect(helper.state_dir / "journal.db", isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with helper.connect() as line:
        line.sendall(compact(request) + b"\n")
        time.sleep(0.3)
        helper.end(signal.SIGKILL)
    db.close()
    helper.start()
    assert settled(helper, request)["status"] == "succeeded"
    assert helper.lines() == ["ran"]


def test_killed_during_a_step_an_order_is_interrupted_and_its_step_ends(helper: RootHelper) -> None:
    helper.start()
    request = helper.order(helper.script(f"echo ran >> {helper.ran}; setsid sleep 1011 & sleep 1012"))
    with helper.connect() as line:
        line.sendall(compact(request) + b"\n")
        until_ran(helper)
        helper.end(signal.SIGKILL)
        helper.start()
        assert settled(helper, request)["status"] == "interrupted"
    assert (helper.lines(), sleepers("1011", "1012")) == (["ran"], [])


def test_killed_before_its_answer_arrives_the_outcome_is_on_record(helper: RootHelper) -> None:
    helper.start()
    request = helper.order(helper.script(f"echo ran >> {helper.ran}; head -c 60000 /dev/zero | tr '\\0' x", title="T"))
    with helper.connect() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        line.sendall(compact(request) + b"\n")
        until_ran(helper)
        assert again(helper, request)["status"] == "succeeded"
        helper.end(signal.SIGKILL)
    helper.start()
    assert settled(helper, request)["status"] == "succeeded"
    assert helper.lines() == ["ran"]


def test_told_to_stop_it_ends_the_step_and_records_that(helper: RootHelper) -> None:
    helper.start()
    request = helper.order(helper.script(f"echo ran >> {helper.ran}; sleep 1013", rollback=[("/bin/rm", "/nowhere")]))
    with helper.connect() as line:
        line.sendall(compact(request) + b"\n")
        until_ran(helper)
        assert helper.end() == 0
        assert b'"status":"interrupted"' in line.recv(65536)
    assert sleepers("1013") == []
    assert not helper.socket.exists()
    helper.start()
    assert settled(helper, request)["reason"].startswith("the helper was stopped")


def test_a_signal_to_helper_and_step_at_once_is_a_stop_and_no_failure(helper: RootHelper) -> None:
    helper.start()
    undo = ("/bin/sh", "-c", f"echo undone >> {helper.ran}")
    request = helper.order(helper.script(f"echo $$ >> {helper.ran}; exec sleep 1014", rollback=[undo]))
    with helper.connect() as line:
        line.sendall(compact(request) + b"\n")
        until_ran(helper)
        os.kill(int(helper.lines()[0]), signal.SIGTERM)
        assert helper.end() == 0
        assert b'"status":"interrupted"' in line.recv(65536)
    assert len(helper.lines()) == 1


def test_a_journal_that_is_gone_or_spoilt_runs_nothing(helper: RootHelper) -> None:
    helper.start()
    request = helper.order(helper.mark())
    (helper.state_dir / "journal.db").write_bytes(b"no database at all, and long enough to be looked at" * 100)
    assert "nothing runs" in helper.ask(**request)["reason"]
    (helper.state_dir / "journal.db").unlink()
    assert "nothing runs" in helper.ask(**request)["reason"]
    assert helper.lines() == []
