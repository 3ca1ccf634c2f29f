"""Signed policies: made when what they say has changed, for whom it concerns, by the newest key."""

import asyncio
from typing import Any

import httpx
import pytest

from ccserver import keys, marks, policy_making, restores
from ccserver.config import Config
from ccserver.queries import appliances
from ccserver.scope import widen
from ccshared import policy
from ccshared.policy import Policy
from tests.devices import Device, Running
from tests.operators import Operator, audited, type_of, with_key

HOURS = "checks.backup.max_age_hours"


async def check_in(device: Device) -> dict[str, Any]:
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    answer = await device.call("POST", "checkin", json=said)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def etag(device: Device) -> int:
    return int((await check_in(device))["policy_etag"])


def opened(device: Device, answer: httpx.Response) -> Policy:
    assert answer.status_code == 200, answer.text
    return policy.read(answer.json(), [device.server.keys.order.public_key])


async def fetched(device: Device) -> Policy:
    return opened(device, await device.call("GET", "policy"))


async def put(who: Operator, path: str, name: str, value: object) -> None:
    now = await who.call("GET", f"{path}/{name}")
    done = await who.call("PUT", f"{path}/{name}", {"If-Match": now.headers["etag"]}, json={"value": value})
    assert done.status_code == 200, done.text


def box(device: Device, rest: str) -> str:
    return f"sites/acme-clinic/appliances/{device.appliance_id}/{rest}"


async def test_a_policy_is_signed_for_its_appliance_and_named_by_the_check_in(device: Device) -> None:
    found = await fetched(device)
    assert (found.site, found.appliance, found.mode) == ("acme-clinic", device.appliance_id, "observe")
    assert (found.window, found.canary, found.refused) == (None, False, ())
    assert found.settings[HOURS] == 24
    assert {rule.source for rule in found.rules} == {"built-in"}
    assert "restart-logging" in {runbook.id for runbook in found.runbooks}
    assert await etag(device) == found.version


async def test_a_policy_that_is_known_is_not_sent_again(device: Device) -> None:
    first = await device.call("GET", "policy")
    again = await device.call(
        "GET",
        "policy",
    )
    assert again.content == first.content
    headers = device.headers | {"If-None-Match": first.headers["etag"]}
    known = await device.server.client.get("/agent/v1/policy", headers=headers)
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", first.headers["etag"])


async def test_a_new_version_is_made_only_when_it_says_something_else(device: Device) -> None:
    technician, site = await with_key(device.server, "technician"), "sites/acme-clinic/settings"
    first = await etag(device)
    await put(technician, site, HOURS, 24)  # as it is by default
    assert await etag(device) == first
    await put(technician, site, HOURS, 30)
    assert await etag(device) > first
    assert (await fetched(device)).settings[HOURS] == 30


@pytest.mark.parametrize("level", ["platform", "partner", "site", "appliance"])
async def test_the_stop_switch_reaches_an_appliance_within_one_check_in(device: Device, level: str) -> None:
    server = device.server
    owner, root = await with_key(server, "owner"), await with_key(server, "platform_admin", "platform")
    at = {"platform": "platform/settings", "partner": "settings", "site": "sites/acme-clinic/settings"}
    await put(owner, box(device, "settings"), "healing.mode", "heal")
    before = await fetched(device)
    await put(root if level == "platform" else owner, at.get(level, box(device, "settings")), "healing.mode", "stop")
    assert await etag(device) > before.version
    assert (before.mode, (await fetched(device)).mode) == ("heal", "stop")


