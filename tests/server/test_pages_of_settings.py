"""Pages of settings and the switches of healing at each level, of policies, and of baselines."""

from collections.abc import AsyncIterator

import pytest

from ccshared.vocabulary import Role
from tests.devices import Device, Running
from tests.operators import audited
from tests.pages import done, fields_of, page, post, words
from tests.people import Person, add, signed_in
from tests.server.test_policies import seen

SITE = "/sites/acme-clinic/settings"
NAME = "checks.patching.max_age_days"


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


def box(device: Device, page_of: str) -> str:
    return f"/sites/acme-clinic/appliances/{device.appliance_id}/{page_of}"


async def make(who: Person, path: str, name: str, value: str, revision: str = "0") -> None:
    await done(who, path, name=name, value=value, revision=revision)


async def test_the_nearest_level_wins_and_each_page_says_where_a_value_comes_from(
    owner: Person, device: Device
) -> None:
    await make(owner, "/settings", NAME, "41")
    assert "41 days from the partner" in words(await page(owner, SITE))
    await make(owner, SITE, NAME, "42")
    assert "42 days from the site" in words(await page(owner, box(device, "settings")))
    assert "42 days made here by user:olga@acme.example" in words(await page(owner, SITE))


async def test_a_setting_is_unmade_and_the_next_level_counts(server: Running, owner: Person) -> None:
    await make(owner, SITE, NAME, "42")
    await done(owner, SITE + "/unmake", **fields_of(await page(owner, SITE), SITE + "/unmake"))
    assert "30 days the default" in words(await page(owner, SITE))
    actions = [action for action, _ in await audited(server)]
    assert (actions.count("setting.make"), actions.count("setting.unmake")) == (1, 1)


@pytest.mark.parametrize("path", [SITE, SITE + "/unmake"])
async def test_a_form_of_before_changes_nothing_and_says_so(server: Running, owner: Person, path: str) -> None:
    await make(owner, SITE, NAME, "42")
    answer = await post(owner, path, name=NAME, value="7", revision="0")
    assert answer.status_code == 412
    assert "Somebody changed it since" in answer.text
    assert "42 days made here" in words(answer.text)


@pytest.mark.parametrize("value", ["0", "x", "<i >", ""])
async def test_a_value_that_the_setting_does_not_take_is_refused(owner: Person, value: str) -> None:
    assert (await post(owner, SITE, name=NAME, value=value, revision="0")).status_code == 422
    assert (await post(owner, SITE, name="no.such", value=value, revision="0")).status_code == 422


async def test_a_stop_of_the_partner_counts_at_the_appliance_whatever_that_says(owner: Person, device: Device) -> None:
    await make(owner, box(device, "settings"), "healing.mode", "heal")
    assert "✓ heals made here" in words(await page(owner, box(device, "settings")))
    await make(owner, "/settings", "healing.mode", "stop")
    assert "✕ stopped from the partner" in words(await page(owner, box(device, "settings")))


async def test_a_window_is_made_in_one_form_and_a_late_one_changes_no_part_of_it(
    server: Running, owner: Person
) -> None:
    fields = fields_of(await page(owner, SITE), SITE + "/window")
    said = {"day0": "yes", "day6": "yes", "from": "02:30", "minutes": "90"}
    await done(owner, SITE + "/window", **fields, **said)
    assert "Monday, Sunday from 02:30 UTC for 90 minutes" in words(await page(owner, SITE))
    assert (await post(owner, SITE + "/window", **fields, **said | {"minutes": "5"})).status_code == 412
    assert "for 90 minutes" in words(await page(owner, SITE))
    assert (await post(owner, SITE + "/window", **fields, **said | {"from": "25:00"})).status_code == 422


async def test_a_viewer_sees_settings_without_a_form_and_a_technician_only_those_below_the_partner(
    server: Running,
) -> None:
    viewer, tech = (
        await add(server, "vera@acme.example", Role.VIEWER),
        await signed_in(server, "tim@acme.example", Role.TECHNICIAN),
    )
    await viewer.give_password()
    assert "<form method" not in (await page(viewer, SITE)).partition("<main")[2]
    assert "Stop all healing" not in await page(tech, "/settings")
    assert "Stop all healing" in await page(tech, SITE)
    for who, path, status in ((viewer, SITE, 403), (tech, "/settings", 403), (tech, "/platform/settings", 403)):
        assert (await post(who, path, name=NAME, value="5", revision="0")).status_code == status
    for person in (viewer, tech):
        await person.client.aclose()


async def test_the_platforms_settings_are_its_admins_and_count_for_all(server: Running, owner: Person) -> None:
    admin = await signed_in(server, "root@platform.example", Role.PLATFORM_ADMIN, "platform")
    await make(admin, "/platform/settings", NAME, "77")
    assert "77 days from the platform" in words(await page(owner, SITE))
    await admin.client.aclose()


