"""Appliances over the API."""

from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session


async def test_a_cursor_walks_all_appliances_and_a_site_shows_its_own(server: Running) -> None:
    await server.add_site("acme", "acme-other")
    made = [(await Device.enrolled(server, "acme", "acme-clinic")).appliance_id for _ in range(3)]
    other = (await Device.enrolled(server, "acme", "acme-other")).appliance_id
    viewer = await with_key(server, "viewer")
    assert [each["appliance"]["id"] for each in await viewer.walk("appliances")] == [other, *reversed(made)]
    assert [each["appliance"]["id"] for each in await viewer.walk("sites/acme-clinic/appliances")] == made[::-1]
    counted = await viewer.call("GET", "sites/acme-clinic/appliances?total=true&limit=1")
    assert counted.json()["total"] == 3


async def test_a_lists_cursor_opens_no_other_list(server: Running, device: Device) -> None:
    await Device.enrolled(server, "acme", "acme-clinic")
    viewer = await with_key(server, "viewer")
    cursor = (await viewer.call("GET", "appliances?limit=1")).json()["next"]
    answer = await viewer.call("GET", f"sites/acme-clinic/appliances?cursor={cursor}")
    assert (answer.status_code, type_of(answer)) == (422, "cursor-invalid")
    assert (await viewer.call("GET", "appliances?offset=10001")).status_code == 422


async def test_revocation_is_immediate_written_down_once_and_may_be_repeated(device: Device) -> None:
    server = device.server
    technician = await with_key(server, "technician")
    path = f"sites/acme-clinic/appliances/{device.appliance_id}"
    first = await technician.call("POST", path + "/revoke")
    again = await technician.call("POST", path + "/revoke")
    assert first.json()["appliance"]["revoked_at"] == again.json()["appliance"]["revoked_at"] is not None
    assert (await device.call("GET", "log")).status_code == 401
    assert await audited(server) == [("appliance.revoke", device.appliance_id)]


async def test_an_appliance_shows_its_state_and_no_key(device: Device) -> None:
    viewer = await with_key(device.server, "viewer")
    answer = await viewer.call("GET", f"sites/acme-clinic/appliances/{device.appliance_id}")
    assert answer.json()["state"] == "never"
    assert device.public_key.hex() not in answer.text


async def test_another_partners_or_sites_appliance_is_not_there(device: Device) -> None:
    server = device.server
    await server.add_site("zeta", "zeta-one")
    await server.add_site("acme", "acme-other")
    stranger, owner = await with_key(server, "owner", "zeta"), await with_key(server, "owner")
    for who, site in ((stranger, "acme-clinic"), (stranger, "zeta-one"), (owner, "acme-other")):
        path = f"sites/{site}/appliances/{device.appliance_id}"
        assert (await who.call("GET", path)).status_code == 404
        assert (await who.call("POST", path + "/revoke")).status_code == 404
    assert (await device.call("GET", "log")).status_code == 200
    assert (await stranger.call("GET", "appliances")).json()["items"] == []
    assert await audited(server) == await audited(server, "zeta") == []


async def test_viewers_and_auditors_revoke_nothing(device: Device) -> None:
    server = device.server
    path = f"sites/acme-clinic/appliances/{device.appliance_id}/revoke"
    for who in (await with_key(server, "viewer"), await with_session(server, "auditor", "acme-clinic")):
        assert (await who.call("POST", path)).status_code == 403
    assert (await device.call("GET", "log")).status_code == 200