async def test_a_stop_that_is_set_while_a_policy_is_made_reaches_the_appliance_all_the_same(device: Device) -> None:
    owner = await with_key(device.server, "owner")
    await put(owner, "settings", "healing.mode", "heal")
    before = await fetched(device)
    async with device.server.db.appliance("acme-clinic", device.appliance_id) as scope:
        made_from = (await appliances.lock_policy(scope)).basis
    assert made_from is not None
    await put(owner, "settings", HOURS, 30)  # so the policy is to be made anew
    async with device.server.db.appliance("acme-clinic", device.appliance_id) as scope:
        held = await appliances.lock_policy(scope)
        stopping = asyncio.create_task(put(owner, "settings", "healing.mode", "stop"))
        await asyncio.sleep(1)  # what the policy is made from was read before
        await appliances.keep_policy(await widen(scope), device.appliance_id, held.version, made_from)
    await stopping
    assert await etag(device) > before.version
    assert (await fetched(device)).mode == "stop"


async def test_a_setting_concerns_only_whom_it_is_for(device: Device) -> None:
    server = device.server
    await server.add_site("acme", "acme-two")
    await server.add_site("zeta", "zeta-one")
    others = [await Device.enrolled(server, *of) for of in (("acme", "acme-two"), ("zeta", "zeta-one"))]
    before = [await etag(each) for each in (device, *others)]
    await put(await with_key(server, "owner"), "sites/acme-clinic/settings", HOURS, 30)
    after = [await etag(each) for each in (device, *others)]
    assert (after[0] > before[0], after[1:] == before[1:]) == (True, True)
    await put(await with_key(server, "owner"), "settings", HOURS, 31)
    last = [await etag(each) for each in (device, *others)]
    assert (last[0] == after[0], last[1] > after[1], last[2] == after[2]) == (True, True, True)


async def test_a_setting_that_is_unmade_counts_no_more(device: Device) -> None:
    owner = await with_key(device.server, "owner")
    await put(owner, "settings", HOURS, 30)
    before = await fetched(device)
    await owner.call(
        "DELETE", f"settings/{HOURS}", {"If-Match": (await owner.call("GET", f"settings/{HOURS}")).headers["etag"]}
    )
    after = await fetched(device)
    assert (before.settings[HOURS], after.settings[HOURS], after.version > before.version) == (30, 24, True)


async def add_rule(server: Running, name: str, status: str, canary: str | None = None, conditions: str = "") -> None:
    said = conditions or '[{"field": "incident_type", "operator": "eq", "value": "backup_stale"}]'
    async with server.db.partner("acme") as scope:
        await scope.conn.execute(
            """
            INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status, canary_appliance_id)
            VALUES ('acme', $1, repeat('a', 16), 'restart-logging', $2::jsonb, $3, $4)
            """,
            name,
            said,
            status,
            canary,
        )


async def learned(device: Device) -> tuple[bool, list[str]]:
    found = await fetched(device)
    return found.canary, [rule.id for rule in found.rules if rule.source == "learned"]


async def test_a_rule_on_trial_reaches_its_canary_alone_and_an_active_one_all_of_the_partner(device: Device) -> None:
    server = device.server
    await server.add_site("acme", "acme-two")
    await server.add_site("zeta", "zeta-one")
    other, strange = [await Device.enrolled(server, *of) for of in (("acme", "acme-two"), ("zeta", "zeta-one"))]
    await add_rule(server, "r1", "candidate")
    before = await etag(other)
    await add_rule(server, "r2", "canary", device.appliance_id)
    assert [await learned(each) for each in (device, other)] == [(True, ["r2"]), (False, [])]
    assert await etag(other) == before
    async with server.db.partner("acme") as scope:
        await scope.conn.execute("UPDATE rules SET status = 'active' WHERE id = 'r2'")
    assert [await learned(each) for each in (device, other, strange)] == [(False, ["r2"]), (False, ["r2"]), (False, [])]
    async with server.db.partner("acme") as scope:
        await scope.conn.execute("UPDATE rules SET status = 'demoted' WHERE id = 'r2'")
    assert [await learned(each) for each in (device, other)] == [(False, [])] * 2


async def test_a_rule_that_cannot_be_read_keeps_no_other_from_being_heard(device: Device) -> None:
    await add_rule(device.server, "bad", "active", conditions='[{"field": "x", "operator": "regex", "value": "("}]')
    await add_rule(device.server, "good", "active")
    assert await learned(device) == (False, ["good"])


