"""Roles change, the last owner stays, and what is shown once is shown again to who repeats a create."""

import asyncio

from tests.devices import Running
from tests.operators import Operator, audited, type_of, with_key, with_session


async def people(who: Operator, role: str) -> list[str]:
    return [each["id"] for each in await who.walk("users") if each["role"] == role]


async def change(who: Operator, user_id: str, **body: object) -> tuple[int, str]:
    etag = (await who.call("GET", f"users/{user_id}")).headers["etag"]
    answer = await who.call("PATCH", f"users/{user_id}", {"If-Match": etag}, json=body)
    return answer.status_code, type_of(answer) if answer.status_code >= 400 else answer.json()["role"]


async def test_a_role_changes_at_once_and_an_auditor_gets_sites(server: Running) -> None:
    owner, viewer = await with_session(server, "owner"), await with_session(server, "viewer")
    (user_id,) = await people(owner, "viewer")
    assert await change(owner, user_id, role="technician") == (200, "technician")
    assert (await viewer.call("POST", "sites", json={"name": "Two"})).status_code == 201
    assert await change(owner, user_id, role="auditor") == (422, "body-invalid")
    assert await change(owner, user_id, role="auditor", sites=["nowhere"]) == (404, "not-found")
    assert await change(owner, user_id, role="auditor", sites=["acme-clinic"]) == (200, "auditor")
    assert (await viewer.call("GET", "sites")).status_code == 403
    assert (
        await owner.call("PATCH", f"users/{user_id}", {"If-Match": '"1"'}, json={"role": "viewer"})
    ).status_code == 412
    assert [action for action, _ in await audited(server)].count("user.role") == 2


async def test_the_last_owner_keeps_the_role_and_the_account(server: Running) -> None:
    key, owner = await with_key(server, "owner"), await with_session(server, "owner")
    (user_id,) = await people(owner, "owner")
    assert await change(owner, user_id, role="viewer") == (409, "last-owner")
    answer = await key.call("POST", f"users/{user_id}/disable")
    assert (answer.status_code, type_of(answer)) == (409, "last-owner")
    assert (await owner.call("GET", "users")).status_code == 200


async def test_two_owners_do_not_unmake_each_other_at_once(server: Running) -> None:
    owner, key = await with_session(server, "owner"), await with_key(server, "owner")
    async with server.db.partner("acme") as scope:
        await scope.conn.execute(
            "INSERT INTO users (partner_id, id, login, role, password_hash) VALUES ('acme', 'o2', 'o2', 'owner', 'x')"
        )
    both = await asyncio.gather(*(change(key, user_id, role="viewer") for user_id in await people(owner, "owner")))
    assert sorted(status for status, _ in both) == [200, 409]


async def test_the_same_invitation_says_the_same_link(server: Running) -> None:
    owner, body = await with_key(server, "owner"), {"login": "anna@acme.example", "role": "viewer"}
    first, again = [await owner.call("POST", "users", {"Idempotency-Key": "k"}, json=body) for _ in range(2)]
    assert (first.status_code, again.json()) == (201, first.json())
    assert (await server.client.get(first.json()["link"])).status_code == 200
    assert (await owner.call("POST", "users", json=body)).status_code == 409
    async with server.db.partner("acme") as scope:
        kept = await scope.conn.fetchval("SELECT convert_from(answer, 'UTF8') FROM idempotency_keys")
    assert first.json()["link"].rpartition("/")[2] not in kept


async def test_the_same_request_says_the_same_api_key(server: Running) -> None:
    owner, body = await with_session(server, "owner"), {"name": "reports", "role": "viewer", "days": 1}
    first, again = [await owner.call("POST", "api-keys", {"Idempotency-Key": "k"}, json=body) for _ in range(2)]
    assert (first.status_code, again.json()) == (201, first.json())
    other = await owner.call("POST", "api-keys", {"Idempotency-Key": "k2"}, json=body)
    assert other.json()["key"] != first.json()["key"]
    holder = Operator(server, {"Authorization": f"Bearer {first.json()['key']}"})
    assert (await holder.call("GET", "sites")).status_code == 200
    async with server.db.partner("acme") as scope:
        kept = await scope.conn.fetchval("SELECT string_agg(convert_from(answer, 'UTF8'), '') FROM idempotency_keys")
    assert first.json()["key"] not in kept
