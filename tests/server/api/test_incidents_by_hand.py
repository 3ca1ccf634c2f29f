"""Incidents over the API: lists, filters, and what people do by hand."""

from typing import Any

import pytest

from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session

BEGAN = 1_790_000_000_000
INCIDENT: dict[str, Any] = {
    "epoch": 1,
    "revision": 1,
    "host_id": "box",
    "incident_type": "backup_stale",
    "severity": "high",
    "raw_data": {"reason": "old"},
    "pattern_signature": "0123456789abcdef",
    "last_seen_at_ms": BEGAN,
    "created_at_ms": BEGAN,
}
ONE = "sites/acme-clinic/incidents/i0"


async def report(device: Device, *changes: dict[str, Any]) -> None:
    reports = [INCIDENT | {"id": f"i{number}"} | change for number, change in enumerate(changes)]
    answer = await device.call("PUT", "incidents", json={"incidents": reports})
    assert answer.status_code == 200, answer.text


async def test_a_cursor_walks_all_incidents_even_when_all_began_at_once(device: Device) -> None:
    await report(device, *({} for _ in range(7)))
    viewer = await with_key(device.server, "viewer")
    expected = [f"i{number}" for number in range(6, -1, -1)]
    for query in ({}, {"site": "acme-clinic"}, {"state": "open"}):
        assert [incident["id"] for incident in await viewer.walk("incidents", **query)] == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("severity=low", ["i1"]),
        ("state=closed", ["i2"]),
        ("state=open", ["i3", "i1", "i0"]),
        ("level=L2", ["i2"]),
        ("site=acme-clinic&state=open&severity=high", ["i3", "i0"]),
        ("since=2026-09-21T14:13:21Z", ["i3"]),
        ("until=2026-09-21T14:13:21Z&state=open", ["i1", "i0"]),
    ],
)
async def test_filters_show_what_they_say(device: Device, query: str, expected: list[str]) -> None:
    resolved = {"resolved_at_ms": BEGAN, "resolution_level": "L2", "outcome": "success"}
    await report(device, {}, {"severity": "low"}, resolved, {"created_at_ms": BEGAN + 60_000})
    viewer = await with_key(device.server, "viewer")
    found = (await viewer.call("GET", f"incidents?total=true&{query}")).json()
    assert [incident["id"] for incident in found["items"]] == expected
    assert found["total"] == len(expected)


@pytest.mark.parametrize("query", ["offset=10001", "cursor=AAAA", "state=ajar", "severity=HIGH", "site=%27", "since=1"])
async def test_a_list_refuses_what_it_does_not_take(server: Running, query: str) -> None:
    assert (await (await with_key(server, "viewer")).call("GET", f"incidents?{query}")).status_code == 422


async def test_what_people_do_takes_the_revision_they_read_and_leaves_the_appliances_columns(device: Device) -> None:
    await report(device, {})
    technician = await with_key(device.server, "technician")
    read = await technician.call("GET", ONE)
    assert (await technician.call("POST", ONE + "/acknowledge")).status_code == 428
    first = await technician.call("POST", ONE + "/acknowledge", {"If-Match": read.headers["etag"]})
    assert first.json()["acknowledged_by"].startswith("key:")
    late = await technician.call("POST", ONE + "/resolve", {"If-Match": read.headers["etag"]})
    assert (late.status_code, type_of(late)) == (412, "changed-meanwhile")
    closed = (await technician.call("POST", ONE + "/resolve", {"If-Match": first.headers["etag"]})).json()
    hand = {"acknowledged_at", "acknowledged_by", "closed_by_hand_at", "closed_by_hand_by", "hand_revision"}
    assert {name: closed[name] for name in closed.keys() - hand} == {
        name: value for name, value in read.json().items() if name not in hand
    }
    assert await audited(device.server) == [("incident.acknowledge", "i0"), ("incident.resolve", "i0")]


async def test_an_incident_closed_by_hand_is_open_no_more_and_its_appliance_may_go_on(device: Device) -> None:
    await report(device, {})
    technician = await with_key(device.server, "technician")
    await technician.call("POST", ONE + "/resolve", {"If-Match": '"1"'})
    assert (await technician.call("GET", "incidents?state=open")).json()["items"] == []
    totals = (await technician.call("GET", "sites/acme-clinic/statistics")).json()["totals"]
    assert (totals["incidents"], totals["open_high"]) == (1, 0)
    await report(device, {"revision": 2, "occurrences": 5})
    after = (await technician.call("GET", ONE)).json()
    assert (after["occurrences"], after["closed_by_hand_at"] is None) == (5, False)


async def test_a_comment_sent_twice_is_there_once(device: Device) -> None:
    await report(device, {})
    technician, key = await with_key(device.server, "technician"), {"Idempotency-Key": "c1"}
    first = await technician.call("POST", ONE + "/comments", key, json={"body": "called them"})
    again = await technician.call("POST", ONE + "/comments", key, json={"body": "called them"})
    assert (first.status_code, first.json()) == (201, again.json())
    for number in range(4):
        await technician.call("POST", ONE + "/comments", json={"body": f"note {number}"})
    bodies = [each["body"] for each in await technician.walk(ONE + "/comments")]
    assert bodies == ["note 3", "note 2", "note 1", "note 0", "called them"]
    assert (await technician.call("POST", ONE + "/comments", json={"body": "a\x00b"})).status_code == 422


async def test_another_partners_incident_is_not_there_and_stays_as_it_is(device: Device) -> None:
    server = device.server
    await report(device, {})
    await server.add_site("zeta", "zeta-one")
    await server.add_site("acme", "acme-other")
    stranger, owner = await with_key(server, "owner", "zeta"), await with_key(server, "owner")
    assert (await stranger.call("GET", "incidents")).json()["items"] == []
    assert (await stranger.call("GET", "incidents?site=acme-clinic")).status_code == 404
    for who, site in ((stranger, "acme-clinic"), (stranger, "zeta-one"), (owner, "acme-other")):
        path = f"sites/{site}/incidents/i0"
        assert (await who.call("GET", path)).status_code == 404
        assert (await who.call("GET", path + "/comments")).status_code == 404
        assert (await who.call("POST", path + "/acknowledge", {"If-Match": '"1"'})).status_code == 404
        assert (await who.call("POST", path + "/resolve", {"If-Match": '"1"'})).status_code == 404
        assert (await who.call("POST", path + "/comments", json={"body": "x"})).status_code == 404
    assert (await owner.call("GET", ONE)).headers["etag"] == '"1"'
    assert await audited(server) == await audited(server, "zeta") == []


async def test_viewers_read_and_auditors_do_not_even_that(device: Device) -> None:
    await report(device, {})
    viewer = await with_key(device.server, "viewer")
    auditor = await with_session(device.server, "auditor", "acme-clinic")
    assert (await viewer.call("GET", ONE)).status_code == 200
    assert (await auditor.call("GET", "incidents")).status_code == 403
    for who in (viewer, auditor):
        for act in ("acknowledge", "resolve"):
            assert (await who.call("POST", f"{ONE}/{act}", {"If-Match": '"1"'})).status_code == 403
        assert (await who.call("POST", ONE + "/comments", json={"body": "x"})).status_code == 403
    assert (await viewer.call("GET", ONE)).headers["etag"] == '"1"'
