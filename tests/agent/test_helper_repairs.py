"""Repairs at the root helper: what a signed policy allows, within a bound that neither restart nor clock loosens."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ccagent.helper import journal, owned
from ccagent.helper.journal import Boot, Kept, Run, TooOftenError, advanced
from ccagent.helper.pinned import Pin, load
from ccagent.helper.pinning import NotPinnedError, pin
from ccagent.helper.platforms import platform
from ccshared import ed25519, policy, purposes
from ccshared.envelope import PayloadType
from ccshared.messages import ServerKey
from ccshared.rules import Condition, Rule
from tests.agent.root_helper import KEY_NAME, NOW_MS, RootHelper, compact, policy_of, runbook_of, standing

MIN_MS = 60_000


@pytest.fixture(scope="module")
def running() -> Iterator[RootHelper]:
    with standing() as made:
        yield made.start()


@pytest.fixture
def helper(running: RootHelper) -> RootHelper:
    """The helper, with nothing in its journal."""
    running.ran.unlink(missing_ok=True)
    edit(running, "DELETE FROM runs", "UPDATE clock SET policy_version = 0")
    return running


def edit(helper: RootHelper, *statements: str) -> None:
    db = sqlite3.connect(helper.state_dir / "journal.db", isolation_level=None)
    for text in statements:
        db.execute(text)
    db.close()


def let_pass(helper: RootHelper, minutes: int) -> None:
    with journal.open_journal(helper.state_dir / "journal.db") as tx:
        journal.hear(tx, journal.now_ms(tx) + minutes * MIN_MS)


def refused(helper: RootHelper, request: dict[str, Any]) -> str:
    answer = helper.ask(**request)
    assert answer["ok"] is False
    return str(answer["reason"])


def test_a_repair_that_the_policy_allows_runs_once(helper: RootHelper) -> None:
    request = helper.repair(helper.mark())
    assert helper.ask(**request)["status"] == "succeeded"
    assert helper.ask(**request) == helper.ask(ask="outcome", id=request["id"])
    assert helper.lines() == ["ran"]


@pytest.mark.parametrize("mode", ["observe", "stop"])
def test_nothing_is_repaired_unless_the_policy_says_heal(helper: RootHelper, mode: Any) -> None:
    assert "nothing is repaired" in refused(helper, helper.repair(helper.mark(), policy_of(helper.mark(), mode=mode)))


def test_a_policy_that_is_older_than_one_seen_counts_no_more(helper: RootHelper) -> None:
    stop = policy_of(helper.mark(), mode="stop", version=NOW_MS + 1)
    refused(helper, helper.repair(helper.mark(), stop))
    assert "older than one that was seen" in refused(helper, helper.repair(helper.mark()))


def test_a_policy_of_another_appliance_or_another_key_is_refused(helper: RootHelper) -> None:
    other = policy_of(helper.mark(), appliance="box-2")
    assert "another appliance" in refused(helper, helper.repair(helper.mark(), other))
    forged = helper.sign(PayloadType.POLICY, policy.make(policy_of(helper.mark())), ed25519.new_seed())
    assert "not signed" in refused(helper, helper.repair(helper.mark(), policy=forged))


def test_each_byte_of_a_signed_policy_counts(helper: RootHelper) -> None:
    chance = random.Random(11)
    request = helper.repair(helper.mark())
    before = compact(request["policy"])
    rest = compact(request | {"policy": 0}).replace(b'"policy":0', b'"policy":%s') + b"\n"
    for place in range(0, len(before), 3):
        changed = bytearray(before)
        changed[place] ^= 1 << chance.randrange(7)
        assert helper.send(rest % bytes(changed))["ok"] is False, (place, bytes(changed))
    assert helper.lines() == []
    assert helper.send(rest % before)["status"] == "succeeded"


def test_only_a_runbook_of_the_policy_runs(helper: RootHelper) -> None:
    assert "no such runbook" in refused(helper, helper.repair(helper.mark(id="other"), policy_of(helper.mark())))
    parameters = {"unit": "a;b"}
    assert "parameters are refused" in refused(helper, helper.repair(helper.mark(), parameters=parameters))


def test_what_two_persons_must_order_is_no_repair(helper: RootHelper) -> None:
    assert "high risk" in refused(helper, helper.repair(helper.mark(risk="high")))
    assert helper.lines() == []


def test_a_rule_is_one_of_the_policy_and_names_the_runbook(helper: RootHelper) -> None:
    rule = Rule("r1", "R", 1, (Condition("check", "eq", "logging"),), "test", {}, (), 300, "learned")
    given = policy_of(helper.mark(), rules=(rule,))
    assert "no such rule" in refused(helper, helper.repair(helper.mark(), given, rule="r2"))
    assert helper.ask(**helper.repair(helper.mark(), given, rule="r1"))["status"] == "succeeded"


def test_a_repair_by_a_rule_has_that_rules_parameters(helper: RootHelper) -> None:
    seconds = {"name": "seconds", "kind": "integer", "about": "how long", "least": 0, "most": 9, "default": 1}
    book = runbook_of([("/bin/echo", "{seconds}")], parameters=[seconds])
    condition = (Condition("check", "eq", "logging"),)
    rules = (
        Rule("r1", "R", 1, condition, book.id, {"seconds": 3}, (), 300, "learned"),
        Rule("r2", "R", 2, condition, book.id, {}, (), 300, "learned"),
    )
    given = policy_of(book, rules=rules)
    for rule, other in (("r1", {}), ("r1", {"seconds": 4}), ("r2", {"seconds": 3})):
        assert "these parameters" in refused(helper, helper.repair(book, given, rule=rule, parameters=other))
    assert helper.ask(**helper.repair(book, given, rule="r2", parameters={"seconds": 1}))["status"] == "succeeded"


def test_a_disruptive_runbook_waits_for_the_window(helper: RootHelper) -> None:
    restart = helper.mark(disruptive=True)
    closed = policy_of(restart, window=None)
    assert "maintenance window" in refused(helper, helper.repair(restart, closed))
    never = policy_of(restart, window=policy.Window((0, 1, 2, 3, 4, 5, 6), 0, 0))
    assert "maintenance window" in refused(helper, helper.repair(restart, never))
    assert helper.ask(**helper.repair(restart))["status"] == "succeeded"


def test_a_wall_clock_behind_what_was_signed_opens_no_window() -> None:
    with standing() as helper:
        helper.start()
        restart = helper.mark(disruptive=True)
        ahead = policy_of(restart, version=4_000_000_000_000)  # the wall clock here is surely behind that
        assert "maintenance window" in refused(helper, helper.repair(restart, ahead))


def test_a_second_attempt_waits_whatever_host_and_id_it_names(helper: RootHelper) -> None:
    helper.ask(**helper.repair(helper.mark()))
    assert "not before 5 min" in refused(helper, helper.repair(helper.mark(), host="another"))
    assert helper.lines() == ["ran"]


def test_an_order_of_a_person_is_not_held_back_by_the_bound(helper: RootHelper) -> None:
    helper.ask(**helper.repair(helper.mark()))
    assert helper.ask(**helper.order(helper.mark()))["status"] == "succeeded"


def test_three_attempts_in_a_day_and_doubled_waits_hold_over_restarts_and_a_lying_clock() -> None:
    with standing() as helper:
        failing = helper.script(f"echo ran >> {helper.ran}; exit 1")
        waits = []
        for _ in range(60):  # an agent that asks at once, again and again, and each time the machine starts anew
            helper.start()
            answer = helper.ask(**helper.repair(failing))
            helper.end()
            if answer["ok"]:
                edit(helper, "UPDATE clock SET boot_id = 'an earlier one'")
                continue
            waits.append(int(answer["reason"].split("before ")[1].split()[0]))
            let_pass(helper, waits[-1])
            if len(waits) == 3:
                break
        assert waits[:2] == [10, 20]
        assert waits[2] > 24 * 60 - 40
        assert len(helper.lines()) == 3


def kept(path: Path, *begun: tuple[int, str]) -> None:
    """Make a journal with repairs that began at these minutes and ended so."""
    journal.create(path)
    with journal.open_journal(path) as tx:
        for number, (minute, status) in enumerate(begun):
            journal.hear(tx, minute * MIN_MS)
            run = Run("repair", str(number), "test", "box", 10**15)
            assert journal.begin(tx, run)
            if status != "running":
                journal.finish(tx, run, {"status": status, "reason": "", "steps": []})


@pytest.mark.parametrize(
    ("begun", "free"),
    [
        ([(0, "succeeded")], 5),
        ([(0, "failed")], 10),
        ([(0, "running")], 10),
        ([(0, "interrupted")], 10),
        ([(0, "failed"), (100, "failed")], 120),
        ([(0, "failed"), (100, "succeeded")], 105),
        ([(0, "succeeded"), (100, "succeeded"), (200, "succeeded")], 24 * 60),
    ],
)
def test_the_next_attempt_is_free_at_a_known_minute(tmp_path: Path, begun: list[tuple[int, str]], free: int) -> None:
    path = tmp_path / "journal.db"
    kept(path, *begun)
    with journal.open_journal(path) as tx:
        journal.hear(tx, free * MIN_MS - 5000)
        with pytest.raises(TooOftenError):
            journal.check_bound(tx, "test")
        journal.check_bound(tx, "another")
        journal.hear(tx, free * MIN_MS + 5000)
        journal.check_bound(tx, "test")


def test_the_order_clock_runs_on_within_a_boot_and_stands_still_between() -> None:
    known = Kept(1000, Boot("a", 50))
    assert advanced(known, Boot("a", 90)) == 1040
    assert advanced(known, Boot("a", 10)) == 1000
    assert advanced(known, Boot("b", 9000)) == 1000
    assert advanced(Kept(1000, Boot("", 50)), Boot("", 90)) == 1000


def test_ids_are_forgotten_when_their_time_is_over_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal.create(path)
    with journal.open_journal(path) as tx:
        assert journal.begin(tx, Run("order", "a", "test", "", 1000))
        journal.hear(tx, 1000)
        assert not journal.begin(tx, Run("order", "a", "test", "", 1000))
        journal.hear(tx, 10_000)
        assert journal.begin(tx, Run("order", "b", "test", "", 10**15))
        assert journal.outcome(tx, "order", "a") is None


def test_what_steps_said_is_kept_of_the_newest_and_the_end_of_all(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal.create(path)
    with journal.open_journal(path) as tx:
        for number in range(journal.STEPS_KEPT + 2):
            run = Run("order", str(number), "test", "", 10**15)
            assert journal.begin(tx, run)
            journal.finish(tx, run, {"status": "failed", "reason": "", "steps": [{"output": "x"}]})
        told = [journal.outcome(tx, "order", str(number)) or {} for number in (0, 1, journal.STEPS_KEPT)]
    assert [(one["status"], len(one["steps"])) for one in told] == [("failed", 0), ("failed", 1), ("failed", 1)]


def test_an_order_and_a_repair_of_one_id_are_two(helper: RootHelper) -> None:
    request = helper.order(helper.mark(), id="1-2")
    helper.ask(**helper.repair(helper.mark(), id="1-2"))  # an agent that would use up the id of an order to come
    assert helper.ask(**request)["status"] == "succeeded"
    assert helper.lines() == ["ran", "ran"]


def statement(seed: bytes, by: str, key: ServerKey) -> dict[str, Any]:
    from ccshared import envelope

    value = {"server": "cc.example", "issued_at_ms": NOW_MS, **key.model_dump()}
    return envelope.sign(PayloadType.KEYS, value, seed, by).to_json()


def test_the_next_order_key_is_followed_from_the_pinned_one() -> None:
    with standing() as helper:
        helper.start()
        seed = ed25519.new_seed()
        name = "cc.example/server/order-2"
        key = ServerKey(use="order", name=name, public_key=ed25519.public_key(seed).hex())
        strange = helper.ask(ask="keys", statements=[statement(ed25519.new_seed(), KEY_NAME, key)])
        assert strange["keys"] == [KEY_NAME]
        followed = helper.ask(ask="keys", statements=[statement(helper.seed, KEY_NAME, key)])
        assert followed["keys"] == [KEY_NAME, name]
        assert name in load(helper.state_dir / "pinned.json").order_keys


def test_an_order_key_that_another_has_followed_signs_nothing_any_more() -> None:
    with standing() as helper:
        helper.start()
        seed = ed25519.new_seed()
        key = ServerKey(use="order", name="cc.example/server/order-2", public_key=ed25519.public_key(seed).hex())
        helper.ask(ask="keys", statements=[statement(helper.seed, KEY_NAME, key)])
        book = helper.mark()
        for request in (helper.order(book), helper.repair(book)):
            assert "newest order key" in refused(helper, request)
        thief = key.model_copy(update={"name": "cc.example/server/order-3"})
        assert helper.ask(ask="keys", statements=[statement(helper.seed, KEY_NAME, thief)])["keys"][-1] == key.name
        assert helper.lines() == []


def pin_of(appliance: str = "box-1", seeds: str = "1") -> Pin:
    keys = [
        ServerKey(use="order", name=f"cc.example/server/order-{seed}", public_key=public(seed).hex()) for seed in seeds
    ]
    return Pin(server="cc.example", site="clinic", appliance=appliance, keys=keys)


def public(seed: str) -> bytes:
    return ed25519.public_key(seed.encode() * 32)


def test_another_server_or_appliance_is_pinned_only_in_so_many_words(tmp_path: Path) -> None:
    state = tmp_path / "helper"
    pin(state, pin_of())
    pin(state, pin_of())
    with pytest.raises(NotPinnedError, match="--replace"):
        pin(state, pin_of("box-2"))
    pin(state, pin_of("box-2"), replace=True)
    assert load(state / "pinned.json").appliance == "box-2"


def test_a_pin_is_refused_when_the_fingerprint_is_another(tmp_path: Path) -> None:
    with pytest.raises(NotPinnedError, match="fingerprint"):
        pin(tmp_path / "helper", pin_of(), "0" * 64)
    made = pin(tmp_path / "helper", pin_of(seeds="12"), purposes.fingerprint(public("1")))
    assert list(made.order_keys.values()) == [public("1")]  # the other must be followed from it


def test_keys_that_the_agent_was_told_of_since_are_not_pinned_by_the_way(tmp_path: Path) -> None:
    state = tmp_path / "helper"
    pin(state, pin_of())
    assert list(pin(state, pin_of(seeds="12")).order_keys.values()) == [public("1")]
    with pytest.raises(NotPinnedError, match="another order key"):
        pin(state, pin_of(seeds="2"))
    assert list(load(state / "pinned.json").order_keys.values()) == [public("1")]
    assert pin(state, pin_of(seeds="2"), replace=True) == load(state / "pinned.json")


def test_a_journal_that_is_gone_is_not_made_anew_by_the_way(tmp_path: Path) -> None:
    state = tmp_path / "helper"
    pin(state, pin_of())
    (state / "journal.db").unlink()
    with pytest.raises(NotPinnedError, match="is gone"):
        pin(state, pin_of())


def test_before_a_pin_orders_are_refused_and_reads_answered() -> None:
    with standing() as helper:
        (helper.state_dir / "pinned.json").unlink()
        helper.start()
        assert "run cc-agent helper pin" in refused(helper, helper.order(helper.mark()))
        assert "run cc-agent helper pin" in refused(helper, {"ask": "outcome", "id": "x"})
        assert helper.ask(ask="read", what="lsblk")["ok"] is True


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "rhel"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "debian"),
        ("ID=nixos\n", "nixos"),
        ("ID=alpine\n", "any"),
        ("", "any"),
    ],
)
def test_a_machine_says_of_what_kind_it_is(tmp_path: Path, said: str, kind: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(said)
    assert platform(file) == kind
    assert platform(tmp_path / "absent") == "any"


def test_a_path_is_refused_when_one_directory_above_it_is_not_ours(tmp_path: Path) -> None:
    import os

    inner = tmp_path / "theirs" / "ours"
    inner.mkdir(parents=True)
    owned.check_directory(inner)
    (tmp_path / "theirs").chmod(0o777)
    with pytest.raises(owned.NotOursError, match="theirs can be written"):
        owned.check_directory(inner)
    (tmp_path / "theirs").chmod(0o755)
    os.chown(tmp_path / "theirs", 4711, -1)
    with pytest.raises(owned.NotOursError, match="belongs to uid 4711"):
        owned.check_directory(inner)
