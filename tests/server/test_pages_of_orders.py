"""Pages of orders: chosen, shown exactly, confirmed once, approved by a second person; for one and for many."""

from collections.abc import AsyncIterator

import pytest

from ccserver.config import Config
from ccserver.queries import sites
from ccshared.vocabulary import Kind, Role
from tests.devices import Device, Running
from tests.operators import audited, with_key
from tests.ordering import HIGH, LOW, extended
from tests.pages import done, fields_of, page, post, words
from tests.people import Person, add, signed_in

NEW = "/sites/acme-clinic/order"


@pytest.fixture
def settings(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    extended(monkeypatch)
    return settings


@pytest.fixture
async def tech(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    yield person
    await person.client.aclose()


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


async def previewed(who: Person, device: Device, runbook: str = LOW, **more: str) -> tuple[str, dict[str, str]]:
    """Return the preview of an order and the fields by which it is confirmed."""
    answer = await post(who, NEW + "/preview", runbook=runbook, appliance=device.appliance_id, **more)
    assert answer.status_code == 200, answer.text
    return answer.text, fields_of(answer.text, NEW)


async def ordered(who: Person, device: Device, runbook: str = LOW) -> str:
    """Order a runbook by the pages and return the order's page."""
    _, fields = await previewed(who, device, runbook)
    return await done(who, NEW, **fields)


async def test_a_runbook_is_chosen_its_parameters_asked_and_shown_as_it_runs(tech: Person, device: Device) -> None:
    chosen = await page(tech, f"{NEW}?appliance={device.appliance_id}")
    assert f"runbook={LOW}" in chosen
    assert 'name="p.unit"' in await page(tech, f"{NEW}?runbook={LOW}")
    shown, _ = await previewed(tech, device, **{"p.unit": "sshd.service", "life_minutes": "7"})
    assert "<code>/bin/true</code> <code>sshd.service</code>" in shown
    assert "no check is run afterwards" in shown
    assert "7 minutes after its release" in shown


async def test_a_preview_orders_nothing_and_its_form_sent_twice_makes_one_order(
    server: Running, tech: Person, device: Device
) -> None:
    _, fields = await previewed(tech, device)
    assert "No order is like that" in await page(tech, "/orders")
    assert await done(tech, NEW, **fields) == await done(tech, NEW, **fields)
    assert [action for action, _ in await audited(server)].count("order.create") == 1


async def test_an_order_shows_who_what_when_the_key_and_the_answer_as_text(
    server: Running, tech: Person, device: Device
) -> None:
    one = await ordered(tech, device)
    said = {"about": "do <i >it</i>", "exit_code": 3, "output": "<i >out</i>"}
    answer = await device.call(
        "POST", f"orders/{one.rpartition('/')[2]}/result", json={"status": "failed", "reason": "&", "steps": [said]}
    )
    assert answer.status_code == 200, answer.text
    shown = words(await page(tech, one))
    assert "by user:tim@acme.example" in shown
    assert "needed nobody's approval" in shown
    assert "do <i >it</i>: ✕ exit 3" in shown
    assert f'"appliance":"{device.appliance_id}"' in shown  # as it was signed
    (key,) = [each for each in server.keys.signing if each.use == "order"][:1]
    assert key.name in shown


async def test_an_order_of_high_risk_waits_for_another_person(server: Running, tech: Person, device: Device) -> None:
    one = await ordered(tech, device, HIGH)
    assert "You ordered it, so somebody else approves it" in await page(tech, one)
    assert (await post(tech, one + "/approve")).status_code == 403
    second = await signed_in(server, "tom@acme.example", Role.TECHNICIAN)
    assert "Approve: let it run" in await page(second, one)
    await done(second, one + "/approve")
    assert "by user:tom@acme.example" in await page(second, one)
    assert ("order.approve", one.rpartition("/")[2]) in await audited(server)
    await second.client.aclose()


async def test_an_order_is_cancelled_once(server: Running, tech: Person, device: Device) -> None:
    one = await ordered(tech, device)
    await done(tech, one + "/cancel")
    late = await post(tech, one + "/cancel")
    assert (late.status_code, "Nothing was changed" in late.text) == (409, True)
    assert "The signed text" in late.text  # it is the order's page
    assert one in await page(tech, "/orders?status=cancelled&site=acme-clinic")
    assert one not in await page(tech, "/orders?status=pending")
    assert [action for action, _ in await audited(server)].count("order.cancel") == 1


async def test_an_order_lists_the_entries_that_tell_of_it_and_no_others(tech: Person, device: Device) -> None:
    one, other = await ordered(tech, device), await ordered(tech, device)
    assert "None among the newest" in await page(tech, one)
    device.seal()
    for order_id in (one.rpartition("/")[2], other.rpartition("/")[2]):
        device.seal(Kind.ORDER_RESULT, {"order": order_id, "status": "succeeded"})
    device.seal(Kind.CHECK_RUN, {"order": one.rpartition("/")[2]})
    assert (await device.send(device.batch(0))).status_code == 200
    shown = words(await page(tech, one))
    assert "how it ended no. 1" in shown
    assert "no. 2" not in shown
    assert "no. 3" not in shown


async def test_a_late_button_of_one_for_many_changes_nothing_and_shows_what_is(
    server: Running, tech: Person, device: Device
) -> None:
    answer = await (await with_key(server, "technician")).call(
        "POST", "fleet-orders", json={"runbook_id": LOW, "all": True}
    )
    one = f"/fleet-orders/{answer.json()['fleet_order']['id']}"
    await done(tech, one + "/cancel")
    before = await audited(server)
    for act in ("cancel", "pause", "resume", "approve"):
        late = await post(tech, f"{one}/{act}")
        assert (late.status_code, "Nothing was changed" in late.text) == (409, True)
    assert await audited(server) == before


async def test_a_form_whose_runbook_is_another_by_now_orders_nothing(
    server: Running, tech: Person, device: Device
) -> None:
    _, fields = await previewed(tech, device)
    answer = await post(tech, NEW, **fields | {"digest": "0" * 64})
    assert answer.status_code == 412
    assert "Nothing was ordered" in answer.text
    assert (await post(tech, NEW, **fields | {"digest": ""})).status_code == 422
    assert "order.create" not in [action for action, _ in await audited(server)]


@pytest.mark.parametrize("unit", ["-x", "a b", "<i >"])
async def test_a_parameter_that_the_runbook_does_not_take_is_refused(tech: Person, device: Device, unit: str) -> None:
    fields = {"runbook": LOW, "appliance": device.appliance_id, "p.unit": unit}
    assert (await post(tech, NEW + "/preview", **fields)).status_code == 422


async def test_a_viewer_sees_orders_and_makes_none(server: Running, tech: Person, device: Device) -> None:
    one = await ordered(tech, device)
    viewer = await add(server, "vera@acme.example", Role.VIEWER)
    await viewer.give_password()
    assert "Cancel it" not in await page(viewer, one)
    for path in (NEW, NEW + "/preview", one + "/cancel", "/fleet-order"):
        assert (await post(viewer, path)).status_code == 403
    await page(viewer, NEW, 403)
    await viewer.client.aclose()


async def test_another_partners_order_is_not_there(server: Running, tech: Person, device: Device) -> None:
    one = await ordered(tech, device)
    await server.add_site("zenith", "zenith-clinic")
    stranger = await signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    await page(stranger, one, 404)
    assert (await post(stranger, one + "/cancel")).status_code == 404
    assert one not in await page(stranger, "/orders")
    await stranger.client.aclose()


# For many


async def fleet_of(who: Person, runbook: str = LOW, **whom: str) -> str:
    answer = await post(who, "/fleet-order/preview", runbook=runbook, **whom or {"all": "yes"})
    assert answer.status_code == 200, answer.text
    return await done(who, "/fleet-order", **fields_of(answer.text, "/fleet-order"))


async def test_an_order_for_many_is_shown_with_whom_and_begins_with_the_canary(
    server: Running, tech: Person, device: Device
) -> None:
    shown = (await post(tech, "/fleet-order/preview", runbook=LOW, sites="acme-clinic")).text
    assert "For 1 appliance" in shown
    assert f'href="/sites/acme-clinic/appliances/{device.appliance_id}"' in shown
    one = await fleet_of(tech, sites="acme-clinic")
    said = words(await page(tech, one))
    assert "0 of 1 appliance succeeded" in said
    assert "1 the canary" in said
    assert ("fleet_order.create", one.rpartition("/")[2]) in await audited(server)
    assert one in await page(tech, "/fleet-orders")


async def test_an_order_for_many_is_paused_resumed_and_cancelled_by_its_page(
    server: Running, tech: Person, device: Device
) -> None:
    one = await fleet_of(tech)
    for verb, says in (("pause", "paused by user:tim"), ("resume", "running"), ("cancel", "cancelled")):
        await done(tech, f"{one}/{verb}")
        assert says in await page(tech, one)
        assert (f"fleet_order.{verb}", one.rpartition("/")[2]) in await audited(server)
    assert (await post(tech, one + "/resume")).status_code == 409


async def test_one_for_many_of_high_risk_needs_a_second_person(tech: Person, owner: Person, device: Device) -> None:
    one = await fleet_of(tech, HIGH)
    assert (await post(tech, one + "/approve")).status_code == 403
    await done(owner, one + "/approve")
    assert "by user:olga@acme.example" in await page(owner, one)


@pytest.mark.parametrize("whom", [{}, {"all": "yes", "tag": "x"}, {"sites": "A"}])
async def test_for_whom_is_said_in_one_way(tech: Person, device: Device, whom: dict[str, str]) -> None:
    assert (await post(tech, "/fleet-order/preview", runbook=LOW, **whom)).status_code == 422


async def test_a_key_of_the_one_who_ordered_approves_nothing(server: Running, tech: Person, device: Device) -> None:
    one = await ordered(tech, device, HIGH)
    key = await with_key(server, "technician")
    answer = await server.client.post(one + "/approve", headers=key.headers)
    assert answer.status_code == 403


async def test_names_stand_as_text(server: Running, tech: Person, device: Device) -> None:
    async with server.db.site("acme", "acme-clinic") as scope:
        await sites.change(scope, "<i >Clinic", None, 1)
    one = await ordered(tech, device)
    assert "&lt;i &gt;Clinic" in await page(tech, one)
    assert "&lt;i &gt;Clinic" in await page(tech, "/orders")
    assert "&lt;i &gt;Clinic" in await page(tech, NEW)