async def test_however_many_rules_a_partner_has_a_stop_is_heard(device: Device) -> None:
    async with device.server.db.partner("acme") as scope:
        await scope.conn.execute(
            """
            INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status)
            SELECT 'acme', 'learned-' || hash, left(hash, 16), 'restart-logging', jsonb_build_array(
                jsonb_build_object('field', 'pattern_signature', 'operator', 'eq', 'value', left(hash, 16))), 'active'
            FROM (SELECT md5(n::text) AS hash FROM generate_series(1, 2500) n) AS made
            """
        )
    await put(await with_key(device.server, "owner"), "settings", "healing.mode", "stop")
    found = await fetched(device)
    assert (found.mode, len([rule for rule in found.rules if rule.source == "learned"]) > 100) == ("stop", True)
    assert "restart-logging" in {runbook.id for runbook in found.runbooks}


async def test_a_policy_that_cannot_be_made_undoes_no_check_in(device: Device) -> None:
    before = await etag(device)
    async with device.server.db.platform() as scope:
        await scope.conn.execute("UPDATE appliances SET policy_basis = NULL, last_checkin = NULL")
        await scope.conn.execute(
            "INSERT INTO settings (partner_id, level, target_id, name, value, updated_by)"
            " VALUES ('acme', 'partner', 'acme', 'healing.window_days', '\"x\"', 'test')"
        )
    assert await etag(device) == before
    async with device.server.db.platform() as scope:
        assert await scope.conn.fetchval("SELECT last_checkin FROM appliances") is not None


async def test_after_the_database_was_put_back_each_appliance_gets_a_policy_newer_than_any_it_had(
    device: Device, settings: Config
) -> None:
    owner, site = await with_key(device.server, "owner"), "sites/acme-clinic/settings"
    await put(owner, site, "healing.mode", "stop")
    backup = await fetched(device)
    await put(owner, site, "healing.mode", "heal")
    newest = await fetched(device)
    async with device.server.db.platform() as scope:  # back to when it said stop
        await scope.conn.execute("UPDATE settings SET value = '\"stop\"' WHERE name = 'healing.mode'")
        await scope.conn.execute("UPDATE appliances SET policy_version = $1", backup.version)
    known = marks.load(settings.key_file)
    known.known = 1 << 40
    await restores.check(device.server.db, known)
    assert await etag(device) > newest.version
    assert ((await fetched(device)).mode, (await fetched(device)).settings) == ("stop", backup.settings)


async def test_two_at_once_make_one_version(device: Device) -> None:
    await asyncio.gather(*(device.call("GET", "policy") for _ in range(4)))
    async with device.server.db.platform() as scope:
        assert await scope.conn.fetchval("SELECT count(*) FROM policies") == 1