async def checked_in(device: Device) -> None:
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    assert (await device.call("GET", "policy")).status_code == 200


async def test_policies_are_listed_compared_and_an_old_ones_settings_made_again(
    server: Running, owner: Person, device: Device
) -> None:
    await checked_in(device)
    await make(owner, SITE, NAME, "42")
    await checked_in(device)
    async with server.db.site("acme", "acme-clinic") as scope:
        rows = await scope.conn.fetch("SELECT version FROM policies ORDER BY version")
    first, last = rows[0]["version"], rows[-1]["version"]
    assert first != last
    assert str(last) in await page(owner, box(device, "policies"))
    shown = await page(owner, box(device, f"policies/{last}"))
    assert f"settings.{NAME}" in shown
    assert "<del" in shown
    back = box(device, f"policies/{first}/restore")
    asks = await page(owner, back)
    assert f"{NAME} 42 from the site 30 made here" in words(asks)
    assert "30 days made here" not in words(await page(owner, box(device, "settings")))
    await done(owner, back, **fields_of(asks, back))
    assert "30 days made here" in words(await page(owner, box(device, "settings")))
    assert "Nothing: what counts" in await page(owner, back)
    assert ("policy.restore", device.appliance_id) in await audited(server)
    await page(owner, box(device, "policies/5"), 404)


async def test_going_back_does_only_what_was_shown(server: Running, owner: Person, device: Device) -> None:
    await checked_in(device)
    await make(owner, SITE, NAME, "42")
    async with server.db.site("acme", "acme-clinic") as scope:
        first = await scope.conn.fetchval("SELECT min(version) FROM policies")
    back = box(device, f"policies/{first}/restore")
    form = fields_of(await page(owner, back), back)
    await make(owner, box(device, "settings"), NAME, "43")
    answer = await post(owner, back, **form)
    assert (answer.status_code, "Nothing was made again" in answer.text) == (412, True)
    assert "43 made here" in words(answer.text)
    assert (await post(owner, back)).status_code == 422
    assert "policy.restore" not in [action for action, _ in await audited(server)]


async def test_a_baseline_is_shown_beside_what_is_approved_and_approved_as_it_was_seen(
    server: Running, owner: Person, device: Device
) -> None:
    path = box(device, "baselines")
    await seen(device, "firewall", {"ruleset_sha256": "a" * 64, "policies": ["<i >"]})
    shown = await page(owner, path)
    assert f"<ins><code>{'a' * 64}</code></ins>" in shown
    await done(owner, path, **fields_of(shown, path))
    assert "is as approved" in await page(owner, path)
    assert "baseline.approve" in [action for action, _ in await audited(server)]
    await seen(device, "firewall", {"ruleset_sha256": "b" * 64})
    assert f"<del><code>{'a' * 64}</code></del>" in await page(owner, path)


async def test_a_baseline_is_rejected_on_record_and_changes_nothing_and_a_late_rejection_says_so(
    server: Running, owner: Person, device: Device
) -> None:
    path = box(device, "baselines")
    await seen(device, "firewall", {"ruleset_sha256": "a" * 64})
    form = fields_of(await page(owner, path), path + "/reject")
    await done(owner, path + "/reject", **form)
    assert ("baseline.reject", f"setting:appliance:{device.appliance_id}:{form['name']}") in await audited(server)
    assert "differs" in await page(owner, path)
    await seen(device, "firewall", {"ruleset_sha256": "b" * 64})
    before = await audited(server)
    late = await post(owner, path + "/reject", **form)
    assert (late.status_code, "Nothing was approved or rejected" in late.text) == (412, True)
    assert await audited(server) == before


async def test_a_viewer_and_another_partner_judge_no_baseline(server: Running, device: Device) -> None:
    await seen(device, "firewall", {"ruleset_sha256": "a" * 64})
    await server.add_site("zenith", "zenith-clinic")
    viewer = await signed_in(server, "vera@acme.example", Role.VIEWER)
    stranger = await signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    form = {"name": "checks.firewall.baseline_sha256", "sha256": "a" * 64}
    assert "<form" not in (await page(viewer, box(device, "baselines"))).partition("<main")[2]
    for act in ("baselines", "baselines/reject"):
        assert (await post(viewer, box(device, act), **form)).status_code == 403
        assert (await post(stranger, box(device, act), **form)).status_code == 404
    assert not [action for action, _ in await audited(server) if action.startswith("baseline")]
    await viewer.client.aclose()
    await stranger.client.aclose()


async def test_a_baseline_that_is_not_what_was_seen_is_not_approved(owner: Person, device: Device) -> None:
    path = box(device, "baselines")
    assert "nothing is proposed" in await page(owner, path)
    answer = await post(owner, path, name="checks.firewall.baseline_sha256", sha256="a" * 64)
    assert answer.status_code == 412
    assert "Nothing was approved" in answer.text
