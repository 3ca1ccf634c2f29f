"""Check states, score and snapshots over the API."""

import time

import pytest

from tests.devices import Device
from tests.operators import type_of, with_key, with_session

CHECKS, SNAPSHOTS = "sites/acme-clinic/checks", "sites/acme-clinic/snapshots"


async def send_runs(device: Device, *runs: tuple[str, str]) -> None:
    for check, status in runs:
        first = len(device.payloads)
        if not first:
            device.seal()
        device.check_run(check, status, at=time.time_ns() // 1_000_000)
        assert (await device.send(device.batch(first))).status_code == 200


async def test_the_score_comes_with_its_numbers_and_the_states_behind_it(device: Device) -> None:
    await send_runs(device, ("backup", "pass"), ("firewall", "fail"), ("logging", "unknown"))
    viewer = await with_key(device.server, "viewer")
    found = (await viewer.call("GET", CHECKS + "?limit=2")).json()
    assert (found["score"]["value"], found["score"]["passed"], found["score"]["unknown"]) == (0.5, 1, 4)
    assert ([state["check_id"] for state in found["items"]], found["total"]) == (["firewall", "logging"], 3)
    rest = (await viewer.call("GET", CHECKS + "?limit=2&offset=2")).json()
    assert [state["check_id"] for state in rest["items"]] == ["backup"]


async def test_without_a_fresh_state_there_is_no_score(device: Device) -> None:
    viewer = await with_key(device.server, "viewer")
    assert (await viewer.call("GET", CHECKS)).json()["score"]["value"] is None


async def test_a_cursor_walks_all_snapshots_newest_first(device: Device) -> None:
    await send_runs(device, *(("backup", status) for status in ("pass", "fail", "unknown", "pass", "fail")))
    viewer = await with_key(device.server, "viewer")
    found = [snapshot["backup_status"] for snapshot in await viewer.walk(SNAPSHOTS)]
    assert found == [False, True, None, False, True]
    assert (await viewer.call("GET", SNAPSHOTS + "?limit=1&total=true")).json()["total"] == 5


@pytest.mark.parametrize("query", ["offset=10001", "cursor=AAAA", "limit=0"])
async def test_a_list_refuses_what_it_does_not_take(device: Device, query: str) -> None:
    viewer = await with_key(device.server, "viewer")
    for path in (CHECKS, SNAPSHOTS):
        answer = await viewer.call("GET", f"{path}?{query}")
        assert (answer.status_code, type_of(answer).endswith("invalid")) == (422, True)


async def test_an_auditor_reads_their_site_and_another_partner_nothing(device: Device) -> None:
    server = device.server
    await server.add_site("zeta", "zeta-one")
    await server.add_site("acme", "acme-other")
    auditor = await with_session(server, "auditor", "acme-clinic")
    stranger = await with_key(server, "owner", "zeta")
    for path in (CHECKS, SNAPSHOTS):
        assert (await auditor.call("GET", path)).status_code == 200
        assert (await auditor.call("GET", path.replace("clinic", "other"))).status_code == 404
        assert (await stranger.call("GET", path)).status_code == 404
