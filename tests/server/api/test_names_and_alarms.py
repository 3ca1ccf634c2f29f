"""Names of appliances, what an operator must look at, and every waiver of a partner."""

from datetime import UTC, datetime, timedelta

from tests.devices import Device
from tests.operators import audited, with_key


async def test_a_name_is_given_by_who_read_the_last_one(device: Device) -> None:
    technician = await with_key(device.server, "technician")
    path = f"sites/acme-clinic/appliances/{device.appliance_id}"
    etag = (await technician.call("GET", path)).headers["etag"]
    assert (await technician.call("PATCH", path, json={"name": "Front desk"})).status_code == 428
    named = await technician.call("PATCH", path, {"If-Match": etag}, json={"name": "Front desk"})
    assert (named.json()["appliance"]["name"], named.json()["appliance"]["hostname"]) == ("Front desk", "box")
    assert (await technician.call("PATCH", path, {"If-Match": etag}, json={"name": "Other"})).status_code == 412
    bare = await technician.call("PATCH", path, {"If-Match": named.headers["etag"]}, json={"name": None})
    assert bare.json()["appliance"]["name"] is None
    for wrong in ({}, {"name": ""}, {"name": "a\x00"}, {"name": "x" * 201}):
        assert (await technician.call("PATCH", path, {"If-Match": '"3"'}, json=wrong)).status_code == 422
    assert [action for action, _ in await audited(device.server)] == ["appliance.rename"] * 2


async def test_another_partner_names_nothing(device: Device) -> None:
    await device.server.add_site("zeta", "zeta-one")
    stranger = await with_key(device.server, "owner", "zeta")
    for site in ("acme-clinic", "zeta-one"):
        path = f"sites/{site}/appliances/{device.appliance_id}"
        assert (await stranger.call("PATCH", path, {"If-Match": '"1"'}, json={"name": "Mine"})).status_code == 404


async def test_an_appliances_alarms_and_its_silence_are_shown(device: Device) -> None:
    viewer = await with_key(device.server, "viewer")
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync", "alarms": ["rollback"]}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    shown = await viewer.call("GET", f"sites/acme-clinic/appliances/{device.appliance_id}")
    assert shown.json()["appliance"]["alarms"] == ["rollback"]
    assert (await viewer.call("GET", "appliances/silent")).json() == []
    async with device.server.db.partner("acme") as scope:
        await scope.conn.execute("UPDATE appliances SET enrolled_at = now() - interval '3 days'")
    (silent,) = (await viewer.call("GET", "appliances/silent")).json()
    assert (silent["id"], silent["last_receipt_at"]) == (device.appliance_id, None)


async def test_entries_that_the_server_does_not_understand_are_listed(device: Device) -> None:
    device.seal()
    for _ in range(3):
        device.check_run("backup", "no such word")
    assert (await device.send(device.batch(0))).status_code == 200
    viewer = await with_key(device.server, "viewer")
    assert [each["seq"] for each in await viewer.walk("evidence/flagged")] == [3, 2, 1]
    await device.server.add_site("zeta", "zeta-one")
    assert await (await with_key(device.server, "owner", "zeta")).walk("evidence/flagged") == []


async def test_a_partners_waivers_are_listed_over_all_its_sites(device: Device) -> None:
    server = device.server
    until = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    for partner, site in (("acme", "acme-clinic"), ("acme", "acme-two"), ("acme", "acme-three"), ("zeta", "zeta-one")):
        if site != "acme-clinic":
            await server.add_site(partner, site)
        body = {"check_id": "backup", "reason": "moved", "expires_at": until}
        await (await with_key(server, "owner", partner)).call("POST", f"sites/{site}/waivers", json=body)
    viewer = await with_key(server, "viewer")
    assert [each["site_id"] for each in await viewer.walk("waivers")] == ["acme-three", "acme-two", "acme-clinic"]
    assert (await viewer.call("GET", "waivers?total=true")).json()["total"] == 3
