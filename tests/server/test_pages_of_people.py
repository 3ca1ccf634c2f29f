"""Pages of people, keys, codes, sessions and the audit log: secrets are shown once, and only to those who may."""

import html
import re
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from ccserver.queries import audit_log
from ccserver.queries.audit_log import Act
from ccshared import ids
from ccshared.purposes import EnrolmentCode
from ccshared.vocabulary import Role
from tests.devices import Device, Running
from tests.operators import audited, with_key
from tests.pages import assert_plain
from tests.people import Person, add, signed_in

HTML = {"Accept": "text/html"}


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[Person]:
    """An owner who signed in with a second factor."""
    person = await signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


def shown_once(answer: httpx.Response, label: str) -> str:
    """Return what a page gives to copy."""
    assert answer.status_code == 200, answer.text
    found = re.search(rf'<pre[^>]*aria-label="{label}[^"]*">([^<]+)</pre>', answer.text)
    assert found is not None, answer.text
    return html.unescape(found[1])


async def page(person: Person, path: str, status: int = 200) -> str:
    answer = await person.client.get(path, headers=HTML)
    assert answer.status_code == status, answer.text
    return answer.text


async def post(person: Person, path: str, **fields: str) -> httpx.Response:
    return await person.client.post(path, data=fields, headers=HTML)


async def stored(server: Running) -> str:
    """Return all that the database holds of codes, keys, links and the audit log, as text."""
    conn = await asyncpg.connect(server.urls.admin)
    found = await conn.fetchval(
        "SELECT (SELECT coalesce(string_agg(t::text, ''), '') FROM enrollment_codes t)"
        " || (SELECT coalesce(string_agg(t::text, ''), '') FROM api_keys t)"
        " || (SELECT coalesce(string_agg(t::text, ''), '') FROM invitations t)"
        " || (SELECT coalesce(string_agg(t::text, ''), '') FROM audit_log t)"
    )
    await conn.close()
    return str(found)


# Codes


async def test_a_code_is_shown_once_with_the_line_that_uses_it_and_enrols_a_device(
    server: Running, owner: Person
) -> None:
    answer = await post(owner, "/codes", site="acme-clinic", hours="2")
    code = shown_once(answer, "The code")
    install = shown_once(answer, "The command")
    assert install.startswith("sudo cc-agent enroll --server-url http")
    secret = code.rpartition("/")[2]
    assert secret not in install
    assert secret not in str(answer.url)
    assert secret not in await page(owner, "/codes?site=acme-clinic")
    assert secret not in await stored(server)
    device = Device(server, bytes(range(32)))
    assert (await device.enroll(EnrolmentCode(*code.split("/")))).status_code == 200
    assert "used" in await page(owner, "/codes?site=acme-clinic")
    assert [action for action, _ in await audited(server)].count("code.create") == 1


async def test_a_code_can_replace_an_appliance_and_be_revoked(server: Running, owner: Person, device: Device) -> None:
    assert device.appliance_id in await page(owner, f"/codes?site=acme-clinic&appliance={device.appliance_id}")
    made = await post(owner, "/codes", site="acme-clinic", hours="2", appliance=device.appliance_id)
    code = shown_once(made, "The code")
    path = re.search(
        r'action="(/sites/acme-clinic/codes/[0-9a-f]{32}/revoke)"', await page(owner, "/codes?site=acme-clinic")
    )
    assert path is not None
    assert (await post(owner, path[1])).headers["location"] == "/codes?site=acme-clinic"
    newcomer = Device(server, bytes(range(32)))
    assert (await newcomer.enroll(EnrolmentCode(*code.split("/")))).status_code == 403


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"hours": "2"}, 422),
        ({"site": "acme-clinic", "hours": "0"}, 422),
        ({"site": "acme-clinic", "hours": "721"}, 422),
        ({"site": "zenith-clinic", "hours": "2"}, 404),
        ({"site": "acme-clinic", "appliance": "nobody"}, 404),
    ],
)
async def test_a_code_that_cannot_be_is_not_made(
    server: Running, owner: Person, fields: dict[str, str], status: int
) -> None:
    await server.add_site("zenith", "zenith-clinic")
    assert (await post(owner, "/codes", **fields)).status_code == status
    assert "code.create" not in [action for action, _ in await audited(server)]


