"""Live pages in a real Chromium: what arrives is there without a reload, charts are drawn, and the CSP is kept."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from ccshared import ed25519, envelope
from ccshared.purposes import EnrolmentCode
from tests.devices import Device, Running
from tests.e2e import scene
from tests.e2e.test_browser import set_up_second_factor, sign_in

pytestmark = pytest.mark.browser
CHECKIN = {"version": "0.1.0", "hostname": "cedar-gateway", "sent_at_ms": 1, "clock": "sync", "waiting": 3}
SCREENSHOTS = Path(__file__).parent / "screenshots"


@pytest.fixture
async def page(server: Running, browser: Browser) -> Page:
    """A page of an owner who has signed in with a second factor; whatever the browser complains of fails the test."""
    await scene.set_up(server)
    made = await browser.new_page()
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    said: list[str] = []
    await sign_in(made, server)
    await set_up_second_factor(made, server)
    made.said = said  # type: ignore[attr-defined]
    return made


async def test_the_first_check_in_arrives_while_the_page_of_the_code_is_open(server: Running, page: Page) -> None:
    await page.goto(f"{server.url}/codes")
    await page.get_by_label("Site").select_option("cedar")
    await page.get_by_role("button", name="Make a code").click()
    await expect(page.get_by_text("Waiting for first check-in…")).to_be_visible()
    await expect(page.locator("[data-live-state]")).to_have_text("live")
    code = await page.get_by_label("The code, to copy").inner_text()
    device = Device(server, ed25519.new_seed())
    answer = await device.enroll(EnrolmentCode(*code.split("/")))
    await expect(page.get_by_text("waiting for its first check-in…")).to_be_visible(timeout=15_000)

    opened = envelope.open_envelope(answer.json(), envelope.PayloadType.ENROLMENT, server.keys.order.public_key)
    device.appliance_id = opened["appliance_id"]
    device.token = (await device.ask_token()).json()["token"]
    assert (await device.call("POST", "checkin", json=CHECKIN)).status_code == 200
    await expect(page.get_by_text("checked in")).to_be_visible(timeout=15_000)
    assert page.said == []  # type: ignore[attr-defined]


async def test_charts_are_drawn_and_their_numbers_stay_beside_them(server: Running, page: Page) -> None:
    await page.goto(f"{server.url}/sites/acme-clinic")
    await page.get_by_role("link", name="acme-xray").click()
    await expect(page.locator(".chart canvas")).to_be_visible()
    await page.get_by_text("The numbers of this chart").click()
    await expect(page.get_by_role("cell", name="214")).to_be_visible()
    assert page.said == []  # type: ignore[attr-defined]


async def test_the_first_page_is_light_and_asks_nobody_else(server: Running, browser: Browser) -> None:
    await scene.set_up(server)
    for number in range(47):
        await server.add_site("acme", f"clinic-{number}")
    page = await browser.new_page()
    await sign_in(page, server)
    await page.get_by_role("heading", name="50 sites").wait_for()
    fresh = await browser.new_context(storage_state=await page.context.storage_state())
    first = await fresh.new_page()
    network = await fresh.new_cdp_session(first)
    await network.send("Network.enable")
    weights: list[float] = []
    hosts: set[str] = set()
    network.on("Network.loadingFinished", lambda event: weights.append(event["encodedDataLength"]))
    first.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    await first.goto(server.url)
    await expect(first.locator("[data-live-state]")).to_have_text("live")
    await expect(first.get_by_text("Nothing was settled in this time")).to_be_visible()
    assert 50_000 < sum(weights) < 200_000
    assert hosts == {server.url.split("/")[2]}
