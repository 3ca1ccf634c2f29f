"""Waivers over the API, and what they do to a score."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session
from tests.server.api.test_checks import CHECKS, send_runs

PATH = "sites/acme-clinic/waivers"


def waiver(**changes: Any) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    return {"check_id": "firewall", "reason": "the switch does it", "expires_at": until} | changes


async def score(device: Device) -> tuple[float | None, int, int, int]:
    found = (await (await with_key(device.server, "viewer")).call("GET", CHECKS)).json()["score"]
    return found["value"], found["passed"], found["failed"], found["waived"]


async def test_a_waived_check_counts_in_neither_sum_until_it_is_revoked(device: Device) -> None:
    await send_runs(device, ("backup", "pass"), ("firewall", "fail"))
    technician = await with_key(device.server, "technician")
    made = await technician.call("POST", PATH, json=waiver())
    assert (made.status_code, await score(device)) == (201, (1.0, 1, 0, 1))
    path = f"{PATH}/{made.json()['id']}/revoke"
    assert (await technician.call("POST", path)).status_code == 428
    assert (await technician.call("POST", path, {"If-Match": '"7"'})).status_code == 412
    assert (await technician.call("POST", path, {"If-Match": made.headers["etag"]})).status_code == 200
    assert await score(device) == (0.5, 1, 1, 0)
    assert [action for action, _ in await audited(device.server)] == ["waiver.create", "waiver.revoke"]


async def test_a_waived_passing_check_counts_in_neither_sum_either(device: Device) -> None:
    await send_runs(device, ("firewall", "pass"))
    await (await with_key(device.server, "technician")).call("POST", PATH, json=waiver())
    assert await score(device) == (None, 0, 0, 1)


async def test_a_waiver_of_one_host_leaves_the_others(device: Device) -> None:
    await send_runs(device, ("firewall", "fail"))
    technician = await with_key(device.server, "technician")
    await technician.call("POST", PATH, json=waiver(host_id="another"))
    assert await score(device) == (0.0, 0, 1, 0)
    await technician.call("POST", PATH, json=waiver(host_id="box"))
    assert await score(device) == (None, 0, 0, 1)


async def test_an_expired_waiver_counts_no_more(device: Device) -> None:
    await send_runs(device, ("firewall", "fail"))
    await (await with_key(device.server, "technician")).call("POST", PATH, json=waiver())
    async with device.server.db.partner("acme") as scope:
        await scope.conn.execute("UPDATE waivers SET expires_at = now()")
    assert await score(device) == (0.0, 0, 1, 0)


async def test_the_same_key_twice_makes_one_waiver_and_a_cursor_walks_all(server: Running) -> None:
    technician, key, body = await with_key(server, "technician"), {"Idempotency-Key": "w"}, waiver()
    first, again = [await technician.call("POST", PATH, key, json=body) for _ in range(2)]
    assert first.json() == again.json()
    more = [(await technician.call("POST", PATH, json=waiver())).json()["id"] for _ in range(4)]
    assert [each["id"] for each in await technician.walk(PATH)] == [*reversed(more), first.json()["id"]]
    for query in ("offset=10001", "cursor=AAAA"):
        assert (await technician.call("GET", f"{PATH}?{query}")).status_code == 422


@pytest.mark.parametrize(
    "change",
    [
        {"reason": ""},
        {"check_id": "FIRE WALL"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2999-01-01T00:00:00Z"},
        {"expires_at": "0001-01-01T00:00:00+14:00"},
        {"expires_at": "2027-01-01T00:00:00"},
        {"host_id": "a\x00"},
    ],
)
async def test_a_waiver_without_reason_or_end_is_refused(server: Running, change: dict[str, str]) -> None:
    answer = await (await with_key(server, "technician")).call("POST", PATH, json=waiver(**change))
    assert (answer.status_code, type_of(answer)) == (422, "body-invalid")
    assert await audited(server) == []


async def test_another_partners_waiver_is_not_there_and_stays(device: Device) -> None:
    server = device.server
    made = (await (await with_key(server, "technician")).call("POST", PATH, json=waiver())).json()
    await server.add_site("zeta", "zeta-one")
    stranger = await with_key(server, "owner", "zeta")
    for site in ("acme-clinic", "zeta-one"):
        path = f"sites/{site}/waivers/{made['id']}"
        assert (await stranger.call("GET", path)).status_code == 404
        assert (await stranger.call("POST", path + "/revoke", {"If-Match": '"1"'})).status_code == 404
    assert (await stranger.call("GET", PATH)).status_code == 404
    assert (await stranger.call("POST", PATH, json=waiver())).status_code == 404
    assert [each["revoked_at"] for each in await (await with_key(server, "viewer")).walk(PATH)] == [None]


async def test_viewers_and_auditors_read_waivers_and_make_none(server: Running) -> None:
    made = (await (await with_key(server, "technician")).call("POST", PATH, json=waiver())).json()
    for who in (await with_key(server, "viewer"), await with_session(server, "auditor", "acme-clinic")):
        assert (await who.call("GET", f"{PATH}/{made['id']}")).status_code == 200
        assert (await who.call("POST", PATH, json=waiver())).status_code == 403
        assert (await who.call("POST", f"{PATH}/{made['id']}/revoke", {"If-Match": '"1"'})).status_code == 403
