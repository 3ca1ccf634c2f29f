"""Pages of being told: channels made, changed, tried and snoozed with real receivers; what was told; problems."""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ccserver.config import Config
from ccshared import ids
from ccshared.vocabulary import Role
from tests.devices import Running
from tests.operators import audited
from tests.pages import done, fields_of, page, post, words
from tests.people import Person, add, signed_in
from tests.receivers import HttpReceiver, http_receiver

ALL = "/channels"
PROBLEM = """
    INSERT INTO problems (partner_id, of_site, id, kind, severity, says, began_at, subject)
    VALUES ('acme', 'acme-clinic', $1, 'incident', 'high', '<i >backup', now(), $1)
"""


@pytest.fixture
def settings(settings: Config) -> Config:
    return replace(settings, notify_allow=(ipaddress.ip_network("127.0.0.1/32"),))


@pytest.fixture
async def hook() -> AsyncIterator[HttpReceiver]:
    async with http_receiver() as receiver:
        yield receiver


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[Person]:
    person = await signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


async def slack(who: Person, hook: HttpReceiver, **more: str) -> str:
    """Make a channel and return its page's address."""
    return await done(who, ALL, kind="slack", name="<i >ops", url=hook.url, **more)


async def test_without_a_channel_the_page_says_that_nobody_is_told(owner: Person) -> None:
    assert "None: nobody is told of anything." in await page(owner, ALL)


async def test_a_webhook_is_made_its_secret_shown_once_and_never_where_it_leads(
    server: Running, owner: Person, hook: HttpReceiver
) -> None:
    made = await post(owner, ALL, kind="webhook", name="tickets", url=hook.url, min_severity="high", resend_s="0")
    assert made.status_code == 200
    assert "whsec_" in made.text
    shown = await page(owner, ALL)
    assert "tickets" in shown
    assert "whsec_" not in shown
    assert "/hook" not in shown
    assert "channel.create" in [action for action, _ in await audited(server)]


async def test_a_test_button_reaches_the_receiver_and_the_log_says_so(
    server: Running, owner: Person, hook: HttpReceiver
) -> None:
    one = await slack(owner, hook)
    answer = await post(owner, one + "/test")
    assert "the test was delivered" in answer.text
    assert len(hook.told) == 1
    assert "✓ delivered" in words(await page(owner, f"/deliveries?channel={one.rpartition('/')[2]}"))
    assert "channel.test" in [action for action, _ in await audited(server)]


async def test_a_receiver_that_refuses_is_said_with_its_status(owner: Person) -> None:
    async with http_receiver(500) as broken:
        one = await slack(owner, broken)
        assert "the test failed" in (await post(owner, one + "/test")).text
    assert "The receiver answered 500." in await page(owner, one)


async def test_filters_are_changed_and_a_late_form_changes_nothing(
    server: Running, owner: Person, hook: HttpReceiver
) -> None:
    one = await slack(owner, hook)
    old = fields_of(await page(owner, one), one)
    said = {"name": "ops", "min_severity": "critical", "sites": "acme-clinic"}
    await done(owner, one, **old, **said)
    assert "from critical on, of acme-clinic" in words(await page(owner, one))
    answer = await post(owner, one, **old, **said | {"min_severity": "low"})
    assert answer.status_code == 412
    assert "from critical on" in words(answer.text)
    assert (await post(owner, one, revision="2", **said | {"sites": "zenith-clinic"})).status_code == 422


async def test_a_channel_is_snoozed_disabled_and_enabled(server: Running, owner: Person, hook: HttpReceiver) -> None:
    one = await slack(owner, hook)
    await done(owner, one + "/snooze", minutes="60")
    assert "snoozed until in 59 min" in words(await page(owner, one)).replace("! ", "")
    for said in ("disabled", "tells"):
        await done(owner, one + "/switch", **fields_of(await page(owner, one), one + "/switch"))
        await done(owner, one + "/snooze", minutes="0")
        assert said in words(await page(owner, one))
    assert "channel.snooze" in [action for action, _ in await audited(server)]


async def test_names_stand_as_text_and_inner_addresses_are_refused(owner: Person, hook: HttpReceiver) -> None:
    assert "&lt;i &gt;ops" in await page(owner, await slack(owner, hook))
    refused = await post(owner, ALL, kind="slack", name="x", url="http://10.0.0.1/")
    assert refused.status_code == 422


async def test_a_technician_tests_but_makes_nothing_and_a_viewer_only_reads(
    server: Running, owner: Person, hook: HttpReceiver
) -> None:
    one = await slack(owner, hook)
    tech = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    viewer = await add(server, "vera@acme.example", Role.VIEWER)
    await viewer.give_password()
    assert "Make a channel" not in await page(tech, ALL)
    assert (await post(tech, ALL, kind="slack", name="x", url=hook.url)).status_code == 403
    assert (await post(tech, one + "/test")).status_code == 200
    assert "Send a test" not in await page(viewer, one)
    assert (await post(viewer, one + "/test")).status_code == 403
    for person in (tech, viewer):
        await person.client.aclose()


async def test_another_partners_channel_is_not_there_and_the_platforms_are_its_admins(
    server: Running, owner: Person, hook: HttpReceiver
) -> None:
    one = await slack(owner, hook)
    await server.add_site("zenith", "zenith-clinic")
    stranger = await signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    await page(stranger, one, 404)
    assert (await post(stranger, one + "/test")).status_code == 404
    await page(owner, "/platform/channels", 403)
    admin = await signed_in(server, "root@platform.example", Role.PLATFORM_ADMIN, "platform")
    own = await done(admin, "/platform/channels", kind="slack", name="server", url=hook.url)
    assert own.startswith("/platform/channels/")
    await page(admin, own)
    assert "server" not in words(await page(owner, ALL)).partition("Make a channel")[0]
    for person in (stranger, admin):
        await person.client.aclose()


async def a_problem(server: Running) -> str:
    made = ids.new_id()
    async with server.db.platform() as scope:
        await scope.conn.execute(PROBLEM, made)
    return f"/problems/{made}"


async def test_a_problem_is_acknowledged_once_and_snoozed(server: Running, owner: Person) -> None:
    one = await a_problem(server)
    shown = await page(owner, "/problems?state=open")
    assert "&lt;i &gt;backup" in shown
    old = fields_of(shown, one + "/acknowledge")
    await done(owner, one + "/acknowledge", **old)
    assert "acknowledged by user:olga@acme.example" in words(await page(owner, "/problems"))
    late = await post(owner, one + "/snooze", minutes="480", **old)
    assert late.status_code == 412
    await done(owner, one + "/snooze", **fields_of(await page(owner, "/problems"), one + "/snooze"))
    assert "snoozed until in 7 h" in words(await page(owner, "/problems"))
    assert {"problem.acknowledge", "problem.snooze"} <= {action for action, _ in await audited(server)}
