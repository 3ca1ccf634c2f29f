"""Sites over the API."""

from typing import Any

import pytest

from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session

INCIDENT: dict[str, Any] = {
    "epoch": 1,
    "revision": 1,
    "host_id": "box",
    "incident_type": "backup_stale",
    "raw_data": {},
    "pattern_signature": "0123456789abcdef",
    "last_seen_at_ms": 1_790_000_000_000,
    "created_at_ms": 1_790_000_000_000,
}


async def names(server: Running, partner_id: str = "acme") -> list[str]:
    async with server.db.partner(partner_id) as scope:
        return [row["name"] for row in await scope.conn.fetch("SELECT name FROM sites ORDER BY id")]


async def test_a_cursor_walks_all_sites_newest_first_without_gap_or_double(server: Running) -> None:
    for number in range(6):
        await server.add_site("acme", f"s{number}")
    viewer = await with_key(server, "viewer")
    found = [site["id"] for site in await viewer.walk("sites")]
    assert found == ["s5", "s4", "s3", "s2", "s1", "s0", "acme-clinic"]
    first = await viewer.call("GET", "sites?limit=1&offset=2&total=true")
    assert [site["id"] for site in first.json()["items"]] == ["s3"]
    assert first.json()["total"] == 7


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("offset=10001", "query-invalid"),
        ("cursor=AAAA", "cursor-invalid"),
        ("cursor=%C3%A4", "cursor-invalid"),
        ("limit=0", "query-invalid"),
        ("limit=201", "query-invalid"),
        ("colour=red", "query-invalid"),
        ("limit=1&limit=2", "query-invalid"),
    ],
)
async def test_a_list_refuses_what_it_does_not_take(server: Running, query: str, kind: str) -> None:
    viewer = await with_key(server, "viewer")
    answer = await viewer.call("GET", f"sites?{query}")
    assert (answer.status_code, type_of(answer)) == (422, kind)


async def test_a_cursor_of_another_partner_is_refused(server: Running) -> None:
    for partner in ("acme", "zeta"):
        for number in range(2):
            await server.add_site(partner, f"{partner}-{number}")
    theirs = await (await with_key(server, "viewer", "zeta")).call("GET", "sites?limit=1")
    answer = await (await with_key(server, "viewer")).call("GET", f"sites?cursor={theirs.json()['next']}")
    assert type_of(answer) == "cursor-invalid"


async def test_a_site_is_made_and_written_down(server: Running) -> None:
    technician = await with_key(server, "technician")
    answer = await technician.call("POST", "sites", json={"id": "north", "name": "North"})
    assert (answer.status_code, answer.headers["etag"], answer.json()["name"]) == (201, '"1"', "North")
    assert ("site.create", "north") in await audited(server)


async def test_the_same_key_twice_makes_one_site(server: Running) -> None:
    technician, key = await with_key(server, "technician"), {"Idempotency-Key": "k1"}
    first = await technician.call("POST", "sites", key, json={"name": "North"})
    again = await technician.call("POST", "sites", key, json={"name": "North"})
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert sorted(await names(server)) == ["Acme-Clinic", "North"]
    assert len(await audited(server)) == 1
    other = await technician.call("POST", "sites", key, json={"name": "South"})
    assert (other.status_code, type_of(other)) == (409, "idempotency-conflict")


async def test_a_taken_id_is_refused_even_when_another_partner_has_it(server: Running) -> None:
    await server.add_site("zeta", "zeta-one")
    technician = await with_key(server, "technician")
    for taken in ("acme-clinic", "zeta-one"):
        answer = await technician.call("POST", "sites", {"Idempotency-Key": taken}, json={"id": taken, "name": "x"})
        assert (answer.status_code, type_of(answer)) == (409, "already-exists")
    assert await audited(server) == []


async def test_a_rename_needs_the_revision_that_was_read(server: Running) -> None:
    technician = await with_key(server, "technician")
    path, body = "sites/acme-clinic", {"name": "Clinic"}
    assert (await technician.call("PATCH", path, json=body)).status_code == 428
    etag = (await technician.call("GET", path)).headers["etag"]
    assert (await technician.call("PATCH", path, {"If-Match": etag}, json=body)).headers["etag"] == '"2"'
    late = await technician.call("PATCH", path, {"If-Match": etag}, json={"name": "Late"})
    assert (late.status_code, await names(server)) == (412, ["Clinic"])
    assert await audited(server) == [("site.rename", "acme-clinic")]


