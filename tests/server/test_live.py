"""The stream of events: who may watch, what it says, and when it ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from ccserver import live
from ccserver.errors import TooManyRequestsError
from ccserver.live import Stream, Streams, Word
from tests.devices import Device, Running
from tests.operators import Operator, with_key, with_session

CHECKIN = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}


@asynccontextmanager
async def watching(who: Operator, site: str | None = None) -> AsyncIterator[AsyncIterator[str]]:
    """Open a stream; its lines."""
    params = {"beat_s": "0.3"} | ({"site": site} if site else {})
    async with who.server.client.stream("GET", "/events", params=params, headers=who.headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.aiter_lines()


async def said(lines: AsyncIterator[str], wanted: str, seconds: float = 10) -> bool:
    """Return whether the stream says this before it ends."""
    async with asyncio.timeout(seconds):
        async for line in lines:
            if line == wanted:
                return True
    return False


async def looked(lines: AsyncIterator[str]) -> None:
    """Wait until the server has looked at what is watched at least once, and nothing was said to have changed."""
    beats = 0
    async with asyncio.timeout(10):
        async for line in lines:
            assert line != "event: changed"
            beats += line == ": beat"
            if beats > live.LOOK_S / 0.3 + 2:
                return


async def test_a_check_in_is_told_to_who_watches_its_site(server: Running, device: Device) -> None:
    async with watching(await with_session(server, "viewer"), "acme-clinic") as lines:
        await looked(lines)
        assert (await device.call("POST", "checkin", json=CHECKIN)).status_code == 200
        assert await said(lines, "event: changed")


async def test_what_changes_at_one_partner_is_not_told_to_another(server: Running, device: Device) -> None:
    await server.add_site("beta", "beta-clinic")
    who = await with_key(server, "viewer", "beta")
    async with watching(who) as lines:
        await looked(lines)
        assert (await device.call("POST", "checkin", json=CHECKIN)).status_code == 200
        await looked(lines)
        await server.add_site("beta", "beta-second")
        assert await said(lines, "event: changed")


MADE_AND_CHANGED = {
    """INSERT INTO problems (partner_id, id, kind, subject, severity, says, began_at)
       VALUES ('acme', 'p-1', 'sweep', 'x', 'low', 'x', now())""": "UPDATE problems SET ended_at = now()",
    """INSERT INTO fleet_orders (partner_id, id, runbook_id, runbook_digest, parameters, life_s, status, created_by,
                                 creator)
       VALUES ('acme', 'f-1', 'x', repeat('0', 64), '{}', 60, 'running', 'x', 'x')""": (
        "UPDATE fleet_orders SET status = 'paused'"
    ),
    """INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status)
       VALUES ('acme', 'r-1', repeat('0', 16), 'x', '[]', 'candidate')""": (
        "UPDATE rules SET status = 'rejected', revision = revision + 1"
    ),
}


@pytest.mark.parametrize(("made", "change"), MADE_AND_CHANGED.items(), ids=["problems", "orders for many", "rules"])
async def test_what_other_live_pages_show_is_told_too(server: Running, made: str, change: str) -> None:
    conn = await asyncpg.connect(server.urls.admin)
    async with watching(await with_session(server, "viewer")) as lines:
        for statement in (made, change):
            await looked(lines)
            await conn.execute(statement)
            assert await said(lines, "event: changed"), statement
    await conn.close()


async def test_a_foreign_site_cannot_be_watched(server: Running) -> None:
    await server.add_site("beta", "beta-clinic")
    who = await with_session(server, "owner")
    answer = await server.client.get("/events", params={"site": "beta-clinic"}, headers=who.headers)
    assert answer.status_code == 404


async def test_an_auditor_watches_assigned_sites_alone(server: Running) -> None:
    await server.add_site("acme", "acme-second")
    who = await with_session(server, "auditor", "acme-clinic")
    answer = await server.client.get("/events", params={"site": "acme-second"}, headers=who.headers)
    assert answer.status_code == 404
    async with watching(who, "acme-clinic") as lines:
        assert await said(lines, ": beat")


async def test_the_stream_of_a_session_that_was_revoked_ends(server: Running) -> None:
    async with watching(await with_session(server, "viewer")) as lines:
        assert await said(lines, ": beat")
        await _admin(server, "DELETE FROM sessions")
        assert await said(lines, "event: end")


async def test_the_stream_of_an_auditor_whose_site_was_taken_away_ends(server: Running) -> None:
    async with watching(await with_session(server, "auditor", "acme-clinic"), "acme-clinic") as lines:
        assert await said(lines, ": beat")
        await _admin(server, "DELETE FROM user_sites")
        assert await said(lines, "event: end")


async def test_the_stream_of_all_an_auditors_sites_ends_when_one_is_taken_away(server: Running) -> None:
    async with watching(await with_session(server, "auditor", "acme-clinic")) as lines:
        assert await said(lines, ": beat")
        await _admin(server, "DELETE FROM user_sites")
        assert await said(lines, "event: end")


async def test_one_persons_oldest_stream_ends_when_there_are_too_many(server: Running) -> None:
    who = await with_session(server, "viewer")
    async with watching(who) as first:
        async with watching(who), watching(who), watching(who), watching(who) as last:
            assert await said(first, "event: end")
            assert await said(last, ": beat")


async def test_a_quiet_stream_holds_no_connection_of_the_pool(server: Running) -> None:
    who = [await with_session(server, "viewer") for _ in range(1)] * 4
    async with watching(who[0]), watching(who[1]), watching(who[2]), watching(who[3]) as lines:
        for _ in range(5):
            busy = await _count(server, "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'")
            assert busy == 0
            await said(lines, ": beat")


async def test_a_closed_browser_frees_its_stream(server: Running) -> None:
    who = await with_session(server, "viewer")
    for _ in range(6):
        async with watching(who) as lines:
            assert await said(lines, ": beat")


async def test_a_head_request_has_no_stream(server: Running) -> None:
    who = await with_session(server, "viewer")
    async with asyncio.timeout(5):
        answer = await server.client.head("/events", headers=who.headers)
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_process_that_has_enough_streams_opens_no_other() -> None:
    streams = Streams(in_all=2)
    streams.open("one", "acme", None)
    streams.open("two", "acme", None)
    with pytest.raises(TooManyRequestsError):
        streams.open("three", "acme", None)


def test_only_who_watches_what_changed_is_told() -> None:
    streams = Streams()
    site, other = streams.open("a", "acme", frozenset({"one"})), streams.open("b", "acme", frozenset({"two"}))
    streams.note({("acme", "one"): 1, ("acme", "two"): 1})
    streams.note({("acme", "one"): 2, ("acme", "two"): 1})
    assert asyncio.run(site.listen(0.01)) is Word.CHANGED
    assert asyncio.run(other.listen(0.01)) is Word.BEAT


async def test_many_changes_are_one_message_a_while_and_the_last_is_not_lost() -> None:
    stream = Stream("a", "acme", None)
    stream.tell()
    assert await stream.listen(1) is Word.CHANGED
    stream.tell()
    stream.tell()
    began = time.monotonic()
    assert await stream.listen(10) is Word.CHANGED
    assert time.monotonic() - began > 0.5
    assert await stream.listen(0.01) is Word.BEAT


async def test_a_server_that_stops_waits_for_no_stream() -> None:
    streams = Streams()
    stream = streams.open("a", "acme", None)
    waiting = asyncio.create_task(stream.listen(60))
    await asyncio.sleep(0)
    streams.end()
    async with asyncio.timeout(1):
        assert await waiting is Word.END


async def _admin(server: Running, statement: str) -> None:
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute(statement)
    await conn.close()


async def _count(server: Running, statement: str) -> int:
    conn = await asyncpg.connect(server.urls.admin)
    found = int(await conn.fetchval(statement))
    await conn.close()
    return found
