"""Orders at the root helper: what it verifies before a step runs, and that nothing runs twice."""

import base64
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccagent.helper import pinning
from ccagent.helper.pinned import Pin
from ccserver import keys
from ccshared import ed25519, envelope, orders, policy, runbooks
from ccshared.envelope import PayloadType
from tests.agent.root_helper import NOW_MS, RootHelper, compact, policy_of, runbook_of, standing


@pytest.fixture(scope="module")
def helper() -> Iterator[RootHelper]:
    with standing() as made:
        yield made.start()


@pytest.fixture(autouse=True)
def nothing_ran(helper: RootHelper) -> None:
    helper.ran.unlink(missing_ok=True)


def refused(helper: RootHelper, request: dict[str, Any]) -> str:
    answer = helper.ask(**request)
    assert answer["ok"] is False
    assert helper.lines() == []
    return str(answer["reason"])


def test_a_signed_order_runs_and_tells_of_each_step(helper: RootHelper) -> None:
    answer = helper.ask(**helper.order(runbook_of([("/bin/echo", "one"), ("/bin/echo", "two")])))
    assert (answer["ok"], answer["status"]) == (True, "succeeded")
    assert [(step["exit_code"], step["output"]) for step in answer["steps"]] == [(0, "one\n"), (0, "two\n")]


def test_the_same_order_again_is_answered_from_the_record(helper: RootHelper) -> None:
    request = helper.order(helper.mark())
    assert helper.ask(**request) == helper.ask(**request)
    assert helper.lines() == ["ran"]


def test_parameters_are_whole_arguments_and_never_seen_by_a_shell(helper: RootHelper) -> None:
    runbook = runbook_of([("/bin/echo", "{unit}")], parameters=[{"name": "unit", "kind": "word", "about": "a unit"}])
    answer = helper.ask(**helper.order(runbook, {"unit": "rsyslog.service"}))
    assert answer["steps"][0]["output"] == "rsyslog.service\n"
    for bad in ("a;id", "$(id)", "`id`", "a b", "../x", "/etc/shadow", "-rf", "a\nb", "", 5, "a|b", "x" * 129):
        assert "parameters are refused" in refused(helper, helper.order(runbook, {"unit": bad}))


def test_a_parameter_of_another_type_is_refused(helper: RootHelper) -> None:
    number = {"name": "count", "kind": "integer", "about": "how many", "least": 1, "most": 9}
    runbook = runbook_of([("/bin/echo", "{count}")], parameters=[number])
    assert "parameters are refused" in refused(helper, helper.order(runbook, {"count": "3"}))
    assert "parameters are refused" in refused(helper, helper.order(runbook, {"count": 10}))
    assert "parameters are refused" in refused(helper, helper.order(runbook, {"count": 3, "more": 1}))
    assert "parameters are refused" in refused(helper, helper.order(runbook, {}))


def test_an_order_by_another_key_or_for_another_purpose_is_refused(helper: RootHelper) -> None:
    request = helper.order(helper.mark())
    value = orders.make(orders.read(request["envelope"], [ed25519.public_key(helper.seed)]))
    forged = helper.sign(PayloadType.ORDER, value, ed25519.new_seed())
    assert "not signed" in refused(helper, request | {"envelope": forged})
    assert "another purpose" in refused(helper, request | {"envelope": helper.sign(PayloadType.POLICY, value)})


def test_an_order_for_another_appliance_or_site_is_refused(helper: RootHelper) -> None:
    assert "another appliance" in refused(helper, helper.order(helper.mark(), appliance="box-2"))
    assert "another appliance" in refused(helper, helper.order(helper.mark(), site="hospital"))


def test_an_order_that_has_expired_by_what_the_server_signed_is_refused() -> None:
    with standing() as helper:
        helper.start()
        late = helper.order(helper.mark())
        helper.ask(**helper.order(helper.mark(), issued_ms=NOW_MS + 3_600_000, expires_ms=NOW_MS + 9_000_000))
        helper.end()
        helper.start()  # the clock is on the disk
        assert helper.ask(**late) == {"ok": False, "reason": "expired"}
        assert helper.lines() == ["ran"]


def test_a_record_is_told_although_the_order_has_expired_since() -> None:
    with standing() as helper:
        helper.start()
        done = helper.order(helper.mark())
        answer = helper.ask(**done)
        helper.ask(**helper.order(helper.mark(), issued_ms=NOW_MS + 3_600_000, expires_ms=NOW_MS + 9_000_000))
        assert helper.ask(**done) == answer