async def test_another_partners_site_is_not_there(server: Running) -> None:
    await server.add_site("zeta", "zeta-one")
    owner = await with_key(server, "owner")
    for path in ("sites/zeta-one", "sites/zeta-one/statistics", "sites/no-such", "sites/UPPER"):
        assert (await owner.call("GET", path)).status_code == 404
    answer = await owner.call("PATCH", "sites/zeta-one", {"If-Match": '"1"'}, json={"name": "mine"})
    assert (answer.status_code, await names(server, "zeta")) == (404, ["Zeta-One"])


async def test_a_viewer_changes_nothing_and_nobody_without_a_credential_reads(server: Running) -> None:
    viewer = await with_key(server, "viewer")
    assert (await viewer.call("POST", "sites", json={"name": "x"})).status_code == 403
    assert (await viewer.call("PATCH", "sites/acme-clinic", json={"name": "x"})).status_code == 403
    assert (await server.client.get("/api/v1/sites")).status_code == 401
    assert await names(server) == ["Acme-Clinic"]


async def test_a_session_without_a_second_factor_changes_nothing(server: Running) -> None:
    owner = await with_session(server, "owner", second_factor=False)
    answer = await owner.call("POST", "sites", json={"name": "x"})
    assert (answer.status_code, type_of(answer)) == (403, "second-factor-needed")
    assert (await owner.call("GET", "sites")).status_code == 200


async def test_an_auditor_reads_their_own_sites_only(server: Running) -> None:
    await server.add_site("acme", "acme-other")
    auditor = await with_session(server, "auditor", "acme-clinic")
    assert (await auditor.call("GET", "sites/acme-clinic")).status_code == 200
    assert (await auditor.call("GET", "sites/acme-other")).status_code == 404
    assert (await auditor.call("GET", "sites")).status_code == 403


async def test_a_platform_admin_says_which_partner_is_meant(server: Running) -> None:
    admin = await with_key(server, "platform_admin", "platform")
    assert (await admin.call("GET", "sites")).status_code == 422
    assert (await admin.call("GET", "sites?partner=platform")).status_code == 422
    assert [site["id"] for site in (await admin.call("GET", "sites?partner=acme")).json()["items"]] == ["acme-clinic"]


async def test_a_device_token_is_no_operators_credential(device: Device) -> None:
    answer = await device.server.client.get("/api/v1/sites", headers=device.headers)
    assert answer.status_code == 401


async def test_statistics_count_the_window_by_how_incidents_were_settled(server: Running, device: Device) -> None:
    ends = [("L1", "success"), ("L2", "success"), ("L3", "failed"), (None, None)]
    reports = [
        INCIDENT | {"id": f"i{number}", "severity": "high", "resolution_level": level, "outcome": outcome}
        for number, (level, outcome) in enumerate(ends)
    ]
    old = INCIDENT | {"id": "old", "severity": "low", "created_at_ms": 1_600_000_000_000}
    assert (await device.call("PUT", "incidents", json={"incidents": [*reports, old]})).status_code == 200
    viewer = await with_key(server, "viewer")
    window = "since=2026-09-01T00:00:00Z&until=2026-11-01T00:00:00Z"
    found = (await viewer.call("GET", f"sites/acme-clinic/statistics?{window}")).json()
    assert found["window"] == {"total": 4, "success_count": 2, "l1_count": 1, "l2_count": 1, "l3_count": 1}
    assert (found["totals"]["incidents"], found["totals"]["open_high"]) == (5, 4)


@pytest.mark.parametrize(
    "window",
    ["since=2026-01-01", "since=0001-01-01T00:00:00%2B14:00", "until=2020-01-01T00:00:00Z&since=2021-01-01T00:00:00Z"],
)
async def test_a_window_that_is_none_is_refused(server: Running, window: str) -> None:
    viewer = await with_key(server, "viewer")
    answer = await viewer.call("GET", f"sites/acme-clinic/statistics?{window}")
    assert (answer.status_code, type_of(answer)) == (422, "query-invalid")
