"""The dashboard and its sign-in, over a real socket with the real database behind it."""

import html
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from ccserver import auth, liveness
from ccserver.liveness import Liveness
from ccserver.pages import overview, sites, wording
from ccserver.queries import users
from ccserver.queries.overview import Asked
from ccserver.queries.users import User
from ccshared import ids, notes
from ccshared.vocabulary import Kind, Role
from tests.devices import NOW_MS, Device, Running

PASSWORD = "correct horse battery staple"
HASH = auth.hash_password(PASSWORD)
SITE = "/sites/acme-clinic"
NOW = datetime(2026, 9, 22, 12, tzinfo=UTC)


@pytest.fixture
async def visitor(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has not signed in."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
async def owner(server: Running, visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser in which an owner of the one partner has signed in."""
    await add_person(server, "olga@acme.example", "acme", Role.OWNER)
    assert (await sign_in(visitor, "olga@acme.example")).status_code == 303
    return visitor


@pytest.fixture
async def admin(server: Running, visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser in which a platform admin has signed in."""
    await add_person(server, "root@platform.example", "platform", Role.PLATFORM_ADMIN)
    assert (await sign_in(visitor, "root@platform.example")).status_code == 303
    return visitor


async def add_person(server: Running, login: str, partner_id: str, role: Role) -> None:
    async with server.db.platform() as scope:
        await users.insert(scope, User(partner_id, ids.new_id(), login, str(role)), HASH)


async def sign_in(client: httpx.AsyncClient, login: str, password: str = PASSWORD) -> httpx.Response:
    return await client.post("/login", data={"login": login, "password": password})


async def text_of(client: httpx.AsyncClient, path: str = "/") -> str:
    """Return what a page says, its tags left out and its spaces single."""
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    words = re.sub(r"<[^>]+>", " ", answer.text.partition("<main")[2])
    return re.sub(r"\s+([,.;:)])", r"\1", " ".join(html.unescape(words).split()))


async def alter(server: Running, statement: str, *values: object) -> None:
    """Change the database as its superuser, as no server could."""
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute(statement, *values)
    await conn.close()


async def send_new(device: Device) -> None:
    answer = await device.send(device.batch(0))
    assert answer.status_code == 200, answer.text


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


# Signing in


async def test_a_page_sends_who_is_not_signed_in_to_the_form(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert 'action="/login"' in (await visitor.get("/login")).text


async def test_the_right_login_and_password_lead_to_the_dashboard(owner: httpx.AsyncClient) -> None:
    assert "Acme" in await text_of(owner)
    assert (await owner.get("/login")).headers["location"] == "/"


async def test_a_wrong_password_and_an_unknown_login_get_the_same_answer(
    server: Running, visitor: httpx.AsyncClient
) -> None:
    await add_person(server, "olga@acme.example", "acme", Role.OWNER)
    known = await sign_in(visitor, "olga@acme.example", "wrong")
    unknown = await sign_in(visitor, "nobody@acme.example", "wrong")
    assert (known.status_code, unknown.status_code) == (401, 401)
    assert known.text.replace("olga", "nobody") == unknown.text
    assert not visitor.cookies


async def test_signing_in_ends_the_session_that_the_browser_had(owner: httpx.AsyncClient) -> None:
    before = owner.cookies["cc_session"]
    await sign_in(owner, "olga@acme.example")
    assert owner.cookies["cc_session"] != before
    owner.cookies.clear()
    owner.cookies["cc_session"] = before
    assert (await owner.get("/")).status_code == 303


async def test_signing_out_ends_the_session_on_the_server_too(owner: httpx.AsyncClient) -> None:
    before = owner.cookies["cc_session"]
    assert (await owner.post("/logout")).headers["location"] == "/login"
    assert not owner.cookies
    owner.cookies["cc_session"] = before
    assert (await owner.get("/")).status_code == 303


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(
    server: Running, visitor: httpx.AsyncClient
) -> None:
    await add_person(server, "olga@acme.example", "acme", Role.OWNER)
    cookie = (await sign_in(visitor, "olga@acme.example")).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_a_form_sent_by_another_sites_page_is_refused(owner: httpx.AsyncClient, path: str) -> None:
    answer = await owner.post(path, data={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "Acme" in await text_of(owner)


@pytest.mark.parametrize(("body", "status"), [(b"login=" + b"a" * 9000, 413), (b"\xff", 422), (b"a&" * 9 + b"a", 422)])
async def test_a_body_that_is_not_the_form_is_refused(visitor: httpx.AsyncClient, body: bytes, status: int) -> None:
    assert (await visitor.post("/login", content=body)).status_code == status


async def test_what_was_typed_comes_back_as_text_and_never_as_markup(visitor: httpx.AsyncClient) -> None:
    answer = await sign_in(visitor, '"><script>alert(1)</script>', "wrong")
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text


async def test_an_appliances_token_opens_no_page(server: Running, device: Device) -> None:
    assert (await server.client.get("/", headers=device.headers)).status_code == 303


# What every page carries


async def test_every_page_forbids_whatever_it_does_not_need(owner: httpx.AsyncClient) -> None:
    for answer in [
        await owner.get("/"),
        await owner.get("/?partner=other"),
        await owner.post("/login", data={"a": "b"}),
    ]:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        loads = re.sub(r"--server-url \S+</pre>", "", answer.text)  # a line to copy, not to load
        assert not re.search(r"<script(?! defer src=./static/)|<style|\sstyle=|\son[a-z]+=|https?://", loads)


async def test_the_line_that_installs_holds_no_code(owner: httpx.AsyncClient) -> None:
    """A code in an address or on a command line is readable for every user of the appliance, and for proxies."""
    lines = re.findall(r"<pre[^>]*>(.*cc-agent enroll.*)</pre>", (await owner.get("/sites/acme-clinic")).text)
    assert lines
    assert all(re.fullmatch(r"sudo cc-agent enroll --server-url http://127\.0\.0\.1:\d+", line) for line in lines)


async def test_a_page_names_its_style_by_content_and_browsers_keep_it(visitor: httpx.AsyncClient) -> None:
    found = re.search(r'href="(/static/app\.css\?v=[0-9a-f]{12})"', (await visitor.get("/login")).text)
    assert found is not None
    style = await visitor.get(found[1])
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "max-age" in style.headers["cache-control"]
    again = await visitor.get(found[1], headers={"If-None-Match": style.headers["etag"]})
    assert again.status_code == 304


# Whose page


async def test_a_person_sees_their_own_partner_and_gets_404_for_any_other(
    server: Running, owner: httpx.AsyncClient
) -> None:
    await server.add_site("zenith", "zenith-clinic")
    assert "zenith" not in (await owner.get("/")).text.lower()
    assert (await owner.get("/?partner=zenith")).status_code == 404
    assert (await owner.get("/?partner=acme")).status_code == 200


async def test_an_auditor_without_sites_sees_none(server: Running, visitor: httpx.AsyncClient) -> None:
    await add_person(server, "anna@acme.example", "acme", Role.AUDITOR)
    await sign_in(visitor, "anna@acme.example")
    answer = await visitor.get("/")
    assert answer.status_code == 403
    assert "Acme-Clinic" not in answer.text


async def test_an_auditor_sees_the_sites_assigned_and_no_other(server: Running, visitor: httpx.AsyncClient) -> None:
    await server.add_site("acme", "acme-hidden")
    await add_person(server, "anna@acme.example", "acme", Role.AUDITOR)
    await alter(
        server,
        "INSERT INTO user_sites (partner_id, user_id, site_id)"
        " SELECT 'acme', id, 'acme-clinic' FROM users WHERE login = $1",
        "anna@acme.example",
    )
    await sign_in(visitor, "anna@acme.example")
    shown = await text_of(visitor)
    assert "Acme-Clinic" in shown
    assert "Hidden" not in shown


async def test_a_waived_check_is_marked_with_its_reason_and_end(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    device.check_run("firewall", "fail", at=now_ms())
    await send_new(device)
    await alter(
        server,
        "INSERT INTO waivers (site_id, partner_id, id, check_id, reason, created_by, expires_at) VALUES"
        " ('acme-clinic', 'acme', 'w', 'firewall', 'replaced next week', 'x', '2199-01-02 03:04Z')",
    )
    shown = await text_of(owner, SITE)
    assert "Waived until 2199-01-02 03:04" in shown
    assert "replaced next week" in shown


async def test_flagged_entries_are_listed(owner: httpx.AsyncClient, device: Device) -> None:
    device.seal()
    device.seal(Kind.CHECK_RUN, {"odd": 1}, now_ms())
    await send_new(device)
    assert "not a check run of a known shape" in (await text_of(owner, SITE)).partition("Flagged entries")[2][:200]


async def test_an_admin_sees_the_one_partner_at_once_and_chooses_among_more(
    server: Running, admin: httpx.AsyncClient
) -> None:
    assert "Acme-Clinic" in await text_of(admin)
    await server.add_site("zenith", "zenith-clinic")
    chosen = await admin.get("/")
    assert 'href="/?partner=zenith"' in chosen.text
    assert "Acme-Clinic" not in chosen.text
    assert "Zenith-Clinic" in await text_of(admin, "/?partner=zenith")


@pytest.mark.parametrize("query", ["partner=nobody", "partner=platform", "partner=%00", "partner=", "page=0", "page=2"])
async def test_what_is_not_there_is_a_404_page(admin: httpx.AsyncClient, query: str) -> None:
    answer = await admin.get(f"/?{query}")
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


# What to do next


async def test_an_empty_platform_says_how_to_make_a_partner(server: Running, admin: httpx.AsyncClient) -> None:
    await alter(server, "DELETE FROM sites")
    await alter(server, "DELETE FROM partners WHERE id <> 'platform'")
    assert "ccserver partner create" in await text_of(admin)


async def test_a_partner_without_sites_says_how_to_make_one(server: Running, owner: httpx.AsyncClient) -> None:
    await alter(server, "DELETE FROM sites")
    assert "ccserver site create --partner acme" in await text_of(owner)


async def test_a_site_without_appliances_says_how_to_enrol_one(owner: httpx.AsyncClient) -> None:
    text = await text_of(owner, SITE)
    assert "ccserver enroll-code create --site acme-clinic" in text
    assert "nothing known yet" in text
    assert "%" not in text


async def test_an_enrolled_appliance_that_was_never_heard_of_is_said_to_be_so(
    owner: httpx.AsyncClient, device: Device
) -> None:
    assert device.appliance_id
    assert "? never enrolled, and not heard of since" in await text_of(owner, SITE)


# Honest numbers


async def test_a_site_shows_its_score_with_what_is_unknown_and_as_of_when(
    owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    for check, status in [("backup", "pass"), ("firewall", "fail"), ("logging", "unknown"), ("patching", "pass")]:
        device.check_run(check, status, at=now_ms() - 240_000)
    await send_new(device)
    assert "2 of 3 checks pass, 3 unknown as of 4 min ago" in await text_of(owner, SITE)


async def test_a_stale_check_is_unknown_whatever_it_said(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    device.check_run("backup", "pass", at=now_ms())
    await send_new(device)
    await alter(server, "UPDATE check_states SET seen_at = now() - interval '5 hours'")
    text = await text_of(owner, SITE)
    assert "? nothing known now 6 checks unknown, the last run was 5 h ago" in text
    assert "Stale: it said pass 5 h ago" in text
    assert "✓ pass" not in text


async def test_checks_stand_worst_first_and_a_stale_failure_among_the_unknown(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    for check, status in [("antivirus", "fail"), ("backup", "pass"), ("encryption", "unknown"), ("patching", "fail")]:
        device.check_run(check, status, f"reason of {check}", at=now_ms())
    await send_new(device)
    await alter(server, "UPDATE check_states SET seen_at = now() - interval '5 hours' WHERE check_id = 'antivirus'")
    found = re.findall(r"reason of (\w+)", await text_of(owner, SITE))
    assert found == ["patching", "antivirus", "encryption", "backup"]


async def test_an_appliance_shows_its_clock_and_what_waits_by_that_clock(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    ahead = now_ms() + 10 * 365 * 86_400_000
    said = {"version": "1.2.3", "hostname": "box", "sent_at_ms": ahead, "clock": "unsync", "waiting": 12}
    said["oldest_at_ms"] = ahead - 3 * 3_600_000 - 1000
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    text = await text_of(owner, SITE)
    assert "box ✓ online" in text
    assert "1.2.3 not synchronised: its clock is 10 years ahead" in text
    assert "12 entries, the oldest 3 h old" in text
    await alter(server, "UPDATE appliances SET last_checkin = now() - interval '5 minutes'")
    assert "! overdue 5 min ago" in await text_of(owner, SITE)


async def test_open_incidents_stand_newest_first_and_say_how_many_there_are(
    owner: httpx.AsyncClient, device: Device
) -> None:
    incidents = [
        {
            "id": f"incident-{number:02}", "epoch": 1, "revision": 1, "host_id": "box", "incident_type": "backup",
            "severity": "high", "raw_data": {"reason": f"reason {number:02}"}, "pattern_signature": "0" * 16,
            "created_at_ms": NOW_MS + number, "last_seen_at_ms": NOW_MS + number, "occurrences": 3,
        }
        for number in range(25)
    ]  # fmt: skip
    assert (await device.call("PUT", "incidents", json={"incidents": incidents})).status_code == 200
    text = await text_of(owner, SITE)
    assert re.findall(r"reason (\d\d)", text) == [f"{number:02}" for number in range(24, 4, -1)]
    assert "The newest 20 of 25." in text
    assert "3 times" in text


async def test_what_an_appliance_says_comes_out_as_text(owner: httpx.AsyncClient, device: Device) -> None:
    device.seal()
    device.check_run("backup", "fail", "<img src=x onerror=alert(1)>", at=now_ms())
    await send_new(device)
    answer = await owner.get(SITE)
    assert "<img" not in answer.text
    assert "&lt;img src=x" in answer.text


# Proof


async def test_evidence_is_shown_with_a_receipt_that_verifies_for_who_copies_it(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    device.check_run("backup", "pass", at=now_ms())
    await send_new(device)
    shown = (await owner.get(SITE)).text
    text = re.search(r'<pre class="receipt"[^>]*>(.*?)</pre>', shown, re.DOTALL)
    assert text is not None
    receipt = notes.read_receipt(html.unescape(text[1]), device.public_key, server.keys.witnesses)
    assert receipt.checkpoint.size == 2
    assert device.leaves()[1].hex()[:12] in shown
    assert (await text_of(owner, SITE)).count("✓ receipted") == 2


async def test_the_page_leads_to_the_export_of_a_site(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    await send_new(device)
    link = re.search(r'href="(/api/v1/sites/acme-clinic/evidence-export)"', (await owner.get(SITE)).text)
    assert link is not None
    answer = await owner.get(link[1])
    assert (answer.status_code, answer.content[:4]) == (200, b"PK\x03\x04")


async def test_a_log_that_is_not_what_was_receipted_is_shown(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    await send_new(device)
    await alter(
        server,
        "INSERT INTO log_verifications (site_id, partner_id, log_id, size, compact_range, done_at, fault)"
        " SELECT site_id, partner_id, id, 1, '', now(), 'entry 0 is missing' FROM evidence_logs",
    )
    assert "is not what was receipted: entry 0 is missing" in await text_of(owner, SITE)


async def test_evidence_without_a_cosignature_is_not_shown_as_receipted(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    await send_new(device)
    await alter(server, "UPDATE evidence_logs SET cosigned_at = NULL, witness_name = NULL")
    text = await text_of(owner, SITE)
    assert "? not yet" in text
    assert "✓ receipted" not in text


async def test_a_receipt_covers_no_entry_beyond_its_size(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    device.check_run("backup", "pass", at=now_ms())
    await send_new(device)
    await alter(server, "UPDATE evidence_logs SET checkpoint = $1", device.checkpoint(1))
    text = await text_of(owner, SITE)
    assert (text.count("✓ receipted"), text.count("? not yet")) == (1, 1)


async def test_the_newest_ten_entries_of_a_site_stand_in_order_whichever_appliance_sent_them(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    other = await Device.enrolled(server, "acme", "acme-clinic")
    for sender in (device, other):
        sender.seal()
        for _ in range(8):
            sender.seal(Kind.HEARTBEAT, {"version": "0.1.0"}, now_ms())
        await send_new(sender)
    found = re.findall(r"(heartbeat|genesis) no\. (\d)", await text_of(owner, SITE))
    assert [int(seq) for _, seq in found] == [8, 7, 6, 5, 4, 3, 2, 1, 0, 8]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("checkpoint = replace(checkpoint, E'\\n1\\n', E'\\n9\\n')", "a signature does not verify"),
        ("witness_name = 'cc.example/server/gone'", "this server has no key cc.example/server/gone"),
    ],
)
async def test_a_receipt_that_does_not_verify_covers_nothing(
    server: Running, owner: httpx.AsyncClient, device: Device, change: str, said: str
) -> None:
    device.seal()
    await send_new(device)
    await alter(server, f"UPDATE evidence_logs SET {change}")  # noqa: S608  the parameters above
    text = await text_of(owner, SITE)
    assert said in text
    assert "✕ no good receipt" in text
    assert "✓ receipted" not in text


async def test_an_entry_leads_to_what_it_says_and_to_its_proof(
    server: Running, owner: httpx.AsyncClient, device: Device
) -> None:
    device.seal()
    await send_new(device)
    shown = (await owner.get(SITE)).text
    for end, part in (("payload", device.origin), ("proof", device.origin)):
        link = re.search(rf'href="(/api/v1/sites/acme-clinic/logs/[0-9]+/evidence/0/{end})"', shown)
        assert link is not None
        answer = await owner.get(link[1])
        assert (answer.status_code, part in answer.text) == (200, True), answer.text


# Many sites


async def test_the_overview_takes_the_same_three_statements_for_one_site_and_for_many(server: Running) -> None:
    async def asked() -> int:
        queries: list[object] = []
        async with server.db.partner("acme") as scope:
            scope.conn.add_query_logger(queries.append)
            await overview.read(scope, NOW, Asked())
            scope.conn.remove_query_logger(queries.append)
        return len(queries)

    await asked()  # the driver learns the columns' types
    one = await asked()
    for number in range(9):
        await server.add_site("acme", f"acme-{number}")
    assert one == await asked() == 3


async def test_the_page_of_a_site_takes_two_statements_whatever_it_holds(server: Running, device: Device) -> None:
    async def asked() -> int:
        queries: list[object] = []
        async with server.db.site("acme", "acme-clinic") as scope:
            scope.conn.add_query_logger(queries.append)
            await sites.read(scope, NOW)
            scope.conn.remove_query_logger(queries.append)
        return len(queries)

    await asked()
    device.seal()
    device.check_run("backup", "pass", at=now_ms())
    await send_new(device)
    assert await asked() == 2


async def test_sites_stand_fifty_to_a_page(server: Running, owner: httpx.AsyncClient) -> None:
    async with server.db.partner("acme") as scope:
        await scope.conn.executemany(
            "INSERT INTO sites (id, partner_id, name) VALUES ($1, 'acme', $2)",
            [(f"s-{number}", f"Site {number:02}") for number in range(1, 51)],
        )
    first, second = await text_of(owner, "/?sort=name"), await text_of(owner, "/?sort=name&page=2")
    assert first.index("Acme-Clinic") < first.index("Site 01") < first.index("Site 49")
    assert "Sites 1 to 50 of 51" in first
    assert "Site 50 " not in first
    assert "Site 50 " in second
    assert "Previous sites" in second


# The rules


@pytest.mark.parametrize(
    ("silent", "expected"),
    [(0, "online"), (179, "online"), (180, "overdue"), (899, "overdue"), (900, "offline"), (10**8, "offline")],
)
def test_liveness_follows_from_the_last_check_in(silent: int, expected: str) -> None:
    assert liveness.of(NOW - timedelta(seconds=silent), NOW) == expected


def test_an_appliance_that_never_checked_in_is_neither_online_nor_offline() -> None:
    assert liveness.of(None, NOW) is Liveness.NEVER


def test_the_age_of_what_waits_is_not_known_once_the_clock_went_back() -> None:
    hour = timedelta(hours=1)
    assert liveness.oldest_age(NOW - hour, NOW, 0) == hour
    assert liveness.oldest_age(NOW + hour, NOW, 2 * 3_600_000) == hour
    assert liveness.oldest_age(NOW + hour, NOW, 0) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"), (5, "5 s ago"), (240, "4 min ago"), (3 * 3600, "3 h ago"), (47 * 3600, "47 h ago"),
        (3 * 86400, "3 days ago"), (90 * 86400, "3 months ago"), (3650 * 86400, "10 years ago"), (-240, "in 4 min"),
    ],
)  # fmt: skip
def test_a_time_is_said_in_its_largest_sensible_unit(seconds: int, said: str) -> None:
    assert wording.ago(NOW - timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(
    ("state", "offset_ms", "said"),
    [
        ("sync", 60_000, ["synchronised"]),
        ("sync", -61_000, ["synchronised", "its clock is 1 min behind"]),
        ("stepped", None, ["was stepped"]),
        (None, None, ["not known"]),
    ],
)
def test_a_clock_is_said_to_be_wrong_beyond_a_minute(state: str | None, offset_ms: int | None, said: list[str]) -> None:
    assert wording.clock(state, offset_ms) == said
