import asyncio

import pytest

from ccagent import daemon
from ccagent.client import ConfigurationError, TransientError


async def test_a_loop_that_breaks_is_begun_again_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "RESTART_S", 0.01)
    counts = {"breaks": 0, "works": 0}

    async def breaks() -> None:
        counts["breaks"] += 1
        raise RuntimeError("as a mistake would")

    async def works() -> None:
        while True:
            counts["works"] += 1
            await asyncio.sleep(0.01)

    await daemon.together(asyncio.sleep(0.2), {"breaks": breaks, "works": works})
    assert counts["breaks"] > 3
    assert counts["works"] > 3


async def test_a_loop_that_will_not_stop_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "STOP_S", 0.1)
    may_end = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await may_end.wait()

    await asyncio.wait_for(daemon.together(asyncio.sleep(0.05), {"stubborn": stubborn}), 2)
    may_end.set()
    await asyncio.sleep(0)


def test_check_ins_keep_the_pace_that_the_server_asks_for_within_limits() -> None:
    pauses = [daemon.checkin_pause_s(None, 0, 60) for _ in range(200)]
    assert 54 <= min(pauses) < max(pauses) <= 66
    assert daemon.checkin_pause_s(None, 0, 0) >= 4.5
    assert daemon.checkin_pause_s(None, 0, 10**9) <= 3960


def test_check_ins_go_on_at_their_pace_through_an_outage() -> None:
    assert 30 <= daemon.checkin_pause_s(TransientError("x"), 20, 60) <= 90


def test_check_ins_wait_longer_where_a_person_must_act_or_the_server_asks() -> None:
    assert 54 <= daemon.checkin_pause_s(ConfigurationError("x"), 9, 60) <= 900
    busy = TransientError("x")
    busy.retry_after_s = 600
    assert daemon.checkin_pause_s(busy, 1, 60) >= 600


async def test_news_ends_work_that_hangs_and_work_that_fails_says_so() -> None:
    news = asyncio.Event()
    assert await daemon._until(news, asyncio.sleep(0)) is True
    with pytest.raises(TransientError):
        await daemon._until(news, fails())
    asyncio.get_running_loop().call_later(0.01, news.set)
    assert await asyncio.wait_for(daemon._until(news, asyncio.sleep(60)), 5) is False


async def fails() -> None:
    raise TransientError("x")