# Keys


async def test_a_key_is_shown_once_works_and_is_revoked(server: Running, owner: Person) -> None:
    made = await post(owner, "/keys", name="nightly <b>", role="viewer", days="7")
    key = shown_once(made, "The key")
    assert key not in await stored(server)
    headers = {"Authorization": f"Bearer {key}"}
    assert (await server.client.get("/api/v1/sites", headers=headers)).status_code == 200
    listed = await page(owner, "/keys")
    assert "nightly &lt;b&gt;" in listed
    assert key not in listed
    path = re.search(r'action="(/keys/[0-9a-z-]+/revoke)"', listed)
    assert path is not None
    assert (await post(owner, path[1])).status_code == 303
    assert (await server.client.get("/api/v1/sites", headers=headers)).status_code == 401
    actions = [action for action, _ in await audited(server)]
    assert (actions.count("api_key.create"), actions.count("api_key.revoke")) == (1, 1)


async def test_a_key_makes_no_key_on_the_page_either(server: Running) -> None:
    key = await with_key(server, "owner")
    answer = await server.client.post("/keys", headers=key.headers, data={"name": "x", "role": "owner", "days": "9"})
    assert answer.status_code == 403
    assert "api_key.create" not in [action for action, _ in await audited(server)]


# People


async def test_an_invited_person_chooses_a_password_by_the_link_that_was_shown_once(
    server: Running, owner: Person
) -> None:
    made = await post(owner, "/people", login="Vera@acme.example", role="viewer")
    link = shown_once(made, "The link")
    token = link.rpartition("/")[2]
    assert token not in await stored(server)
    listed = await page(owner, "/people")
    assert "vera@acme.example" in listed
    assert "invited" in listed
    chosen = await server.client.post(
        f"/welcome/{token}", data={"password": "a new long password"}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert chosen.status_code == 303
    assert "user.invite" in [action for action, _ in await audited(server)]


async def test_an_auditor_is_invited_for_sites_of_the_partner_only(server: Running, owner: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    for sites, status in [("", 422), ("zenith-clinic", 404), ("Not/An/Id", 422), ("acme-clinic", 200)]:
        answer = await post(owner, "/people", login="anna@acme.example", role="auditor", sites=sites)
        assert answer.status_code == status, sites
    assert 'href="/sites/acme-clinic"' in await page(owner, "/people")


async def test_a_person_is_disabled_and_nobody_disables_themselves(server: Running, owner: Person) -> None:
    other = await add(server, "tim@acme.example", Role.TECHNICIAN)
    async with other.client:
        await other.give_password()
        assert (await post(owner, f"/people/{other.user.id}/disable")).status_code == 303
        assert (await other.client.get("/")).status_code == 303  # to the sign-in form
    assert (await post(owner, f"/people/{owner.user.id}/disable")).status_code == 403
    assert "disabled" in await page(owner, "/people")


async def test_a_reset_gives_a_link_and_takes_the_authenticator_when_told_so(server: Running, owner: Person) -> None:
    other = await signed_in(server, "tim@acme.example", Role.TECHNICIAN)
    async with server.db.partner("acme") as scope:
        kept = await scope.conn.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", other.user.id)
    shown_once(await post(owner, f"/people/{other.user.id}/reset"), "The link")
    assert (await other.client.get("/account")).status_code == 200
    shown_once(await post(owner, f"/people/{other.user.id}/reset", second_factor="yes"), "The link")
    assert (await other.client.get("/account")).status_code == 303
    assert kept == 1
    await other.client.aclose()


async def test_people_and_keys_of_another_partner_are_out_of_reach(server: Running, owner: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    other = await add(server, "zoe@zenith.example", Role.OWNER, "zenith")
    await other.client.aclose()
    for what in ("disable", "reset"):
        assert (await post(owner, f"/people/{other.user.id}/{what}")).status_code == 404
    assert (await post(owner, f"/keys/{ids.new_id()}/revoke")).status_code == 404
    assert "zoe@" not in await page(owner, "/people")


# Sessions


async def test_a_person_sees_their_sessions_and_ends_one(server: Running, owner: Person) -> None:
    shown = await page(owner, "/account")
    (path,) = re.findall(r'action="(/account/sessions/[0-9a-z-]+/end)"', shown)
    other = await add(server, "tim@acme.example", Role.TECHNICIAN)
    async with other.client:
        await other.give_password()
        assert (await post(other, path)).status_code == 404
    assert (await post(owner, path)).status_code == 303
    assert (await owner.client.get("/account")).headers["location"] == "/login"


# The audit log


async def test_the_audit_log_says_whether_its_chain_is_whole(server: Running, owner: Person) -> None:
    shown = await page(owner, "/audit")
    assert "whole" in shown
    assert "were recomputed just now" in shown
    assert "Entry 1" not in await page(owner, "/audit/verification")
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE audit_log SET target = 'site:other' WHERE seq = 1 AND partner_id = 'acme'")
    await conn.close()
    assert "not whole" in await page(owner, "/audit")
    assert "entry 1 is not" in await page(owner, "/audit/verification")


async def test_a_long_chain_is_recomputed_step_by_step(
    server: Running, owner: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AT_ONCE", "_AT_ONCE"):
        monkeypatch.setattr(f"ccserver.audit_following.{name}", 1)
    monkeypatch.setattr("ccserver.pages.audit._AT_SIGHT", 1)
    assert "recomputed when you ask" in await page(owner, "/audit")
    path = "/audit/verification"
    for _ in range(10):
        shown = await page(owner, path)
        link = re.search(r'rel="next" href="([^"]+)"', shown)
        if link is None:
            break
        path = html.unescape(link[1])
    assert "and the last is the chain's head" in html.unescape(shown)


async def test_the_audit_log_is_filtered_by_the_url_and_paged(server: Running, owner: Person) -> None:
    async with server.db.partner("acme") as scope:
        for number in range(60):
            await audit_log.append(scope, Act("user:<x>", "test.act", f"thing:{number}", {}))
    shown = await page(owner, "/audit?actor=user%3A%3Cx%3E&action=&target=")
    assert len(re.findall(r">thing:\d+<", shown)) == 50
    assert "user:&lt;x&gt;" in shown
    link = re.search(r'rel="next" href="([^"]+)"', shown)
    assert link is not None
    assert len(re.findall(r">thing:\d+<", await page(owner, html.unescape(link[1])))) == 10
    assert "No entry is like that" in await page(owner, "/audit?action=none.such")


# Who may


@pytest.mark.parametrize("role", [Role.VIEWER, Role.TECHNICIAN])
async def test_the_bar_leads_only_where_one_may_go(server: Running, role: Role) -> None:
    person = await signed_in(server, f"{role}@acme.example", role)
    shown = await page(person, "/")
    for path in ("/people", "/keys", "/audit"):
        assert f'href="{path}"' not in shown
        await page(person, path, 403)
    assert ('href="/codes"' in shown) == (role is Role.TECHNICIAN)
    await page(person, "/codes", 200 if role is Role.TECHNICIAN else 403)
    await person.client.aclose()


async def test_a_bar_marks_the_page_that_is_open(owner: Person) -> None:
    assert re.search(r'href="/people" aria-current="page"', await page(owner, "/people"))
    assert re.search(r'href="/" aria-current="page"', await page(owner, "/sites/acme-clinic"))


async def test_no_page_has_a_script_of_its_own_a_style_or_another_hosts_address(owner: Person, device: Device) -> None:
    one = f"/sites/acme-clinic/appliances/{device.appliance_id}"
    for path in ("/", "/sites/acme-clinic", one, "/incidents", "/codes?site=acme-clinic", "/people", "/keys", "/audit"):
        assert_plain(await page(owner, path), path)
