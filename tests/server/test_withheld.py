"""A payload that was withheld takes its place later: it alone, where only its leaf stands, and once."""

import gzip

import asyncpg
import httpx
import pytest

from ccserver.queries import evidence_bundles
from ccshared import batch
from ccshared.vocabulary import StubReason
from tests.devices import Device


async def send_with_stub(device: Device, place: int, why: StubReason = StubReason.WITHHELD) -> None:
    lines = list(device.payloads)
    whole = device.batch(0)
    stubbed = [batch.Stub(device.leaves()[n], why) if n == place else line for n, line in enumerate(lines)]
    answer = await device.send(batch.Batch(whole.checkpoint, 0, None, stubbed))
    assert answer.status_code == 200, answer.text


async def put(device: Device, seq: int | str, payload: bytes) -> httpx.Response:
    headers = {"Content-Encoding": "gzip"} | device.headers
    path = f"/agent/v1/log/{device.epoch}/entries/{seq}"
    return await device.server.client.put(path, content=gzip.compress(payload), headers=headers)


async def row(device: Device, seq: int) -> asyncpg.Record:
    async with device.server.db.platform() as scope:
        found = await scope.conn.fetchrow("SELECT * FROM evidence_bundles WHERE seq = $1", seq)
    assert found is not None
    return found


@pytest.fixture
async def stubbed(device: Device) -> Device:
    """Three entries sent, the one in the middle as a stub."""
    device.seal()
    device.check_run("backup", "fail")
    device.seal()
    await send_with_stub(device, 1)
    return device


async def test_a_withheld_payload_takes_its_place_with_all_that_derives_from_it(stubbed: Device) -> None:
    answer = await put(stubbed, 1, stubbed.payloads[1])
    assert answer.json() == {"epoch": stubbed.epoch, "seq": 1, "leaf": stubbed.leaves()[1].hex()}
    filled = await row(stubbed, 1)
    assert (filled["payload"], filled["missing_reason"]) == (stubbed.payloads[1], None)
    assert (filled["bundle_type"], filled["host_id"], filled["check_id"]) == ("check_run", "box", "backup")
    async with stubbed.server.db.partner("acme") as scope:
        assert await scope.conn.fetchval("SELECT status FROM check_states WHERE check_id = 'backup'") == "fail"


async def test_the_same_payload_again_changes_nothing(stubbed: Device) -> None:
    first = await put(stubbed, 1, stubbed.payloads[1])
    before = await row(stubbed, 1)
    assert (await put(stubbed, 1, stubbed.payloads[1])).json() == first.json()
    assert await row(stubbed, 1) == before


async def test_the_receipt_stays_what_it_was(stubbed: Device) -> None:
    before = (await stubbed.call("GET", f"log/{stubbed.epoch}")).json()
    await put(stubbed, 1, stubbed.payloads[1])
    assert (await stubbed.call("GET", f"log/{stubbed.epoch}")).json() == before


async def test_another_payload_is_refused(stubbed: Device) -> None:
    for payload in (stubbed.payloads[2], stubbed.payloads[1] + b" ", b""):
        answer = await put(stubbed, 1, payload)
        assert (answer.status_code, answer.json()["seq"]) == (422, 1)
    assert (await row(stubbed, 1))["payload"] is None


async def test_a_place_that_is_not_there_is_not_found(stubbed: Device) -> None:
    for seq in (3, 10**14, "01", "-1", "x"):
        assert (await put(stubbed, seq, stubbed.payloads[1])).status_code == 404, seq
    stubbed.epoch = "9-00000000"
    assert (await put(stubbed, 1, stubbed.payloads[1])).status_code == 404


async def test_only_what_was_withheld_is_taken_later(device: Device) -> None:
    device.seal()
    device.seal()
    await send_with_stub(device, 1, StubReason.ERASED)
    await put(device, 1, device.payloads[1])
    assert (await row(device, 1))["payload"] is None


async def test_an_older_run_that_arrives_late_does_not_hide_a_newer_one(device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    device.check_run("backup", "pass")
    await send_with_stub(device, 1)
    await put(device, 1, device.payloads[1])
    async with device.server.db.partner("acme") as scope:
        assert await scope.conn.fetchval("SELECT status FROM check_states WHERE check_id = 'backup'") == "pass"


async def test_what_was_hashed_cannot_be_changed_by_way_of_a_stub(stubbed: Device) -> None:
    right, wrong = stubbed.payloads[1], stubbed.payloads[2]
    for change, value in (
        ("payload = $1, missing_reason = NULL", wrong),
        ("payload = $1, missing_reason = NULL, seq = 7", right),
        ("payload = $1, missing_reason = NULL, bundle_hash = sha256('x')", right),
        ("missing_reason = 'lost', hipaa_controls = to_jsonb(length($1::bytea))", right),
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
            async with stubbed.server.db.platform() as scope:
                await scope.conn.execute(f"UPDATE evidence_bundles SET {change} WHERE seq = 1", value)  # noqa: S608
    await put(stubbed, 1, right)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
        async with stubbed.server.db.platform() as scope:
            await scope.conn.execute("UPDATE evidence_bundles SET payload = NULL, missing_reason = 'withheld'")


async def test_what_is_not_understood_is_listed_newest_first_for_its_partner_only(device: Device) -> None:
    for _ in range(3):
        device.seal()
    for place in (1, 2):
        device.payloads[place:] = []
        payload = device.seal()
        device.payloads[place] = payload.replace(b'"kind":"check_run"', b'"kind":"from_the_future"')
    await device.send(device.batch(0))
    async with device.server.db.partner("acme") as scope:
        found = await evidence_bundles.list_flagged(scope, 10)
        assert [(one.seq, one.flag, one.epoch) for one in found] == [
            (2, "unknown kind", device.epoch), (1, "unknown kind", device.epoch)
        ]  # fmt: skip
        assert [one.seq for one in await evidence_bundles.list_flagged(scope, 10, found[0].id)] == [1]
    async with device.server.db.partner("other") as scope:
        assert await evidence_bundles.list_flagged(scope, 10) == []
