"""Incidents and patterns, as appliances report them."""

from typing import Any

from tests.devices import NOW_MS, Device, Running

INCIDENT: dict[str, Any] = {
    "id": "01900000-0000-7000-8000-000000000001",
    "epoch": 1,
    "revision": 1,
    "host_id": "box",
    "incident_type": "backup_stale",
    "severity": "medium",
    "raw_data": {"reason": "the last backup is 30 h old"},
    "pattern_signature": "0123456789abcdef",
    "created_at_ms": NOW_MS,
    "last_seen_at_ms": NOW_MS,
}


async def report(device: Device, *incidents: dict[str, Any]) -> Any:
    answer = await device.call("PUT", "incidents", json={"incidents": incidents})
    assert answer.status_code == 200, answer.text
    return answer.json()["incidents"]


async def stored(server: Running) -> dict[str, Any]:
    async with server.db.partner("acme") as scope:
        row = await scope.conn.fetchrow("SELECT severity, occurrences, revision, raw_data FROM incidents")
    assert row is not None
    return dict(row)


async def test_a_repeated_report_changes_nothing(device: Device, server: Running) -> None:
    first, again = await report(device, INCIDENT), await report(device, INCIDENT)
    assert first == again == [{"id": INCIDENT["id"], "epoch": 1, "revision": 1}]
    assert (await stored(server))["severity"] == "medium"


async def test_the_newest_revision_wins_whichever_comes_last(device: Device, server: Running) -> None:
    await report(device, INCIDENT | {"revision": 5, "severity": "high"})
    kept = await report(device, INCIDENT | {"revision": 4, "severity": "low"})
    assert kept[0]["revision"] == 5
    assert (await stored(server))["severity"] == "high"
    await report(device, INCIDENT | {"epoch": 2, "revision": 1, "severity": "critical"})
    assert (await stored(server))["severity"] == "critical"


async def test_an_id_of_another_appliance_is_not_found(device: Device, server: Running) -> None:
    await report(device, INCIDENT)
    other = await Device.enrolled(server, "acme", "acme-clinic")
    answer = await other.call("PUT", "incidents", json={"incidents": [INCIDENT | {"revision": 9}]})
    assert answer.status_code == 404
    assert (await stored(server))["revision"] == 1


async def test_text_that_jsonb_cannot_hold_is_kept_readable(device: Device, server: Running) -> None:
    await report(device, INCIDENT | {"raw_data": {"reason": "a\x00b", "path": "c:\\u0000"}})
    assert (await stored(server))["raw_data"] == '{"path": "c:\\\\u0000", "reason": "a\N{REPLACEMENT CHARACTER}b"}'


async def test_bad_reports_are_refused_whole(device: Device, server: Running) -> None:
    for change in (
        {"severity": "dire"},
        {"raw_data": {"a": 1.5}},
        {"raw_data": {"a": 2**63}},
        {"created_at_ms": 2**62},
        {"pattern_signature": "0123456789abcdeg"},
        {"id": "x'; DROP TABLE incidents; --"},
    ):
        answer = await device.call("PUT", "incidents", json={"incidents": [INCIDENT, INCIDENT | change]})
        assert answer.status_code == 422, change
    twice = await device.call("PUT", "incidents", json={"incidents": [INCIDENT, INCIDENT]})
    assert twice.status_code == 422
    async with server.db.partner("acme") as scope:
        assert await scope.conn.fetchval("SELECT count(*) FROM incidents") == 0


async def test_an_appliances_totals_are_replaced_and_never_added(device: Device, server: Running) -> None:
    totals = {"pattern_signature": "0123456789abcdef", "incident_type": "backup_stale", "total_count": 3, "l1_count": 0}
    totals |= {"l2_count": 0, "l3_count": 3, "success_count": 1, "total_resolution_time_ms": 10}
    for revision, count in ((2, 3), (2, 3), (1, 99), (3, 4)):
        said = {"epoch": 1, "revision": revision, "patterns": [totals | {"total_count": count}]}
        assert (await device.call("PUT", "patterns", json=said)).status_code == 204
    async with server.db.partner("acme") as scope:
        assert await scope.conn.fetchval("SELECT total_count FROM pattern_stats") == 4
