"""What a new user does, in a real Chromium, from the first sign-in on. Screenshots are kept beside this file."""

import base64
import hashlib
import ipaddress
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from ccserver import totp, verify
from ccserver.config import Config, Smtp
from ccshared import ed25519, envelope, ids, notes, purposes
from ccshared.purposes import EnrolmentCode
from tests.devices import Device, Running
from tests.e2e import scene
from tests.operators import with_key
from tests.receivers import HttpReceiver, SmtpReceiver, http_receiver, smtp_receiver
from tests.server.test_flywheel import candidate

pytestmark = pytest.mark.browser
SCREENSHOTS = Path(__file__).parent / "screenshots"
LIVE_MS = 20_000


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpReceiver]:
    async with smtp_receiver() as receiver:
        yield receiver


@pytest.fixture
async def hook() -> AsyncIterator[HttpReceiver]:
    async with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def settings(settings: Config, smtp: SmtpReceiver) -> Config:
    """A server that does by itself what it does, and may tell receivers on this machine."""
    mail = Smtp("127.0.0.1", smtp.port, "none", "cc@example.org")
    return replace(settings, sweep_s=1, notify_allow=(ipaddress.ip_network("127.0.0.1/32"),), smtp=mail)


@pytest.fixture
async def page(server: Running, browser: Browser) -> AsyncIterator[Page]:
    """The first page that somebody sees; nothing on the way may make the browser complain."""
    await scene.set_up(server)
    made, said = await browser.new_page(), list[str]()
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    await made.goto(server.url)
    yield made
    assert said == []


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def server_keys(server: Running) -> list[str]:
    """The server's lines of a trust file, as its operator publishes them."""
    first = {key.use: key for key in reversed(server.keys.signing)}
    witness, order = first["witness"], first["order"]
    vkey = notes.vkey(witness.name, notes.WITNESS_ALGORITHM, witness.public_key)
    return [vkey, f"{order.name} {purposes.fingerprint(order.public_key)}"]


