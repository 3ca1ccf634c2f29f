"""axe-core looks at every page of the route table, light and dark, on a desk and on a phone."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from playwright.async_api import Browser, Page

from ccserver import app
from tests.architecture import rows
from tests.devices import Running
from tests.e2e import scene
from tests.e2e.test_browser import set_up_second_factor, sign_in

pytestmark = pytest.mark.browser
AXE = (Path(__file__).parent / "vendor/axe.min.js").read_text()
RUN = """() => axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
  .filter(each => ["serious", "critical"].includes(each.impact))
  .map(each => `${each.id}: ${each.nodes[0].html.slice(0, 160)}`))"""
# Parts that the page loads by itself are there.
WHOLE = """() => [...document.querySelectorAll("[hx-trigger=load]")].every(each => each.querySelector("[id]"))"""
WIDTHS = {"desk": 1280, "phone": 390}

# What answers a GET and is no page.
NO_PAGES = {"/events", "/healthz", "/readyz", "/api/openapi.json"}
# An id of each kind in the scene; of any other kind a row is made from the schema, of the table that has its name.
IDS = {
    "site": "SELECT 'acme-clinic'",
    "appliance": "SELECT id FROM appliances WHERE site_id = 'acme-clinic' ORDER BY waiting DESC NULLS LAST LIMIT 1",
    "incident": "SELECT id FROM incidents WHERE site_id = 'acme-clinic' LIMIT 1",
    "code": "SELECT left(secret_hash, 32) FROM enrollment_codes WHERE site_id = 'acme-clinic' LIMIT 1",
    "token": "SELECT 'not-a-token'",
    "version": "SELECT max(version)::text FROM policies",
}
TABLES = {"channel": "notification_channels", "delivery": "notifications"}
# The same page with more on it, or with nothing.
MORE = [
    "/?q=nothing",
    "/?show=waiting",
    "/codes?site=acme-clinic",
    "/incidents?state=closed",
    "/sites/cedar",
    "/nowhere",
]


def pages() -> list[str]:
    """Every page of the route table."""
    found = [row for row in app.ENDPOINTS if row.method == "GET" and not row.path.startswith(("/agent/", "/api/v1"))]
    return [row.path for row in found if row.path not in NO_PAGES]


async def addresses(server: Running) -> list[str]:
    """Return an address for each page, with an id that is there for each name in it."""
    conn = await asyncpg.connect(server.urls.admin)
    found = {name: await conn.fetchval(query) for name, query in IDS.items()}
    await conn.execute("SET session_replication_role = replica")
    for name in set(re.findall(r"{(\w+)}", " ".join(pages()))) - set(found):
        found[name] = await made(conn, TABLES.get(name, f"{name}s"), found["appliance"])
    await conn.close()
    assert None not in found.values(), found
    return [*(re.sub(r"{(\w+)}", lambda name: str(found[name[1]]), path) for path in pages()), *MORE]


async def made(conn: Any, table: str, appliance_id: str) -> str:
    """Add a row of the busy site to a table, made from the schema, and return its id."""
    columns, names = await rows.maker(conn, table), await rows.columns_of(conn, table)
    row = rows.row_of(table, columns, names, ("acme", "acme-clinic", appliance_id), 7)
    await rows.insert(conn, table, row)
    return str(row["id"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_on_any_page(server: Running, browser: Browser, scheme: Any) -> None:
    await scene.set_up(server)
    page = await browser.new_page(color_scheme=scheme)
    faults = await visited(page, f"{server.url}/login")
    await sign_in(page, server)
    await set_up_second_factor(page, server)
    faults += await faults_of(page, "recovery codes")
    await page.goto(f"{server.url}/codes?site=cedar")
    await page.get_by_role("button", name="Make a code").click()
    await page.get_by_role("heading", name="Its appliance").wait_for()
    faults += await faults_of(page, "a code made")
    paths = await addresses(server)
    for path in paths:
        faults += await visited(page, server.url + path)
    await become_platform_admin(server, page)
    for path in [path for path in paths if path.startswith("/platform/")] + ["/", "/?partner=acme"]:
        faults += await visited(page, server.url + path)
    assert faults == []


async def become_platform_admin(server: Running, page: Page) -> None:
    """Give the browser the session of a platform admin who signed in with a second factor."""
    value = secrets.token_urlsafe(32)
    async with server.db.platform() as scope:
        await scope.conn.execute(
            "INSERT INTO users (partner_id, id, login, role, password_hash)"
            " VALUES ('platform', 'root', 'root@example.org', 'platform_admin', 'x')"
        )
        await scope.conn.execute(
            "INSERT INTO sessions (partner_id, id, token_hash, user_id, expires_at, second_factor)"
            " VALUES ('platform', 'root', $1, 'root', now() + interval '1 hour', true)",
            hashlib.sha256(value.encode()).hexdigest(),
        )
    await page.context.clear_cookies()
    await page.context.add_cookies([{"name": "cc_session", "value": value, "url": server.url}])


async def visited(page: Page, address: str) -> list[str]:
    """Open a page at each width and return what axe finds."""
    await page.goto(address)
    await page.wait_for_function(WHOLE)
    return await faults_of(page, address)


async def faults_of(page: Page, address: str) -> list[str]:
    found = []
    for name, width in WIDTHS.items():
        await page.set_viewport_size({"width": width, "height": 900})
        await page.evaluate(AXE)
        found += [f"{address} {name}: {each}" for each in await page.evaluate(RUN)]
    return found


async def test_axe_sees_what_is_wrong(browser: Browser) -> None:
    page = await browser.new_page()
    await page.set_content("<html lang=en><title>x</title><main><input><p style='color:#aaa;background:#fff'>faint</p>")
    await page.evaluate(AXE)
    found = " ".join(await page.evaluate(RUN))
    assert "label:" in found
    assert "color-contrast:" in found
