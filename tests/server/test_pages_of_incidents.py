"""Pages of incidents and appliances, and what people do on them: by plain forms, audited as the API's calls are."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ccshared.vocabulary import Role
from tests.devices import NOW_MS, Device, Running
from tests.operators import audited
from tests.people import Person, add, signed_in

HTML = {"Accept": "text/html"}
ONE = "/sites/acme-clinic/incidents/i-1"
BOX = "/sites/acme-clinic/appliances/"


@pytest.fixture
async def tech(server: Running) -> AsyncIterator[Person]:
    """A technician who signed in with a second factor."""
    person = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    yield person
    await person.client.aclose()


@pytest.fixture
async def viewer(server: Running) -> AsyncIterator[Person]:
    """A viewer, signed in by password."""
    person = await add(server, "vera@acme.example", Role.VIEWER)
    async with person.client:
        await person.give_password()
        yield person


async def report(device: Device, number: int = 1, **changes: Any) -> None:
    said: dict[str, Any] = {
        "id": f"i-{number}", "epoch": 1, "revision": 1, "host_id": "box", "incident_type": "backup_stale",
        "severity": "high", "raw_data": {"reason": "51 h old", "path": "<b>"}, "pattern_signature": "0" * 16,
        "created_at_ms": NOW_MS + number, "last_seen_at_ms": NOW_MS + number, "occurrences": 3,
    }  # fmt: skip
    answer = await device.call("PUT", "incidents", json={"incidents": [said | changes]})
    assert answer.status_code == 200, answer.text


async def page(person: Person, path: str, status: int = 200) -> str:
    answer = await person.client.get(path, headers=HTML)
    assert answer.status_code == status, answer.text
    return answer.text


async def act(person: Person, what: str, **fields: str) -> httpx.Response:
    return await person.client.post(f"{ONE}/{what}", data=fields, headers=HTML)


async def test_an_incident_shows_what_was_seen_as_text(tech: Person, device: Device) -> None:
    await report(device)
    shown = await page(tech, ONE)
    assert "backup stale on box" in shown
    assert "51 h old" in shown
    assert "&lt;b&gt;" in shown
    assert "3 times in all" in shown
    assert "<b>" not in shown


async def test_what_was_done_is_said_with_level_outcome_and_time(tech: Person, device: Device) -> None:
    await report(
        device, resolved_at_ms=NOW_MS + 5000, resolution_level="L1", resolution_action="restart clamav",
        outcome="success", resolution_time_ms=900,
    )  # fmt: skip
    shown = await page(tech, ONE)
    assert "restart clamav" in shown
    assert "success by a rule (L1)" in shown
    assert "after 900 ms" in shown
    assert "Resolve by hand" not in shown  # it is closed


async def test_acknowledging_is_one_button_and_is_audited(server: Running, tech: Person, device: Device) -> None:
    await report(device)
    answer = await act(tech, "acknowledge", revision="1")
    assert (answer.status_code, answer.headers["location"]) == (303, ONE)
    shown = await page(tech, ONE)
    assert "by user:tim@acme.example" in shown
    assert "Acknowledge: I" not in shown
    assert ("incident.acknowledge", "i-1") in await audited(server)


async def test_resolving_by_hand_closes_it(server: Running, tech: Person, device: Device) -> None:
    await report(device)
    assert (await act(tech, "resolve", revision="1")).status_code == 303
    assert "Closed by hand" in await page(tech, ONE)
    assert "i-1" not in await page(tech, "/incidents?state=open")
    assert ("incident.resolve", "i-1") in await audited(server)


async def test_what_changed_meanwhile_is_said_kindly_and_nothing_is_done(
    server: Running, tech: Person, device: Device
) -> None:
    await report(device)
    await act(tech, "acknowledge", revision="1")
    answer = await act(tech, "resolve", revision="1")
    assert answer.status_code == 412
    assert "Somebody did something about it since" in answer.text
    assert 'name="revision" value="2"' in answer.text
    assert ("incident.resolve", "i-1") not in await audited(server)


async def test_a_comment_stands_as_text_whatever_is_in_it(server: Running, tech: Person, device: Device) -> None:
    await report(device)
    answer = await act(tech, "comments", body="<i>Ümlaut</i> " + "ß" * 3900)
    assert answer.status_code == 303
    shown = await page(tech, ONE)
    assert "&lt;i&gt;Ümlaut&lt;/i&gt;" in shown
    assert "user:tim@acme.example" in shown
    assert ("incident.comment", "i-1") in await audited(server)


@pytest.mark.parametrize(
    ("what", "fields"),
    [("acknowledge", {}), ("resolve", {"revision": "x"}), ("comments", {}), ("comments", {"body": "a" * 4001})],
)
async def test_a_form_that_is_not_the_pages_is_refused(
    server: Running, tech: Person, device: Device, what: str, fields: dict[str, str]
) -> None:
    await report(device)
    before = await audited(server)
    assert (await act(tech, what, **fields)).status_code == 422
    assert await audited(server) == before


@pytest.mark.parametrize("what", ["acknowledge", "resolve", "comments"])
async def test_a_viewer_sees_no_button_and_is_refused(
    server: Running, viewer: Person, device: Device, what: str
) -> None:
    await report(device)
    assert f'action="{ONE}/{what}"' not in await page(viewer, ONE)
    assert (await act(viewer, what, revision="1", body="x")).status_code == 403
    assert (what, "i-1") not in await audited(server)


@pytest.mark.parametrize("what", ["acknowledge", "resolve", "comments"])
async def test_another_sites_page_cannot_send_the_form(tech: Person, device: Device, what: str) -> None:
    await report(device)
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = await tech.client.post(f"{ONE}/{what}", data={"revision": "1", "body": "x"}, headers=headers)
    assert answer.status_code == 403
    assert "by nobody" in await page(tech, ONE)


async def test_a_technician_without_a_second_factor_is_told_where_to_set_one_up(
    server: Running, device: Device
) -> None:
    await report(device)
    person = await add(server, "tom@acme.example", Role.TECHNICIAN)
    async with person.client:
        await person.give_password()
        shown = await page(person, ONE)
        answer = await act(person, "acknowledge", revision="1")
    assert 'href="/account">set one up' in shown
    assert answer.status_code == 403


async def test_another_partners_incident_and_appliance_are_not_found(server: Running, tech: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    other = await Device.enrolled(server, "zenith", "zenith-clinic")
    await report(other)
    for path in (
        "/sites/zenith-clinic/incidents/i-1", "/sites/acme-clinic/incidents/i-1", "/incidents?site=zenith-clinic",
        f"/sites/zenith-clinic/appliances/{other.appliance_id}", BOX + other.appliance_id,
    ):  # fmt: skip
        await page(tech, path, 404)
    assert "i-1" not in await page(tech, "/incidents")
    posted = await tech.client.post("/sites/zenith-clinic/incidents/i-1/acknowledge", data={"revision": "1"})
    assert posted.status_code == 404


async def test_the_list_is_filtered_by_the_url_and_paged_by_cursor(tech: Person, device: Device) -> None:
    for number in range(60):
        await report(device, number, severity="low" if number % 2 else "high")
    shown = await page(tech, "/incidents?severity=high&state=&level=&site=acme-clinic")
    assert re.findall(r"incidents/i-(\d+)\"", shown) == [str(number) for number in range(58, -1, -2)]
    first = await page(tech, "/incidents")
    assert len(re.findall(r"incidents/i-\d+\"", first)) == 50
    link = re.search(r'rel="next" href="([^"]+)"', first)
    assert link is not None
    second = await page(tech, link[1].replace("&amp;", "&"))
    assert re.findall(r"incidents/i-(\d+)\"", second) == [str(number) for number in range(9, -1, -1)]


@pytest.mark.parametrize("query", ["severity=odd", "level=L4", "state=x", "cursor=abc", "odd=1", "site=A"])
async def test_what_the_list_does_not_take_is_said(tech: Person, query: str) -> None:
    await page(tech, f"/incidents?{query}", 422)


async def test_a_list_without_incidents_says_where_to_go(viewer: Person) -> None:
    assert "go to the sites" in await page(viewer, "/incidents?level=L2")


# An appliance


async def test_an_appliance_shows_check_in_queue_clock_epochs_and_alarms(tech: Person, device: Device) -> None:
    device.seal()
    assert (await device.send(device.batch(0))).status_code == 200
    said = {"version": "1.2.3", "hostname": "box-7", "sent_at_ms": NOW_MS, "clock": "sync", "waiting": 12}
    said |= {"waiting_bytes": 4096, "epoch": device.epoch, "size": 13, "alarms": ["clone_suspected"]}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    shown = await page(tech, BOX + device.appliance_id)
    for text in ("box-7", "1.2.3", "12 entries of 4 KiB", "clone suspected", device.epoch, "the first 1 entry"):
        assert text in " ".join(re.sub(r"<[^>]+>", " ", shown).split()), text
    assert "online" in shown


async def test_an_appliance_is_revoked_only_when_the_box_is_ticked(
    server: Running, tech: Person, device: Device
) -> None:
    path = f"{BOX}{device.appliance_id}/revoke"
    unsure = await tech.client.post(path, data={}, headers=HTML)
    assert unsure.status_code == 422
    assert "tick the box" in unsure.text
    assert (await device.call("GET", "log")).status_code == 200
    assert (await tech.client.post(path, data={"sure": "yes"})).status_code == 303
    assert (await device.call("GET", "log")).status_code == 401
    assert "End its service" not in await page(tech, BOX + device.appliance_id)
    assert ("appliance.revoke", device.appliance_id) in await audited(server)


async def test_a_viewer_revokes_nothing(viewer: Person, device: Device) -> None:
    assert "End its service" not in await page(viewer, BOX + device.appliance_id)
    answer = await viewer.client.post(f"{BOX}{device.appliance_id}/revoke", data={"sure": "yes"})
    assert answer.status_code == 403
    assert (await device.call("GET", "log")).status_code == 200
