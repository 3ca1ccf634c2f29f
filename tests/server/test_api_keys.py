"""API keys: made by owners with a second factor, shown once, good until revoked or expired, for one partner only."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from ccshared.vocabulary import Role
from tests import people
from tests.devices import Running
from tests.people import Person

ROUTES = [("GET", "/api/v1/api-keys"), ("POST", "/api/v1/api-keys"), ("POST", "/api/v1/api-keys/any/revoke")]
VIEWER = {"name": "reports", "role": "viewer", "days": 30}
OWNER = {"name": "automation", "role": "owner", "days": 30}


@pytest.fixture
async def olga(server: Running) -> AsyncIterator[Person]:
    """An owner with a second factor, signed in."""
    person = await people.signed_in(server, "olga@acme.example", Role.OWNER)
    yield person
    await person.client.aclose()


async def make(person: Person, body: dict[str, Any]) -> dict[str, str]:
    answer = await person.client.post("/api/v1/api-keys", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


async def use(server: Running, key: str, path: str = "/api/v1/api-keys") -> httpx.Response:
    return await server.client.get(path, headers={"Authorization": f"Bearer {key}"})


async def test_a_key_is_shown_once_and_kept_as_a_hash(server: Running, olga: Person) -> None:
    made = await make(olga, OWNER)
    listed = await use(server, made["key"])
    assert [row["id"] for row in listed.json()["items"]] == [made["id"]]
    assert made["key"] not in listed.text
    conn = await asyncpg.connect(server.urls.admin)
    assert made["key"] not in await conn.fetchval("SELECT string_agg(k::text, '') FROM api_keys k")
    await conn.close()


async def test_a_revoked_key_opens_nothing(server: Running, olga: Person) -> None:
    made = await make(olga, OWNER)
    assert (await olga.client.post(f"/api/v1/api-keys/{made['id']}/revoke")).status_code == 200
    assert (await use(server, made["key"])).status_code == 401


async def test_an_expired_key_opens_nothing(server: Running, olga: Person) -> None:
    made = await make(olga, OWNER)
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("UPDATE api_keys SET expires_at = now()")
    await conn.close()
    assert (await use(server, made["key"])).status_code == 401


async def test_a_partners_key_neither_lists_nor_revokes_anothers(server: Running, olga: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    zoe = await people.signed_in(server, "zoe@zenith.example", Role.OWNER, "zenith")
    mine, theirs = await make(olga, OWNER), await make(zoe, OWNER)
    assert [row["id"] for row in (await use(server, theirs["key"])).json()["items"]] == [theirs["id"]]
    assert (await zoe.client.post(f"/api/v1/api-keys/{mine['id']}/revoke")).status_code == 404
    assert (await zoe.client.get("/api/v1/api-keys?partner=acme")).json()["items"][0]["id"] == theirs["id"]
    assert (await use(server, mine["key"])).status_code == 200
    await zoe.client.aclose()


async def test_a_key_makes_no_keys_and_a_viewers_key_lists_none(server: Running, olga: Person) -> None:
    owner, viewer = await make(olga, OWNER), await make(olga, VIEWER)
    headers = {"Authorization": f"Bearer {owner['key']}"}
    assert (await server.client.post("/api/v1/api-keys", json=OWNER, headers=headers)).status_code == 403
    assert (await use(server, viewer["key"])).status_code == 403


async def test_a_key_opens_no_account_and_no_agents_call(server: Running, olga: Person) -> None:
    made = await make(olga, OWNER)
    assert (await use(server, made["key"], "/account")).status_code == 403
    assert (await use(server, made["key"], "/agent/v1/log")).status_code == 401


@pytest.mark.parametrize("role", [Role.TECHNICIAN, Role.VIEWER, Role.AUDITOR])
async def test_no_other_role_reaches_the_keys(server: Running, role: Role) -> None:
    person = await people.signed_in(server, "other@acme.example", role)
    answers = [await person.client.request(method, path, json=VIEWER) for method, path in ROUTES]
    assert [answer.status_code for answer in answers] == [403, 403, 403]
    await person.client.aclose()


async def test_an_owner_without_a_second_factor_and_nobody_reach_no_keys(server: Running) -> None:
    person = await people.add(server, "otto@acme.example", Role.OWNER)
    for wanted in ("not-signed-in", "second-factor-needed"):
        answers = [await person.client.request(method, path, json=VIEWER) for method, path in ROUTES]
        assert {answer.json()["type"].rpartition(":")[2] for answer in answers} == {wanted}
        await person.give_password()
    await person.client.aclose()


@pytest.mark.parametrize(
    "change",
    [{"role": "platform_admin"}, {"role": "auditor"}, {"days": 0}, {"days": 367}, {"name": ""}, {"name": "\0"}],
)
async def test_a_key_that_may_not_be_is_refused(olga: Person, change: dict[str, Any]) -> None:
    assert (await olga.client.post("/api/v1/api-keys", json=VIEWER | change)).status_code == 422


async def test_a_platform_admin_names_the_partner(server: Running) -> None:
    root = await people.signed_in(server, "root@platform.example", Role.PLATFORM_ADMIN, "platform")
    assert (await root.client.get("/api/v1/api-keys")).status_code == 422
    assert (await root.client.post("/api/v1/api-keys?partner=acme", json=VIEWER)).status_code == 201
    assert (await root.client.get("/api/v1/api-keys?partner=acme&total=true")).json()["total"] == 1
    await root.client.aclose()
