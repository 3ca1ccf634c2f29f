"""The dashboard in a real Chromium: signing in, both colour schemes, a phone, and nothing fetched from elsewhere."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page

from ccshared import notes
from tests.devices import Running
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


async def test_a_person_signs_in_sees_their_sites_and_signs_out(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
    await tab.get_by_role("heading", name="Acme IT Services").wait_for()
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
    await sign_in(tab, clinic)
    summary = tab.locator("summary").first
    await summary.press("Enter")
    text = await tab.get_by_label("The receipt, to copy").first.text_content() or ""
    origin = notes.parse_origin(text.partition("\n")[0])
    async with clinic.db.appliance("acme-clinic", origin.appliance) as scope:
        key = scope.public_key
    assert notes.read_receipt(text, key, clinic.keys.witnesses).checkpoint.size == 7


async def test_the_word_receipted_leads_to_the_open_receipt(clinic: Running, tab: Page) -> None:
    await sign_in(tab, clinic)
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
    await page.get_by_role("heading", name="Acme IT Services").wait_for()
    assert {url for url in asked if not url.startswith(f"{clinic.url}/")} == set()
    assert said == []


async def test_all_text_has_the_contrast_that_readers_need(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await sign_in(page, clinic, "wrong")
    await page.get_by_role("alert").wait_for()
    faint = await faint_text(page)
    await page.get_by_label("Password").fill(scene.PASSWORD)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Acme IT Services").wait_for()
    assert faint + await faint_text(page) == []


async def faint_text(page: Page) -> list[object]:
    """Return what is too faint on the page, in light and in dark."""
    await page.emulate_media(color_scheme="light")
    light = list(await page.evaluate(CONTRAST))
    await page.emulate_media(color_scheme="dark")
    return light + list(await page.evaluate(CONTRAST))


async def test_a_page_never_scrolls_sideways(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await sign_in(page, clinic)
    await page.get_by_role("heading", name="Acme IT Services").wait_for()
    for width in (320, 390, 740, 1280):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_every_table_has_its_headings_and_every_field_its_label(clinic: Running, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(clinic.url)
    assert await page.evaluate("[...document.querySelectorAll('input')].every(e => e.labels.length === 1)")
    await sign_in(page, clinic)
    await page.get_by_role("heading", name="Acme IT Services").wait_for()
    assert await page.evaluate("[...document.querySelectorAll('th')].every(e => ['col', 'row'].includes(e.scope))")
    ids = await page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
