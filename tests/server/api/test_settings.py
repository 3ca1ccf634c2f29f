"""Settings over the API: the nearest level wins, each change names what was read, and no tenant reaches another's."""

import pytest

from tests.devices import Device, Running
from tests.operators import Operator, audited, type_of, with_key

NAME = "checks.backup.max_age_hours"
SITE = "sites/acme-clinic/settings"


async def put(who: Operator, path: str, value: object, etag: str = '"0"') -> int:
    return (await who.call("PUT", f"{path}/{NAME}", {"If-Match": etag}, json={"value": value})).status_code


async def test_the_nearest_level_wins_and_says_where_it_comes_from(device: Device) -> None:
    server = device.server
    box = f"sites/acme-clinic/appliances/{device.appliance_id}/settings"
    root = await with_key(server, "platform_admin", "platform")
    owner, seen = await with_key(server, "owner"), []
    for who, path in ((None, ""), (root, "platform/settings"), (owner, "settings"), (owner, SITE), (owner, box)):
        if who is not None:
            assert await put(who, path, 30 + len(seen)) == 200
        found = (await owner.call("GET", f"{box}/{NAME}")).json()
        seen.append((found["value"], found["origin"], found["own"] is not None))
    near = [(31, "platform", False), (32, "partner", False), (33, "site", False), (34, "appliance", True)]
    assert seen == [(24, "default", False), *near]
    listed = {each["setting"]["name"]: each["value"] for each in (await owner.call("GET", SITE)).json()}
    assert (listed[NAME], listed["checks.time_limit_s"]) == (33, 60)


async def test_a_stop_wins_over_any_nearer_level_and_a_text_over_the_default(server: Running) -> None:
    owner, path = await with_key(server, "owner"), "healing.mode"
    seen = []
    for level, value in ((SITE, "heal"), ("settings", "stop"), (SITE, "observe")):
        etag = (await owner.call("GET", f"{level}/{path}")).headers["etag"]
        made = await owner.call("PUT", f"{level}/{path}", {"If-Match": etag}, json={"value": value})
        found = (await owner.call("GET", f"{SITE}/{path}")).json()
        seen.append((made.status_code, found["value"], found["origin"]))
    assert seen == [(200, "heal", "site"), (200, "stop", "partner"), (200, "stop", "partner")]
    refused = await owner.call("PUT", f"{SITE}/{path}", {"If-Match": '"0"'}, json={"value": "off"})
    assert (refused.status_code, "one of stop, observe, heal" in refused.json()["detail"]) == (422, True)


async def test_a_change_names_what_was_read(server: Running) -> None:
    technician, path = await with_key(server, "technician"), f"{SITE}/{NAME}"
    assert (await technician.call("PUT", path, json={"value": 5})).status_code == 428
    first = await technician.call("PUT", path, {"If-Match": '"0"'}, json={"value": 5})
    assert await put(technician, SITE, 6) == 412
    assert await put(technician, SITE, 6, first.headers["etag"]) == 200
    assert await put(technician, SITE, 7, first.headers["etag"]) == 412
    assert (await technician.call("GET", path)).json()["value"] == 6


async def test_what_is_unmade_counts_no_more_and_its_old_etag_never_again(server: Running) -> None:
    technician, path = await with_key(server, "technician"), f"{SITE}/{NAME}"
    first = await technician.call("PUT", path, {"If-Match": '"0"'}, json={"value": 5})
    gone = await technician.call("DELETE", path, {"If-Match": first.headers["etag"]})
    assert (gone.status_code, gone.json()["value"], gone.headers["etag"]) == (200, 24, '"0"')
    assert await put(technician, SITE, 6) == 200
    assert (await technician.call("DELETE", path, {"If-Match": first.headers["etag"]})).status_code == 412
    assert [action for action, _ in await audited(server)] == ["setting.make", "setting.unmake", "setting.make"]
    assert (await audited(server))[0][1] == f"setting:site:acme-clinic:{NAME}"


@pytest.mark.parametrize("value", ["5", 5.0, True, None, 0, 8761, 10**30, [5]])
async def test_a_value_that_the_setting_does_not_take_is_refused(server: Running, value: object) -> None:
    technician = await with_key(server, "technician")
    assert await put(technician, SITE, value) == 422
    assert await audited(server) == []


async def test_an_unknown_name_is_answered_with_the_known_ones(server: Running) -> None:
    technician = await with_key(server, "technician")
    for method in ("GET", "PUT", "DELETE"):
        answer = await technician.call(method, f"{SITE}/checks.backup", {"If-Match": '"0"'}, json={"value": 1})
        assert (answer.status_code, type_of(answer)) == (422, "setting-unknown")
        assert NAME in answer.json()["detail"]


async def test_only_an_owner_makes_a_partners_settings_and_only_the_platform_its_own(server: Running) -> None:
    technician, owner = await with_key(server, "technician"), await with_key(server, "owner")
    assert await put(technician, "settings", 5) == 403
    assert await put(owner, "platform/settings", 5) == 403
    assert await put(owner, "settings", 5) == 200
    assert await put(await with_key(server, "viewer"), SITE, 5) == 403
    assert (await owner.call("GET", "platform/settings")).status_code == 403


async def test_another_tenants_settings_are_not_there_and_stay(device: Device) -> None:
    server = device.server
    await server.add_site("zeta", "zeta-one")
    await put(await with_key(server, "owner"), "settings", 5)
    stranger = await with_key(server, "owner", "zeta")
    boxes = [f"sites/{site}/appliances/{device.appliance_id}/settings" for site in ("acme-clinic", "zeta-one")]
    for path in (SITE, *boxes):
        assert await put(stranger, path, 9) == 404
        assert (await stranger.call("GET", path)).status_code == 404
    assert (await stranger.call("GET", f"settings/{NAME}")).json()["origin"] == "default"
    assert await audited(server, "zeta") == []
