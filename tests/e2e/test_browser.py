"""The dashboard in a real Chromium: signing in, both colour schemes, a phone, and nothing fetched from elsewhere."""

import base64
import re
import time
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page

from ccserver import totp
from ccshared import ed25519, notes
from ccshared.purposes import EnrolmentCode
from tests.devices import Device, Running
from tests.e2e import scene

pytestmark = pytest.mark.browser

# Every element with text of its own: its worst contrast (WCAG 2.2, 1.4.3) against the nearest opaque background.
CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    const colour = numbers(getComputedStyle(element).backgroundColor);
    return colour.length === 3 || colour[3] === 1 ? colour : behind(element.parentElement);
  };
  return [...document.querySelectorAll("body *")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => {
      const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), `${e.tagName}.${e.className}: ${e.textContent.trim().slice(0, 40)}`];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""

# Fields without exactly one label, buttons and links without a name, and references to what is not there.
UNLABELLED = """() => [
  ...[...document.querySelectorAll("input:not([type=hidden]):not([hidden]), select, textarea")]
    .filter(e => e.labels.length !== 1),
  ...[...document.querySelectorAll("a, button")].filter(e => !(e.getAttribute("aria-label") || e.textContent.trim())),
  ...[...document.querySelectorAll("[aria-labelledby]")]
    .filter(e => !document.getElementById(e.getAttribute("aria-labelledby"))),
  ...[...document.querySelectorAll('a[href^="#"]')].filter(e => !document.getElementById(e.hash.slice(1))),
].map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture
async def clinic(server: Running) -> Running:
    """The server with a partner's sites in every state."""
    await scene.set_up(server)
    return server


@pytest.fixture
async def tab(browser: Browser) -> AsyncIterator[Page]:
    """A tab that runs no JavaScript: the dashboard needs none."""
    context = await browser.new_context(java_script_enabled=False)
    yield await context.new_page()
    await context.close()


async def sign_in(page: Page, server: Running, password: str = scene.PASSWORD) -> None:
    await page.goto(server.url)
    await page.get_by_label("Login").fill(scene.LOGIN)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


async def open_site(page: Page, server: Running) -> None:
    """Sign in and open the busy site, as a person does: by its name in the overview."""
    await sign_in(page, server)
    await page.get_by_role("link", name="Alder Street Clinic", exact=True).click()
    await page.get_by_role("heading", name="Alder Street Clinic").wait_for()


async def set_up_second_factor(page: Page, server: Running) -> None:
    """Set up an authenticator on the account's page, once the sign-in is through."""
    await page.get_by_role("button", name="Sign out").wait_for()
    await page.goto(f"{server.url}/account")
    await page.locator("#factor-password").fill(scene.PASSWORD)
    await page.get_by_role("button", name="Set up a second factor").click()
    found = re.search(r"secret=([A-Z2-7]{32})", await page.content())
    assert found is not None
    code = totp.code(base64.b32decode(found[1]), totp.step_at(time.time()))
    await page.get_by_role("textbox").fill(code)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Recovery codes").wait_for()


async def every_page(page: Page, server: Running) -> list[str]:
    """Return the address of a page of each kind that a signed-in owner can open, some with all that they can hold."""
    links = [f"{server.url}{path}" for path in ("/", "/?show=waiting", "/?q=nothing", "/incidents", "/codes")]
    await page.goto(f"{server.url}/sites/acme-clinic")
    found = [page.locator(f"a[href*='{part}']").first for part in ("/incidents/", "/appliances/")]
    links += [str(await each.evaluate("e => e.href")) for each in found]
    paths = ("/sites/acme-clinic", "/sites/birch-dental", "/sites/cedar", "/people", "/keys", "/audit", "/account")
    return [*links, *(f"{server.url}{path}" for path in (*paths, "/codes?site=acme-clinic", "/audit/verification"))]


