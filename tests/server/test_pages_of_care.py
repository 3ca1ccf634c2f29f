"""Pages of a site's name, waivers, redactions and end, of people's roles, and of the platform's audit log."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from ccshared.vocabulary import Kind, Role
from tests.devices import Device, Running
from tests.operators import audited
from tests.pages import done, fields_of, page, post, words
from tests.people import Person, add, signed_in

SITE = "/sites/acme-clinic"
WAIVERS = SITE + "/waivers"
REDACTIONS = SITE + "/redactions"


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


@pytest.fixture
async def tech(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    yield person
    await person.client.aclose()


async def actions(server: Running, partner_id: str = "acme") -> set[str]:
    return {action for action, _ in await audited(server, partner_id)}


# Names


async def test_a_site_gets_another_name_and_tags_and_a_late_form_changes_nothing(server: Running, tech: Person) -> None:
    old = fields_of(await page(tech, SITE + "/manage"), SITE + "/manage")
    await done(tech, SITE + "/manage", **old, name="<i >Clinic", tags="rural small")
    assert 'value="rural small"' in await page(tech, SITE + "/manage")
    assert (await post(tech, SITE + "/manage", **old, name="late")).status_code == 412
    assert (await post(tech, SITE + "/manage", revision="2", name="x", tags="NO")).status_code == 422
    assert "&lt;i &gt;Clinic" in await page(tech, SITE)
    assert {"site.rename", "site.tag"} <= await actions(server)


async def test_an_appliance_is_renamed(server: Running, tech: Person, device: Device) -> None:
    place = f"{SITE}/appliances/{device.appliance_id}/name"
    old = fields_of(await page(tech, place), place)
    await done(tech, place, **old, name="rack <i >")
    assert "rack &lt;i &gt;" in await page(tech, place)
    assert (await post(tech, place, **old, name="late")).status_code == 412
    assert "appliance.rename" in await actions(server)


# Its end


async def test_a_site_is_closed_by_an_owner_who_types_its_id(server: Running, owner: Person, device: Device) -> None:
    answer = await post(owner, SITE + "/close", confirm="acme")
    assert answer.status_code == 412
    assert "Nothing was closed" in answer.text
    await done(owner, SITE + "/close", confirm="acme-clinic", export_sha256="a" * 64)
    assert "This site was closed" in await page(owner, SITE)
    assert "It was closed" in await page(owner, SITE + "/manage")
    assert "site.close" in await actions(server)


async def test_a_technician_closes_no_site(tech: Person) -> None:
    assert "for good" not in words(await page(tech, SITE + "/manage"))
    assert (await post(tech, SITE + "/close", confirm="acme-clinic")).status_code == 403


# Waivers


async def test_a_waiver_is_made_with_its_reason_and_ended(server: Running, tech: Person) -> None:
    await done(tech, WAIVERS, check_id="backup", reason="<i >moving", days="7")
    shown = await page(tech, WAIVERS)
    assert "&lt;i &gt;moving" in shown
    async with server.db.site("acme", "acme-clinic") as scope:
        waiver = await scope.conn.fetchval("SELECT id FROM waivers")
    end = f"{WAIVERS}/{waiver}/end"
    old = fields_of(shown, end)
    await done(tech, end, **old)
    assert "ended by hand" in await page(tech, WAIVERS)
    assert (await post(tech, end, **old)).status_code == 412
    assert {"waiver.create", "waiver.revoke"} <= await actions(server)


@pytest.mark.parametrize("change", [{"days": "367"}, {"days": "0"}, {"reason": ""}, {"check_id": "<i >"}])
async def test_a_waiver_needs_a_reason_a_check_and_an_end_within_a_year(tech: Person, change: dict[str, str]) -> None:
    said = {"check_id": "backup", "reason": "why", "days": "7"}
    assert (await post(tech, WAIVERS, **said | change)).status_code == 422


async def test_a_viewer_reads_waivers_and_makes_none(server: Running) -> None:
    viewer = await add(server, "vera@acme.example", Role.VIEWER)
    await viewer.give_password()
    assert "None: every check counts." in await page(viewer, WAIVERS)
    assert (await post(viewer, WAIVERS, check_id="backup", reason="x", days="1")).status_code == 403
    for path in (SITE + "/manage", REDACTIONS):
        await page(viewer, path, 403)
    await viewer.client.aclose()


# Redactions


async def test_an_entry_is_erased_once_a_second_person_agreed(
    server: Running, tech: Person, owner: Person, device: Device
) -> None:
    device.seal()
    device.check_run("backup", "fail")
    assert (await device.send(device.batch(0))).status_code == 200
    asked = await post(tech, REDACTIONS, origin=device.origin, seq="1", reason="<i >a name")
    assert asked.status_code == 200
    assert "&lt;i &gt;a name" in asked.text
    assert "you asked, so somebody else approves" in asked.text
    async with server.db.site("acme", "acme-clinic") as scope:
        row = await scope.conn.fetchrow("SELECT id, encode(leaf, 'hex') AS leaf FROM redactions")
    assert row is not None
    one = f"{REDACTIONS}/{row['id']}/approve"
    assert (await post(tech, one, leaf=row["leaf"])).status_code == 403
    assert (await post(owner, one)).status_code == 422
    await done(owner, one, leaf=row["leaf"])
    assert "erased here" in await page(owner, REDACTIONS)
    assert {"evidence.redact.request", "evidence.redact"} <= await actions(server)


async def test_nobody_approves_a_redaction_of_their_own(server: Running, owner: Person, device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail")
    assert (await device.send(device.batch(0))).status_code == 200
    await post(owner, REDACTIONS, origin=device.origin, seq="1", reason="x")
    async with server.db.site("acme", "acme-clinic") as scope:
        row = await scope.conn.fetchrow("SELECT id, encode(leaf, 'hex') AS leaf FROM redactions")
    assert row is not None
    assert (await post(owner, f"{REDACTIONS}/{row['id']}/approve", leaf=row["leaf"])).status_code == 403
    assert "evidence.redact" not in await actions(server)


# What was done about an incident


async def test_an_incident_lists_the_entries_that_tell_of_it(tech: Person, device: Device) -> None:
    now = int(datetime.now(UTC).timestamp() * 1000)
    said = {
        "id": "i-1", "epoch": 1, "revision": 1, "host_id": "box", "incident_type": "backup_stale", "severity": "high",
        "raw_data": {}, "pattern_signature": "0" * 16, "created_at_ms": now, "last_seen_at_ms": now, "occurrences": 1,
    }  # fmt: skip
    assert (await device.call("PUT", "incidents", json={"incidents": [said]})).status_code == 200
    device.seal()
    for incident in ("i-1", "i-2"):
        device.seal(Kind.ESCALATION, {"incident": incident, "check": "backup", "host": "box", "level": "L3"}, now)
    assert (await device.send(device.batch(0))).status_code == 200
    shown = words(await page(tech, SITE + "/incidents/i-1"))
    assert "a person was asked no. 1" in shown
    assert "no. 2" not in shown


# People


async def test_a_person_gets_another_role_and_an_auditor_sites(server: Running, owner: Person) -> None:
    vera = await add(server, "vera@acme.example", Role.VIEWER)
    role = f"/people/{vera.user.id}/role"
    old = fields_of(await page(owner, "/people"), role)
    await done(owner, role, **old, role="auditor", sites="acme-clinic")
    assert "auditor of acme-clinic" in words(await page(owner, "/people"))
    assert (await post(owner, role, **old, role="owner")).status_code == 412
    new = fields_of(await page(owner, "/people"), role)
    assert (await post(owner, role, **new, role="auditor")).status_code == 422
    assert (await post(owner, role, **new, role="auditor", sites="zenith-clinic")).status_code == 404
    assert "user.role" in await actions(server)


async def test_the_last_owner_stays_one(server: Running, owner: Person) -> None:
    async with server.db.partner("acme") as scope:
        revision = await scope.conn.fetchval("SELECT revision FROM users WHERE id = $1", owner.user.id)
    answer = await post(owner, f"/people/{owner.user.id}/role", role="viewer", revision=str(revision))
    assert answer.status_code == 409


# The platform


async def test_the_platforms_audit_log_is_its_admins(server: Running, owner: Person) -> None:
    await page(owner, "/platform/audit", 403)
    admin = await signed_in(server, "root@platform.example", Role.PLATFORM_ADMIN, "platform")
    shown = await page(admin, "/platform/audit")
    assert "user:root@platform.example" in shown
    assert "user:olga@acme.example" not in shown
    assert 'href="/platform/audit/verification"' in shown
    await page(admin, "/platform/audit/verification")
    await admin.client.aclose()
