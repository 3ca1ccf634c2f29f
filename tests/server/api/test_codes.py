"""Enrolment codes over the API."""

from ccshared import ed25519, purposes
from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session

PATH = "sites/acme-clinic/codes"


async def test_a_code_enrols_a_device_once(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = await technician.call("POST", PATH, json={"hours": 1})
    assert made.status_code == 201
    code = purposes.parse_code(made.json()["code"])
    assert (await Device(server, ed25519.new_seed()).enroll(code)).status_code == 200
    assert (await Device(server, ed25519.new_seed()).enroll(code)).status_code == 403
    (listed,) = (await technician.call("GET", PATH)).json()["items"]
    assert (listed["id"], listed["used_at"] is None) == (made.json()["detail"]["id"], False)
    assert await audited(server) == [("code.create", listed["id"])]


async def test_a_list_holds_nothing_that_enrols(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = await technician.call("POST", PATH, json={})
    code = purposes.parse_code(made.json()["code"])
    text = (await technician.call("GET", PATH)).text
    assert code.secret not in text
    assert code.secret_hash not in text


async def test_the_same_key_says_the_same_code_again_and_nothing_stored_holds_it(server: Running) -> None:
    technician, key = await with_key(server, "technician"), {"Idempotency-Key": "k1"}
    first = await technician.call("POST", PATH, key, json={"hours": 2})
    again = await technician.call("POST", PATH, key, json={"hours": 2})
    assert (again.status_code, again.json()) == (201, first.json())
    async with server.db.partner("acme") as scope:
        kept = await scope.conn.fetchval("SELECT convert_from(answer, 'UTF8') FROM idempotency_keys")
        assert await scope.conn.fetchval("SELECT count(*) FROM enrollment_codes") == 1
    assert purposes.parse_code(first.json()["code"]).secret not in kept
    assert type_of(await technician.call("POST", PATH, key, json={"hours": 3})) == "idempotency-conflict"


async def test_the_same_key_at_another_site_makes_another_code(server: Running) -> None:
    await server.add_site("acme", "acme-other")
    technician, key = await with_key(server, "technician"), {"Idempotency-Key": "k1"}
    first = await technician.call("POST", PATH, key, json={})
    other = await technician.call("POST", "sites/acme-other/codes", key, json={})
    assert first.json()["code"] != other.json()["code"]


async def test_a_revoked_code_enrols_nobody(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = (await technician.call("POST", PATH, json={})).json()
    path = f"{PATH}/{made['detail']['id']}/revoke"
    first, again = await technician.call("POST", path), await technician.call("POST", path)
    assert first.json() == again.json()
    answer = await Device(server, ed25519.new_seed()).enroll(purposes.parse_code(made["code"]))
    assert type_of(answer) == "code-expired"
    assert [action for action, _ in await audited(server)] == ["code.create", "code.revoke"]


async def test_a_used_code_is_not_revoked(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = (await technician.call("POST", PATH, json={})).json()
    await Device(server, ed25519.new_seed()).enroll(purposes.parse_code(made["code"]))
    assert type_of(await technician.call("POST", f"{PATH}/{made['detail']['id']}/revoke")) == "code-used"


async def test_a_cursor_walks_all_codes(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = [(await technician.call("POST", PATH, json={})).json()["detail"]["id"] for _ in range(5)]
    assert [code["id"] for code in await technician.walk(PATH)] == made[::-1]
    assert (await technician.call("GET", PATH + "?cursor=AAAA")).status_code == 422
    assert (await technician.call("GET", PATH + "?offset=10001")).status_code == 422


async def test_another_partners_codes_are_not_there(server: Running) -> None:
    technician = await with_key(server, "technician")
    made = (await technician.call("POST", PATH, json={})).json()
    await server.add_site("zeta", "zeta-one")
    stranger = await with_key(server, "owner", "zeta")
    code_id = made["detail"]["id"]
    assert (await stranger.call("GET", PATH)).status_code == 404
    assert (await stranger.call("POST", PATH, json={})).status_code == 404
    for site in ("acme-clinic", "zeta-one"):
        assert (await stranger.call("POST", f"sites/{site}/codes/{code_id}/revoke")).status_code == 404
    assert (await Device(server, ed25519.new_seed()).enroll(purposes.parse_code(made["code"]))).status_code == 200


async def test_viewers_and_auditors_make_and_see_no_codes(server: Running) -> None:
    for who in (await with_key(server, "viewer"), await with_session(server, "auditor", "acme-clinic")):
        assert (await who.call("POST", PATH, json={})).status_code == 403
        assert (await who.call("GET", PATH)).status_code == 403
    assert await audited(server) == []


async def test_hours_beyond_a_month_are_refused(server: Running) -> None:
    technician = await with_key(server, "technician")
    for hours in (0, 721, "1", 1.5, None):
        assert (await technician.call("POST", PATH, json={"hours": hours})).status_code == 422