async def test_a_person_finds_the_worst_first_and_acknowledges_an_incident(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
    await set_up_second_factor(tab, clinic)
    await tab.get_by_role("link", name="Sites").click()
    await tab.get_by_role("heading", name="Acme IT Services").wait_for()
    rows = tab.get_by_role("row")
    assert "Alder Street Clinic" in await rows.nth(1).inner_text()
    await tab.get_by_role("link", name="Alder Street Clinic", exact=True).click()
    await tab.get_by_role("link", name="backup", exact=True).click()
    await tab.get_by_text("the last backup is 51 h old").first.wait_for()
    await tab.get_by_role("button", name="Acknowledge").click()
    await tab.get_by_text("by user:olga@acme.example").first.wait_for()
    await tab.get_by_label("Say something").fill("The tape robot is on its way.")
    await tab.get_by_role("button", name="Add the comment").click()
    await tab.get_by_role("list").get_by_text("The tape robot is on its way.").wait_for()
    await tab.get_by_role("button", name="Resolve by hand").click()
    await tab.get_by_text("Closed by hand").first.wait_for()
    await tab.get_by_role("link", name="Audit log").click()
    await tab.get_by_text("incident.resolve").first.wait_for()


async def test_a_filter_and_a_search_need_no_script(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
    await tab.get_by_label("Show").select_option("offline")
    await tab.get_by_role("button", name="Show").click()
    await tab.get_by_role("heading", name="1 site", exact=True).wait_for()
    await tab.get_by_role("link", name="Birch Dental", exact=True).wait_for()
    await tab.get_by_label("Name or id").fill("cedar")
    await tab.keyboard.press("Enter")
    await tab.get_by_text("No site is like that").first.wait_for()
    await tab.get_by_role("link", name="Show all sites").click()
    await tab.get_by_role("link", name="Cedar Paediatrics", exact=True).wait_for()


async def test_a_code_is_made_on_a_page_and_shown_once(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
    await set_up_second_factor(tab, clinic)
    await tab.get_by_role("link", name="Enrol").click()
    await tab.get_by_label("Site").select_option("cedar")
    await tab.get_by_role("button", name="Make a code").click()
    code = await tab.get_by_label("The code, to copy").inner_text()
    device = Device(clinic, ed25519.new_seed())
    assert (await device.enroll(EnrolmentCode(*code.split("/")))).status_code == 200
    await tab.get_by_role("link", name="Go to the site").click()
    await tab.get_by_text("enrolled, and not heard of since").first.wait_for()


async def test_a_person_signs_in_sees_their_sites_and_signs_out(clinic: Running, tab: Page) -> None:
    await open_site(tab, clinic)
    site = tab.get_by_role("region", name="Alder Street Clinic")
    assert "2 of 4 checks pass, 8 unknown" in await site.inner_text()
    assert "its clock is 10 years ahead" in await site.inner_text()
    await tab.get_by_role("button", name="Sign out").click()
    await tab.get_by_role("heading", name="Sign in").wait_for()
    await tab.goto(clinic.url)
    assert tab.url == f"{clinic.url}/login"


async def test_a_wrong_password_says_so_and_the_next_try_succeeds(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic, "wrong")
    assert "do not belong together" in await tab.get_by_role("alert").inner_text()
    await tab.get_by_label("Password").fill(scene.PASSWORD)
    await tab.keyboard.press("Enter")
    await tab.get_by_role("heading", name="Acme IT Services").wait_for()


async def test_a_receipt_opens_by_keyboard_and_its_text_verifies(clinic: Running, tab: Page) -> None:
    await open_site(tab, clinic)
    summary = tab.locator("summary").first
    await summary.press("Enter")
    text = await tab.get_by_label("The receipt, to copy").first.text_content() or ""
    origin = notes.parse_origin(text.partition("\n")[0])
    async with clinic.db.appliance("acme-clinic", origin.appliance) as scope:
        key = scope.public_key
    assert notes.read_receipt(text, key, clinic.keys.witnesses).checkpoint.size == 7


async def test_the_word_receipted_leads_to_the_open_receipt(clinic: Running, tab: Page) -> None:
    await open_site(tab, clinic)
    await tab.get_by_role("link", name="receipted").first.click()
    await tab.get_by_label("The receipt, to copy").first.wait_for(state="visible")


async def test_the_skip_link_is_the_first_stop_and_leads_to_the_content(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
    await tab.get_by_role("heading", name="Acme IT Services").wait_for()
    await tab.keyboard.press("Tab")
    skip = tab.get_by_role("link", name="Skip to the content")
    assert await skip.evaluate("e => e === document.activeElement") is True
    await tab.keyboard.press("Enter")
    assert tab.url.endswith("#main")


async def test_a_page_asks_nobody_but_its_server_and_breaks_none_of_its_rules(
    clinic: Running, browser: Browser
) -> None:
    page, asked, said = await browser.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    await sign_in(page, clinic)
    await set_up_second_factor(page, clinic)
    for address in await every_page(page, clinic):
        answer = await page.goto(address)
        assert answer is not None, address
        assert answer.status == 200, address
    assert {url for url in asked if not url.startswith(f"{clinic.url}/")} == set()
    assert said == []


async def test_all_text_has_the_contrast_that_readers_need(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await sign_in(page, clinic, "wrong")
    await page.get_by_role("alert").wait_for()
    faint = await faint_text(page)
    await sign_in(page, clinic)
    await set_up_second_factor(page, clinic)
    for address in await every_page(page, clinic):
        await page.goto(address)
        faint += [(address, each) for each in await faint_text(page)]
    assert faint == []


async def faint_text(page: Page) -> list[object]:
    """Return what is too faint on the page, in light and in dark."""
    await page.emulate_media(color_scheme="light")
    light = list(await page.evaluate(CONTRAST))
    await page.emulate_media(color_scheme="dark")
    return light + list(await page.evaluate(CONTRAST))


async def test_a_page_never_scrolls_sideways(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await sign_in(page, clinic)
    await set_up_second_factor(page, clinic)
    for address in await every_page(page, clinic):
        await page.goto(address)
        for width in (320, 390, 740, 970, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, (address, width)


async def test_every_table_has_its_headings_and_every_field_its_label(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(clinic.url)
    assert await page.evaluate(UNLABELLED) == []
    await sign_in(page, clinic)
    await set_up_second_factor(page, clinic)
    for address in await every_page(page, clinic):
        await page.goto(address)
        assert await page.evaluate(UNLABELLED) == [], address
        assert await page.evaluate("[...document.querySelectorAll('th')].every(e => ['col', 'row'].includes(e.scope))")
        ids = await page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(set(ids)) == len(ids), address
        assert await page.evaluate("document.querySelectorAll('h1').length") == 1, address