async def test_versions_grow_though_the_clock_stands_still(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await etag(device)
    monkeypatch.setattr(policy_making.time, "time_ns", lambda: 1_000_000)
    await put(await with_key(device.server, "owner"), "settings", HOURS, 30)
    assert await etag(device) == first + 1


async def test_after_a_rotation_policies_are_signed_by_the_new_key(device: Device, settings: Config) -> None:
    before = await fetched(device)
    after = keys.rotate(settings.key_file, "order")
    assert await etag(device) > before.version
    envelope = (await device.call("GET", "policy")).json()
    assert policy.read(envelope, [after.order.public_key]).settings == before.settings
    with pytest.raises(policy.BadPolicyError):
        policy.read(envelope, [device.server.keys.order.public_key])


async def test_versions_are_listed_compared_and_their_settings_made_again(device: Device) -> None:
    owner = await with_key(device.server, "owner")
    first = await etag(device)
    await put(owner, "settings", HOURS, 30)
    await put(owner, "settings", "healing.mode", "heal")
    await put(owner, "settings", "healing.window_days", "06")
    second = await etag(device)
    listed = await owner.walk(box(device, "policies"))
    assert [each["version"] for each in listed] == [second, first]
    compared = await owner.call("GET", box(device, f"policies/{second}/differences"))
    changed = {each["part"]: (each["before"], each["after"]) for each in compared.json()}
    assert (changed["mode"], changed[f"settings.{HOURS}"]) == (("observe", "heal"), (24, 30))
    assert changed.keys() == {"mode", "window", f"settings.{HOURS}"}
    restored = await owner.call("POST", box(device, f"policies/{first}/restore"))
    assert {each["name"] for each in restored.json()} == {HOURS, "healing.mode", "healing.window_days"}
    again = await fetched(device)
    assert (again.mode, again.window, again.settings[HOURS], again.version > second) == ("observe", None, 24, True)
    assert ("policy.restore", device.appliance_id) in await audited(device.server)


async def test_what_stops_healing_above_stops_it_after_a_restore_too(device: Device) -> None:
    owner = await with_key(device.server, "owner")
    await put(owner, box(device, "settings"), "healing.mode", "heal")
    first = await etag(device)
    await put(owner, "settings", "healing.mode", "stop")
    await owner.call("POST", box(device, f"policies/{first}/restore"))
    assert (await fetched(device)).mode == "stop"


async def test_another_partners_policies_are_not_there(device: Device) -> None:
    version = await etag(device)
    await device.server.add_site("zeta", "zeta-one")
    stranger = await with_key(device.server, "owner", "zeta")
    for site in ("acme-clinic", "zeta-one"):
        place = f"sites/{site}/appliances/{device.appliance_id}/policies"
        for path in ("", f"/{version}", f"/{version}/differences?against={version}"):
            assert (await stranger.call("GET", place + path)).status_code == 404
        assert (await stranger.call("POST", f"{place}/{version}/restore")).status_code == 404


async def seen(device: Device, check: str, facts: dict[str, Any]) -> None:
    body = {"check": check, "host": "box", "status": "fail", "severity": "high", "reason": "differs", "since": 1}
    first = len(device.payloads)
    device.seal(body=body | {"facts": facts, "hipaa_controls": []})
    if first == 0:
        device.seal(body=body | {"facts": facts, "hipaa_controls": []})
    assert (await device.send(device.batch(first))).status_code == 200


async def test_a_baseline_is_approved_as_it_was_seen(device: Device) -> None:
    technician = await with_key(device.server, "technician")
    await seen(device, "firewall", {"ruleset_sha256": "a" * 64, "policies": ["input drop"]})
    listed = {each["name"]: each for each in (await technician.call("GET", box(device, "baselines"))).json()}
    shown = listed["checks.firewall.baseline_sha256"]
    assert (shown["approved"], shown["proposed"], shown["differs"]) == ("", "a" * 64, True)
    assert shown["facts"]["policies"] == ["input drop"]
    assert listed["checks.antivirus.binary_sha256"]["proposed"] is None
    await seen(device, "firewall", {"ruleset_sha256": "b" * 64})
    asked = {"name": "checks.firewall.baseline_sha256", "sha256": "a" * 64}
    stale = await technician.call("POST", box(device, "baselines"), json=asked)
    assert (stale.status_code, type_of(stale)) == (412, "changed-meanwhile")
    done = await technician.call("POST", box(device, "baselines"), json=asked | {"sha256": "b" * 64})
    assert (done.status_code, [each["differs"] for each in done.json()]) == (200, [False, False])
    assert (await fetched(device)).settings["checks.firewall.baseline_sha256"] == "b" * 64
    assert [action for action, _ in await audited(device.server)] == ["baseline.approve"]


async def test_a_viewer_approves_no_baseline(device: Device) -> None:
    viewer = await with_key(device.server, "viewer")
    asked = {"name": "checks.firewall.baseline_sha256", "sha256": "a" * 64}
    assert (await viewer.call("POST", box(device, "baselines"), json=asked)).status_code == 403
