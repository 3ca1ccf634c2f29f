"""What charts are drawn from: kept up at write time, counted once, and nobody else's."""

import time

from ccshared import ids
from tests.devices import Device, Running
from tests.operators import with_session


async def settle(device: Device, level: str, **changes: object) -> dict[str, object]:
    now = time.time_ns() // 1_000_000
    row: dict[str, object] = {
        "id": ids.new_id(), "epoch": 1, "revision": 1, "host_id": "box", "pattern_signature": "0" * 16,
        "incident_type": "encryption", "severity": "high", "raw_data": {}, "created_at_ms": now, "last_seen_at_ms": now,
        "resolved_at_ms": now, "resolution_level": level, "outcome": "success",
    }  # fmt: skip
    answer = await device.call("PUT", "incidents", json={"incidents": [row | changes]})
    assert answer.status_code == 200, answer.text
    return row | changes


async def healed(server: Running) -> list[tuple[int, int, int]]:
    async with server.db.partner("acme") as scope:
        found = await scope.conn.fetch("SELECT l1_count, l2_count, l3_count FROM healed_days")
    return [tuple(row) for row in found]


async def test_what_is_settled_is_counted_once_however_often_it_is_told(server: Running, device: Device) -> None:
    told = await settle(device, "L1")
    await settle(device, "L3")
    for revision in (2, 3):
        await settle(device, "L1", **told | {"revision": revision, "occurrences": revision})
    assert await healed(server) == [(1, 0, 1)]


async def test_an_auditor_sees_what_assigned_sites_settled(server: Running, device: Device) -> None:
    await settle(device, "L2")
    await server.add_site("acme", "acme-second")
    own, other = [await with_session(server, "auditor", site) for site in ("acme-clinic", "acme-second")]
    assert "<table" in (await server.client.get("/healed", headers=own.headers)).text
    assert "Nothing was settled" in (await server.client.get("/healed", headers=other.headers)).text


async def test_what_waits_is_sampled_once_in_ten_minutes(server: Running, device: Device) -> None:
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync", "waiting": 9}
    for _ in range(3):
        assert (await device.call("POST", "checkin", json=said)).status_code == 200
    async with server.db.site("acme", "acme-clinic") as scope:
        assert 1 <= await scope.conn.fetchval("SELECT count(*) FROM queue_samples WHERE waiting = 9") <= 2