def test_an_order_lives_for_31_days_at_most_and_expires_after_it_was_issued(helper: RootHelper) -> None:
    assert "31 days" in refused(helper, helper.order(helper.mark(), expires_ms=NOW_MS + orders.MAX_LIFE_MS + 1))
    assert "31 days" in refused(helper, helper.order(helper.mark(), expires_ms=NOW_MS))


def test_a_runbook_that_was_not_signed_is_refused(helper: RootHelper) -> None:
    request = helper.order(runbook_of([("/bin/true",)]))
    assert "not the one that was signed" in refused(helper, request | {"runbook": runbooks.to_dict(helper.mark())})
    assert "the runbook is none" in refused(helper, request | {"runbook": {"id": "unknown"}})


def test_a_runbook_for_people_or_for_another_platform_has_no_steps_here(helper: RootHelper) -> None:
    people = {"id": "p", "title": "P", "about": "P.", "families": [], "risk": "high", "disruptive": True}
    by_hand = runbooks.from_dict(people | {"people_only": True})
    assert "no steps" in refused(helper, helper.order(by_hand))
    done_by_agent = runbooks.from_dict(people | {"action": "run_checks_now"})
    assert "no steps" in refused(helper, helper.order(done_by_agent))


def test_a_policy_is_no_order(helper: RootHelper) -> None:
    signed = helper.sign(PayloadType.POLICY, policy.make(policy_of(helper.mark())))
    assert "another purpose" in refused(helper, helper.order(helper.mark()) | {"envelope": signed})


def test_each_byte_of_a_signed_order_counts(helper: RootHelper) -> None:
    chance = random.Random(7)
    request = helper.order(helper.mark())
    before = compact(request["envelope"])
    rest = b'{"ask":"order","runbook":' + compact(request["runbook"]) + b',"envelope":%s}\n'
    for place in range(len(before)):
        changed = bytearray(before)
        changed[place] ^= 1 << chance.randrange(7)
        answer = helper.send(rest % bytes(changed))
        assert answer["ok"] is False, (place, bytes(changed))
    assert helper.lines() == []
    assert helper.send(rest % before)["status"] == "succeeded"


