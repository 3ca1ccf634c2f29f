"""Pages of what was learned: why a rule is proposed, what it would have done, how it fares, and what people decide."""

from collections.abc import AsyncIterator

import pytest

from ccshared.vocabulary import Role
from tests.devices import Device, Running
from tests.operators import audited
from tests.pages import done, fields_of, page, post, words
from tests.people import Person, add, signed_in
from tests.server.test_flywheel import RULE, candidate, sweep, tell_of_rule

ONE = f"/learning/{RULE}"


@pytest.fixture
async def tech(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    yield person
    await person.client.aclose()


async def decide(who: Person, verb: str, form: str = "approve") -> str:
    fields = fields_of(await page(who, ONE), f"{ONE}/{form}")
    return await done(who, f"{ONE}/{verb}", comment="<i >seen</i>", **fields)


async def test_without_rules_the_page_says_how_one_comes_to_be(tech: Person) -> None:
    assert "One is proposed once a runbook helped often enough" in await page(tech, "/learning")


async def test_a_candidate_is_listed_and_explained_by_its_numbers(tech: Person, device: Device) -> None:
    await candidate(device)
    listed = words(await page(tech, "/learning?status=candidate"))
    assert "7 of 7 helped, at 2 sites" in listed
    assert "did not run yet" in listed
    assert "18 times" in listed  # its pattern's own totals
    assert "at acme-clinic" in words(await page(tech, "/learning?site=acme-clinic"))
    assert "None: appliances tell" in await page(tech, "/learning?site=nowhere")
    shown = words(await page(tech, ONE))
    assert "7 of 7 tries helped , on 2 appliances at 2 sites" in shown
    assert "it would have answered 0" in shown


async def test_a_rule_is_approved_with_a_comment_tried_and_shows_how_it_fares(
    server: Running, tech: Person, device: Device
) -> None:
    await candidate(device)
    await decide(tech, "approve")
    shown = await page(tech, ONE)
    assert "on trial" in shown
    assert "&lt;i &gt;seen&lt;/i&gt;" in shown
    async with server.db.partner("acme") as scope:
        canary = await scope.conn.fetchval("SELECT canary_appliance_id FROM rules")
    if canary == device.appliance_id:
        await tell_of_rule(device, 2, 4, 4)
        await sweep(server)
        assert "4 of 4" in words(await page(tech, "/learning?status=active"))
    assert ("rule.approve", RULE) in await audited(server)


async def test_a_candidate_is_rejected_and_a_rule_on_trial_taken_back(
    server: Running, tech: Person, device: Device
) -> None:
    await candidate(device)
    await decide(tech, "reject")
    assert "rejected" in await page(tech, ONE)
    await decide(tech, "approve")
    await decide(tech, "demote")
    assert "demoted" in words(await page(tech, ONE))
    assert {"rule.reject", "rule.approve", "rule.demote"} <= {action for action, _ in await audited(server)}


async def test_a_form_of_before_decides_nothing_and_says_so(server: Running, tech: Person, device: Device) -> None:
    await candidate(device)
    old = fields_of(await page(tech, ONE), f"{ONE}/approve")
    await decide(tech, "reject")
    answer = await post(tech, f"{ONE}/approve", comment="late", **old)
    assert answer.status_code == 412
    assert "Nothing was done" in answer.text
    assert "rule.approve" not in [action for action, _ in await audited(server)]


async def test_a_decision_that_comes_too_late_is_said_on_the_rules_own_page(
    server: Running, tech: Person, device: Device
) -> None:
    await candidate(device)
    await decide(tech, "reject")
    form = fields_of(await page(tech, ONE), f"{ONE}/approve")
    before = await audited(server)
    for act in ("reject", "demote"):
        late = await post(tech, f"{ONE}/{act}", comment="late", **form)
        assert (late.status_code, "Nothing was decided" in late.text) == (409, True)
    assert await audited(server) == before


async def test_a_decision_without_a_comment_is_refused(tech: Person, device: Device) -> None:
    await candidate(device)
    old = fields_of(await page(tech, ONE), f"{ONE}/approve")
    assert (await post(tech, f"{ONE}/approve", comment="", **old)).status_code == 422


async def test_a_viewer_reads_and_decides_nothing_and_another_partner_sees_nothing(
    server: Running, device: Device
) -> None:
    await candidate(device)
    viewer = await add(server, "vera@acme.example", Role.VIEWER)
    await viewer.give_password()
    assert "Why you decide so" not in await page(viewer, ONE)
    assert (await post(viewer, f"{ONE}/reject", comment="x", revision="1")).status_code == 403
    await server.add_site("zenith", "zenith-clinic")
    stranger = await signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    await page(stranger, ONE, 404)
    assert RULE not in await page(stranger, "/learning")
    for person in (viewer, stranger):
        await person.client.aclose()
