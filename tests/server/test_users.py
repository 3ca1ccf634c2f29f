"""People: invited by a one-time link, disabled, reset; only by owners, only of their own partner."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ccshared.vocabulary import Role
from tests import people
from tests.devices import Running
from tests.people import Person

ROUTES = [
    ("GET", "/api/v1/users", {}),
    ("POST", "/api/v1/users", {"login": "new@acme.example", "role": "viewer"}),
    ("POST", "/api/v1/users/any/disable", {}),
    ("POST", "/api/v1/users/any/reset", {}),
]
CHOSEN = {"password": "a password of my own"}


@pytest.fixture
async def olga(server: Running) -> AsyncIterator[Person]:
    """An owner with a second factor, signed in."""
    person = await people.signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


@pytest.fixture
async def browser(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which nobody has signed in."""
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
        yield client


async def invite(olga: Person, **body: Any) -> dict[str, str]:
    answer = await olga.client.post("/api/v1/users", json={"login": "Vic@acme.example", "role": "viewer"} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


async def sign_in(browser: httpx.AsyncClient, login: str = "vic@acme.example") -> int:
    return (await browser.post("/login", data={"login": login} | CHOSEN)).status_code


async def change(server: Running, statement: str, *values: object) -> Any:
    conn = await asyncpg.connect(server.urls.admin)
    found = await conn.fetchval(statement, *values)
    await conn.close()
    return found


async def test_an_invited_person_chooses_a_password_by_the_link_and_only_once(
    olga: Person, browser: httpx.AsyncClient
) -> None:
    link = (await invite(olga))["link"]
    assert (await browser.get(link)).status_code == 200
    assert (await browser.post(link, data=CHOSEN)).headers["location"] == "/login"
    assert (await browser.post(link, data=CHOSEN)).status_code == 404
    assert (await browser.get(link)).status_code == 404
    assert await sign_in(browser) == 303


async def test_an_invited_person_without_a_password_cannot_sign_in(olga: Person, browser: httpx.AsyncClient) -> None:
    await invite(olga)
    assert await sign_in(browser) == 401


async def test_a_short_password_is_refused_and_the_link_stays_good(olga: Person, browser: httpx.AsyncClient) -> None:
    link = (await invite(olga))["link"]
    assert (await browser.post(link, data={"password": "elevenchars"})).status_code == 422
    assert (await browser.post(link, data=CHOSEN)).status_code == 303


async def test_an_expired_link_an_earlier_one_and_a_made_up_one_are_refused(
    server: Running, olga: Person, browser: httpx.AsyncClient
) -> None:
    made = await invite(olga)
    newer = (await olga.client.post(f"/api/v1/users/{made['user_id']}/reset", json={})).json()
    assert (await browser.post(made["link"], data=CHOSEN)).status_code == 404
    await change(server, "UPDATE invitations SET expires_at = now()")
    assert (await browser.post(newer["link"], data=CHOSEN)).status_code == 404
    for token in ("A" * 43, "x", "%00"):
        assert (await browser.get(f"/welcome/{token}")).status_code == 404


async def test_links_are_kept_as_hashes_and_stay_out_of_the_log(
    server: Running, olga: Person, browser: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    link = (await invite(olga))["link"]
    token = link.rpartition("/")[2]
    with caplog.at_level(logging.INFO, "ccserver.http"):
        await browser.get(link)
    said = [str(vars(record)) for record in caplog.records if record.name.startswith("ccserver")]
    assert any("'route': '/welcome/{token}'" in each for each in said)
    assert not any(token in each for each in said)
    assert token not in await change(server, "SELECT string_agg(i::text, '') FROM invitations i")
    assert token not in await change(server, "SELECT string_agg(convert_from(entry, 'UTF8'), '') FROM audit_log")


async def test_a_disabled_person_is_out_at_once(olga: Person, browser: httpx.AsyncClient) -> None:
    made = await invite(olga)
    await browser.post(made["link"], data=CHOSEN)
    await sign_in(browser)
    assert (await browser.get("/account")).status_code == 200
    assert (await olga.client.post(f"/api/v1/users/{made['user_id']}/disable")).status_code == 200
    assert (await browser.get("/account")).status_code == 303
    assert await sign_in(browser) == 401
    assert (await olga.client.post(f"/api/v1/users/{made['user_id']}/reset", json={})).status_code == 404


async def test_a_reset_leaves_the_password_until_it_is_used_and_then_ends_every_session(
    server: Running, olga: Person, browser: httpx.AsyncClient
) -> None:
    vic = await people.signed_in(server, "vic@acme.example", Role.VIEWER)
    link = (await olga.client.post(f"/api/v1/users/{vic.user.id}/reset", json={})).json()["link"]
    assert (await vic.client.get("/account")).status_code == 200
    await browser.post(link, data=CHOSEN)
    assert (await vic.client.get("/account")).status_code == 303
    assert "Your code" in (await browser.post("/login", data={"login": vic.user.login} | CHOSEN)).text
    await vic.client.aclose()


async def test_a_reset_of_the_second_factor_voids_it_and_ends_the_sessions(server: Running, olga: Person) -> None:
    vic = await people.signed_in(server, "vic@acme.example", Role.VIEWER)
    await olga.client.post(f"/api/v1/users/{vic.user.id}/reset", json={"second_factor": True})
    assert (await vic.client.get("/account")).status_code == 303
    assert (await vic.give_password()).status_code == 303
    left = await change(server, "SELECT count(*) FROM recovery_codes WHERE user_id = $1", vic.user.id)
    assert left == 0
    await vic.client.aclose()


async def test_people_of_another_partner_are_not_there(server: Running, olga: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    zoe = await people.signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    listed = (await zoe.client.get("/api/v1/users?total=true")).json()
    assert ([row["login"] for row in listed["items"]], listed["total"]) == (["zoe@zenith.example"], 1)
    for path in (f"/api/v1/users/{olga.user.id}/disable", f"/api/v1/users/{olga.user.id}/reset"):
        assert (await zoe.client.post(path, json={})).status_code == 404
    assert (await olga.client.get("/account")).status_code == 200
    await zoe.client.aclose()


async def test_an_auditor_gets_sites_of_the_own_partner_only(server: Running, olga: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    made = await invite(olga, login="anna@acme.example", role="auditor", sites=["acme-clinic"])
    foreign = {"login": "eve@acme.example", "role": "auditor", "sites": ["zenith-clinic"]}
    assert (await olga.client.post("/api/v1/users", json=foreign)).status_code == 404
    listed = {row["id"]: row for row in (await olga.client.get("/api/v1/users")).json()["items"]}
    assert listed[made["user_id"]]["sites"] == ["acme-clinic"]
    assert {row["login"] for row in listed.values()} == {"anna@acme.example", "olga@acme.example"}


@pytest.mark.parametrize(
    "body",
    [
        {"role": "platform_admin"},
        {"role": "auditor"},
        {"sites": ["acme-clinic"]},
        {"login": "with space"},
        {"login": ""},
        {"role": "auditor", "sites": ["acme-clinic", "acme-clinic"]},
        {"role": "auditor", "sites": ["' OR 1=1"]},
    ],
)
async def test_a_person_who_may_not_be_is_refused(olga: Person, body: dict[str, Any]) -> None:
    answer = await olga.client.post("/api/v1/users", json={"login": "eve@acme.example", "role": "viewer"} | body)
    assert answer.status_code == 422


async def test_nobody_disables_themselves_and_a_login_is_taken_once(olga: Person) -> None:
    assert (await olga.client.post(f"/api/v1/users/{olga.user.id}/disable")).status_code == 403
    await invite(olga)
    taken = await olga.client.post("/api/v1/users", json={"login": "VIC@acme.example", "role": "viewer"})
    assert taken.status_code == 409


@pytest.mark.parametrize("role", [Role.TECHNICIAN, Role.VIEWER, Role.AUDITOR])
async def test_no_other_role_reaches_people(server: Running, role: Role) -> None:
    person = await people.signed_in(server, "other@acme.example", role)
    answers = [await person.client.request(method, path, json=body) for method, path, body in ROUTES]
    assert [answer.status_code for answer in answers] == [403] * len(ROUTES)
    await person.client.aclose()


async def test_an_owner_without_a_second_factor_reaches_no_people_and_nobody_neither(server: Running) -> None:
    person = await people.add(server, "otto@acme.example", Role.OWNER)
    for wanted in ("not-signed-in", "second-factor-needed"):
        answers = [await person.client.request(method, path, json=body) for method, path, body in ROUTES]
        assert {answer.json()["type"].rpartition(":")[2] for answer in answers} == {wanted}
        await person.give_password()
    await person.client.aclose()


# Sessions


async def test_a_person_sees_their_own_sessions_and_ends_one(server: Running, olga: Person) -> None:
    vic = await people.add(server, "vic@acme.example", Role.VIEWER)
    await vic.give_password()
    (session,) = (await vic.client.get("/api/v1/sessions")).json()
    assert (session["second_factor"], session["user_agent"][:5]) == (False, "pytho")
    assert (await olga.client.delete(f"/api/v1/sessions/{session['id']}")).status_code == 404
    assert (await vic.client.delete(f"/api/v1/sessions/{session['id']}")).status_code == 204
    assert (await vic.client.get("/api/v1/sessions")).status_code == 401
    await vic.client.aclose()