def test_an_order_by_the_servers_own_key_file_runs(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys.json", "cc.example")
    known = keys.load(tmp_path / "keys.json")
    with standing() as helper:
        pin = Pin(server="cc.example", site="clinic", appliance="box-1", keys=known.public)
        pinning.pin(helper.state_dir, pin, replace=True)
        request = helper.order(helper.mark())
        value = orders.make(orders.read(request["envelope"], [ed25519.public_key(helper.seed)]))
        helper.start()
        signed = known.envelope(PayloadType.ORDER, value)
        assert helper.ask(**request | {"envelope": signed})["status"] == "succeeded"


def test_a_truncated_or_reencoded_order_is_refused(helper: RootHelper) -> None:
    request = helper.order(helper.mark())
    signed = request["envelope"]
    payload = base64.b64decode(signed["payload"])
    spaced = json.dumps(json.loads(payload), indent=1).encode()
    for other in (payload[:-1], payload + b" ", spaced):
        again = signed | {"payload": base64.b64encode(other).decode()}
        assert "not signed" in refused(helper, request | {"envelope": again})
    resigned = envelope.Envelope(signed["payloadType"], spaced, b"", signed["signatures"][0]["keyid"])
    data = b"DSSEv1 %d %b %d %b" % (len(resigned.payload_type), resigned.payload_type.encode(), len(spaced), spaced)
    by_us = replace(resigned, signature=ed25519.sign(helper.seed, data)).to_json()
    assert "canonical" in refused(helper, request | {"envelope": by_us})


def test_an_envelope_with_members_that_the_signature_does_not_reach_is_refused(helper: RootHelper) -> None:
    request = helper.order(helper.mark())
    signed = request["envelope"]
    (by,) = signed["signatures"]
    for other in (signed | {"more": 1}, signed | {"signatures": [by | {"x": ""}]}, signed | {"signatures": [by, by]}):
        assert "not signed" in refused(helper, request | {"envelope": other})


def test_a_precondition_that_does_not_hold_ends_it_before_the_first_step(helper: RootHelper) -> None:
    answer = helper.ask(**helper.order(helper.mark(preconditions=[("/bin/false",)])))
    assert (answer["status"], answer["reason"]) == ("failed", "a precondition does not hold")
    assert helper.lines() == []


def test_a_failed_step_ends_it_and_is_rolled_back(helper: RootHelper) -> None:
    undo = ("/bin/sh", "-c", f"echo undone >> {helper.ran}")
    steps = [("/bin/sh", "-c", "echo broken >&2; exit 3"), ("/bin/sh", "-c", f"echo never >> {helper.ran}")]
    answer = helper.ask(**helper.order(runbook_of(steps, rollback=[undo])))
    assert (answer["status"], answer["reason"]) == ("failed", "a step failed, and was rolled back")
    assert answer["steps"][0] == {"about": "step 0", "exit_code": 3, "output": "broken\n", "ending": "ended"}
    assert helper.lines() == ["undone"]


def test_a_program_that_is_not_there_is_a_failed_step(helper: RootHelper) -> None:
    answer = helper.ask(**helper.order(runbook_of([("/nowhere/at/all",)])))
    assert (answer["status"], answer["steps"][0]["ending"]) == ("failed", "unstarted")


def test_a_step_has_a_clean_environment_and_nothing_of_ours_open(helper: RootHelper) -> None:
    look = "/usr/bin/env | cut -d= -f1; pwd; ls /proc/self/fd; ps -o sid= -p $$ | tr -d ' '; echo $$"
    said = helper.ask(**helper.order(helper.script(look)))["steps"][0]["output"].split()
    names = said[: said.index("/")]
    assert set(names) <= {"PATH", "HOME", "LC_ALL", "LANG", "DEBIAN_FRONTEND", "PWD", "_", "SHLVL", "OLDPWD"}
    assert said[said.index("/") + 1 : -2] == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert said[-2] == said[-1]  # it leads a session of its own


def test_a_step_is_killed_at_its_limit_with_grandchildren_that_hid(helper: RootHelper) -> None:
    hidden = "setsid setsid sh -c 'trap \"\" TERM; sleep 1005 & sleep 1006' >/dev/null 2>&1 & sleep 1007"
    began = time.monotonic()
    answer = helper.ask(**helper.order(runbook_of([("/bin/sh", "-c", hidden)], time_limit_s=1)))
    assert answer["reason"] == "the time of a step was up"
    assert time.monotonic() - began < 30
    assert sleepers("1005", "1006", "1007") == []


def test_what_a_failed_step_leaves_running_is_killed_and_what_a_good_one_leaves_stays(helper: RootHelper) -> None:
    helper.ask(**helper.order(helper.script("setsid sleep 1008 >/dev/null 2>&1 & exit 1")))
    helper.ask(**helper.order(helper.script("setsid sleep 9 >/dev/null 2>&1 & exit 0")))
    assert sleepers("1008") == []
    assert sleepers("9") == ["9"]


def test_a_flood_of_output_is_bounded(helper: RootHelper) -> None:
    flood = "yes 0123456789 | head -c 30000000; echo end"
    answer = helper.ask(**helper.order(helper.script(flood)))
    output = answer["steps"][0]["output"]
    assert answer["status"] == "succeeded"
    assert len(output) < 66_000
    assert output.endswith("end\n")


def test_a_whole_run_keeps_no_more_than_256_kib(helper: RootHelper) -> None:
    step = ("/bin/sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x")
    answer = helper.ask(**helper.order(runbook_of([step] * 12)))
    assert answer["status"] == "succeeded"
    assert sum(len(step["output"]) for step in answer["steps"]) < 256 * 1024 + 12 * 40


def test_output_is_printable_text(helper: RootHelper) -> None:
    answer = helper.ask(**helper.order(helper.script(r"printf '\033[31mred\000\377\n'")))
    assert answer["steps"][0]["output"] == "�[31mred��\n"


def test_one_order_runs_at_a_time_and_reads_go_on(helper: RootHelper) -> None:
    slow = helper.order(helper.script(f"echo began >> {helper.ran}; sleep 3"))
    with helper.connect() as line:
        line.sendall(compact(slow) + b"\n")
        until_ran(helper)
        assert "ask again" in str(helper.ask(**helper.order(helper.mark())))
        assert helper.ask(**slow)["status"] == "running"
        assert helper.ask(ask="read", what="lsblk")["ok"] is True
    time.sleep(0.1)
    assert outcome_when_over(helper, slow)["status"] == "succeeded"  # though nobody waited for the answer


def outcome_when_over(helper: RootHelper, request: dict[str, Any]) -> dict[str, Any]:
    order = orders.read(request["envelope"], [ed25519.public_key(helper.seed)])
    until = time.monotonic() + 20
    while (told := helper.ask(ask="outcome", id=order.id))["status"] == "running":
        assert time.monotonic() < until
        time.sleep(0.05)
    return told


def until_ran(helper: RootHelper) -> None:
    until = time.monotonic() + 10
    while not helper.lines():
        assert time.monotonic() < until
        time.sleep(0.01)


def sleepers(*seconds: str) -> list[str]:
    """Return for which of these times a process sleeps on this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:1] == [b"sleep"] and words[1].decode() in seconds:
            found.append(words[1].decode())
    return found
