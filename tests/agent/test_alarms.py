from collections.abc import Iterator
from pathlib import Path

import pytest

from ccagent import alarms
from ccagent.alarms import Alarm, is_silent
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store
from ccagent.survey import compare
from ccshared.messages import Head

HOUR_MS = 3_600_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(Places(tmp_path))
    yield store
    store.close()


def names(store: Store, now_ms: int) -> list[str]:
    return [one.name for one in store.read(alarms.standing, now_ms)]


async def test_an_alarm_stands_until_its_time_is_over(store: Store) -> None:
    assert await store.write(alarms.sound, Alarm("rollback", "x", 10), 100)
    assert names(store, 99) == ["rollback"]
    assert names(store, 101) == []


async def test_what_a_person_ended_is_not_said_again_but_something_else_is(store: Store) -> None:
    assert await store.write(alarms.sound, Alarm("clone_suspected", "a and b", 10))
    assert await store.write(alarms.end, "clone_suspected", 20) == 1
    assert not await store.write(alarms.sound, Alarm("clone_suspected", "a and b", 30))
    assert names(store, 40) == []
    assert await store.write(alarms.sound, Alarm("clone_suspected", "c and d", 50))
    assert names(store, 60) == ["clone_suspected"]


async def test_what_has_passed_may_be_said_again(store: Store) -> None:
    await store.write(alarms.sound, Alarm("unknown_server_key", "x", 10))
    await store.write(alarms.forget, "unknown_server_key")
    assert await store.write(alarms.sound, Alarm("unknown_server_key", "x", 20))


@pytest.mark.parametrize(
    ("receipt_h", "checkin_h", "silent"),
    [(49, 0, True), (47, 0, False), (49, 49, False), (None, 0, False), (49, None, False)],
)
def test_receipts_that_stay_away_while_check_ins_arrive_are_an_alarm(
    receipt_h: int | None, checkin_h: int | None, silent: bool
) -> None:
    now = 1000 * HOUR_MS
    receipt = None if receipt_h is None else now - receipt_h * HOUR_MS
    checkin = None if checkin_h is None else now - checkin_h * HOUR_MS
    assert is_silent(receipt, checkin, now) is silent


def log(name: str, watermark: int = 0) -> Epoch:
    return Epoch(name, f"cc.example/log/a/{name}", "0" * 64, 1, watermark)


def sized(*logs: Epoch) -> dict[Epoch, int]:
    return dict.fromkeys(logs, 9)


def head(name: str, size: int) -> Head:
    return Head(epoch=name, size=size, receipt=None)


def test_a_server_that_has_what_it_receipted_is_not_behind() -> None:
    seen = compare(sized(log("1-00000001", 5), log("2-00000002")), [head("1-00000001", 5)])
    assert (seen.behind, seen.strangers, seen.doubled, seen.next_number) == ((), (), (), 3)


def test_a_server_that_lacks_what_it_receipted_is_behind() -> None:
    ours = [log("1-00000001", 5), log("2-00000002", 3)]
    assert compare(sized(*ours), [head("1-00000001", 4)]).behind == ("1-00000001", "2-00000002")


def test_two_logs_of_one_number_are_two_copies_of_one_appliance() -> None:
    seen = compare(sized(log("2-00000002")), [head("1-00000001", 1), head("2-0000000f", 1)])
    assert seen.doubled == ("2-00000002", "2-0000000f")
    assert seen.strangers == ("2-0000000f",)


def test_a_later_log_that_is_not_here_is_anothers() -> None:
    seen = compare(sized(log("2-00000002")), [head("2-00000002", 1), head("4-00000004", 1)])
    assert (seen.strangers, seen.next_number) == (("4-00000004",), 5)


def test_logs_from_before_a_reinstallation_are_nobody_elses() -> None:
    theirs = [head("1-00000001", 9), head("1-0000000f", 9), head("2-00000002", 1)]
    seen = compare(sized(log("3-00000003")), theirs)
    assert (seen.strangers, seen.doubled, seen.behind) == ((), (), ())
    assert compare({}, theirs).strangers == ()


def test_a_server_that_holds_more_than_was_made_is_ahead_but_not_of_a_log_that_ended() -> None:
    ended = Epoch("1-00000001", "cc.example/log/a/1-00000001", "0" * 64, 1, 0, None, 5, 3)
    theirs = [head("1-00000001", 10), head("2-00000002", 10)]
    assert compare(sized(ended, log("2-00000002")), theirs).ahead == ("2-00000002",)