async def kept(page: Page, name: str) -> None:
    """Keep what the page looks like."""
    SCREENSHOTS.mkdir(exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def sign_in(page: Page) -> bytes:
    """Sign in for the first time, set up an authenticator, and sign in again with its code; return its secret."""
    await password(page)
    await page.get_by_role("link", name=scene.LOGIN).click()
    await page.locator("#factor-password").fill(scene.PASSWORD)
    await page.get_by_role("button", name="Set up a second factor").click()
    found = re.search(r"secret=([A-Z2-7]{32})", await page.content())
    assert found is not None
    secret = base64.b32decode(found[1])
    await page.get_by_role("textbox").fill(totp.code(secret, totp.step_at(time.time())))
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Recovery codes").wait_for()
    await page.get_by_role("button", name="Sign out").click()
    await password(page)
    await page.get_by_label("Code of your authenticator").fill(totp.code(secret, totp.step_at(time.time()) + 1))
    await kept(page, "sign-in-code")
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Acme IT Services").wait_for()
    return secret


async def password(page: Page) -> None:
    await page.get_by_label("Login").fill(scene.LOGIN)
    await page.get_by_label("Password").fill(scene.PASSWORD)
    await page.get_by_role("button", name="Sign in").click()


async def test_a_new_user_enrols_an_appliance_and_sees_it_arrive(server: Running, page: Page) -> None:
    await sign_in(page)
    await kept(page, "overview")
    await page.get_by_role("link", name="Enrol", exact=True).click()
    await page.get_by_label("Site").select_option("cedar")
    await page.get_by_role("button", name="Make a code").click()
    await page.get_by_role("button", name="Copy the command").click()
    await expect(page.get_by_text("Copied.")).to_be_visible()
    command = await page.get_by_label("The command, to copy").inner_text()
    assert command == f"sudo cc-agent enroll --server-url {server.url}"
    await expect(page.get_by_text("Waiting for first check-in…")).to_be_visible()
    code = await page.get_by_label("The code, to copy").inner_text()
    await first_check_in(server, EnrolmentCode(*code.split("/")))
    await expect(page.get_by_text("checked in", exact=False)).to_be_visible(timeout=LIVE_MS)
    await kept(page, "first-check-in")
    await page.get_by_role("link", name="cedar-gateway").click()
    await page.get_by_role("heading", name="cedar-gateway").wait_for()


async def first_check_in(server: Running, code: EnrolmentCode) -> Device:
    device = Device(server, ed25519.new_seed())
    answer = await device.enroll(code)
    opened = envelope.open_envelope(answer.json(), envelope.PayloadType.ENROLMENT, server.keys.order.public_key)
    device.appliance_id = opened["appliance_id"]
    device.token = (await device.ask_token()).json()["token"]
    said = {"version": "0.1.0", "hostname": "cedar-gateway", "sent_at_ms": now_ms(), "clock": "sync"}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    return device


async def test_the_worst_is_two_clicks_away_and_what_a_colleague_does_shows_by_itself(
    server: Running, page: Page, browser: Browser
) -> None:
    await sign_in(page)
    await page.get_by_role("link", name="Alder Street Clinic", exact=True).click()
    await page.get_by_role("link", name="backup", exact=True).click()
    await expect(page.get_by_text("the last backup is 51 h old").first).to_be_visible()
    await expect(page.locator("[data-live-state]")).to_have_text("live")
    site, _, incident = page.url.removeprefix(f"{server.url}/sites/").partition("/incidents/")
    colleague = await with_key(server, "technician")
    read = await colleague.call("GET", f"sites/{site}/incidents/{incident}")
    answer = await colleague.call(
        "POST", f"sites/{site}/incidents/{incident}/acknowledge", headers={"If-Match": read.headers["etag"]}
    )
    assert answer.status_code == 200, answer.text
    await expect(page.locator("#done")).to_contain_text("by key:", timeout=LIVE_MS)
    await kept(page, "incident-acknowledged")


async def test_an_export_from_the_page_verifies_for_whoever_gets_it(
    server: Running, page: Page, tmp_path: Path
) -> None:
    await sign_in(page)
    await page.get_by_role("link", name="Alder Street Clinic", exact=True).click()
    async with page.expect_download() as coming:
        await page.get_by_role("link", name="Export all evidence of Alder Street Clinic").click()
    export = tmp_path / "export.zip"
    await (await coming.value).save_as(export)
    trust = tmp_path / "keys.txt"
    async with server.db.platform() as scope:
        boxes = await scope.conn.fetch(
            "SELECT DISTINCT a.id, a.public_key FROM appliances a JOIN evidence_logs l ON l.appliance_id = a.id"
            " WHERE a.site_id = 'acme-clinic'"
        )
    lines = [f"{box['id']} {hashlib.sha256(box['public_key']).hexdigest()}" for box in boxes]
    trust.write_text("\n".join([*server_keys(server), *lines]))
    said = verified(export, trust)
    assert said.stdout.rstrip().endswith("INTACT"), said.stdout + said.stderr


def verified(export: Path, trust: Path) -> "subprocess.CompletedProcess[str]":
    """Run the verifier as its own file, as an auditor does."""
    command = [sys.executable, verify.__file__, export, "--trust", trust]
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_a_person_is_told_by_webhook_and_by_mail(
    server: Running, page: Page, hook: HttpReceiver, smtp: SmtpReceiver, device: Device
) -> None:
    await sign_in(page)
    owner = await with_key(server, "owner")
    shared = {"grace_s": 0, "resend_s": 0}
    for body in (
        {"kind": "webhook", "name": "ops", "url": hook.url},
        {"kind": "email", "name": "on call", "to": ["olga@acme.example"]},
    ):
        assert (await owner.call("POST", "channels", json=body | shared)).status_code == 201
    seen = {
        "id": ids.new_id(), "epoch": 1, "revision": 1, "host_id": "box", "pattern_signature": "0" * 16,
        "incident_type": "encryption", "severity": "critical", "raw_data": {"reason": "the volume is open"},
        "created_at_ms": now_ms(), "last_seen_at_ms": now_ms(), "escalated_at_ms": now_ms(),
    }  # fmt: skip
    assert (await device.call("PUT", "incidents", json={"incidents": [seen]})).status_code == 200
    until = time.monotonic() + 60
    while not ([each for each in hook.told if b"encryption" in each.body] and smtp.mails):
        assert time.monotonic() < until, (hook.told, smtp.mails)
        await page.wait_for_timeout(200)
    assert "webhook-signature" in hook.told[0].headers
    assert smtp.mails[0][0] == ["olga@acme.example"]


async def test_a_runbook_is_ordered_after_a_preview_and_watched_until_it_is_done(
    server: Running, page: Page, device: Device
) -> None:
    await sign_in(page)
    await page.goto(f"{server.url}/sites/acme-clinic/order?appliance={device.appliance_id}&runbook=run-checks-now")
    await page.get_by_role("button", name="Show exactly what would run").click()
    await page.get_by_role("heading", name="Exactly this would run").wait_for()
    await kept(page, "order-preview")
    await page.get_by_role("button", name="Order it now").click()
    await expect(page.locator("[data-live-state]")).to_have_text("live")
    await expect(page.locator("#state")).to_contain_text("pending")
    one = page.url.rpartition("/")[2]
    assert (await device.call("POST", f"orders/{one}/ack", json={})).status_code < 300
    await expect(page.locator("#state")).to_contain_text("acknowledged", timeout=LIVE_MS)
    result = {"status": "succeeded", "reason": "all checks ran", "steps": []}
    assert (await device.call("POST", f"orders/{one}/result", json=result)).status_code < 300
    await expect(page.locator("#state")).to_contain_text("succeeded", timeout=LIVE_MS)
    await expect(page.locator("#answer")).to_contain_text("all checks ran")
    await kept(page, "order-done")


async def test_a_rule_that_was_learned_is_approved(page: Page, device: Device) -> None:
    await candidate(device)
    await sign_in(page)
    await page.get_by_role("link", name="Learning", exact=True).click()
    await page.locator("tbody a").first.click()
    await kept(page, "rule-candidate")
    await page.get_by_label("Why you decide so").fill("It helped at two sites.")
    await page.get_by_role("button", name="Approve: try it on one appliance").click()
    await expect(page.get_by_text("on trial").first).to_be_visible()
