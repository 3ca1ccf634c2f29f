"""Many enrolment codes at once, codes with names, and codes that replace an appliance."""

from ccshared import ed25519, purposes
from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key


async def made(server: Running) -> int:
    async with server.db.partner("acme") as scope:
        found: int = await scope.conn.fetchval("SELECT count(*) FROM enrollment_codes")
        return found


async def test_a_batch_makes_a_code_for_each_appliance_and_the_name_stays_with_it(server: Running) -> None:
    await server.add_site("acme", "acme-two")
    technician = await with_key(server, "technician")
    rows = [{"site": "acme-clinic", "count": 2}, {"site": "acme-two", "name": "Front desk", "hours": 1}]
    answer = await technician.call("POST", "codes", json={"rows": rows})
    assert [each["site_id"] for each in answer.json()] == ["acme-clinic", "acme-clinic", "acme-two"]
    device = Device(server, ed25519.new_seed())
    assert (await device.enroll(purposes.parse_code(answer.json()[2]["code"]))).status_code == 200
    (shown,) = await technician.walk("sites/acme-two/appliances")
    assert (shown["appliance"]["name"], shown["appliance"]["hostname"]) == ("Front desk", "box")
    assert await audited(server) == [("code.create_many", "site:acme-clinic"), ("code.create_many", "site:acme-two")]


async def test_one_wrong_row_makes_none_and_is_named(server: Running) -> None:
    await server.add_site("zeta", "zeta-one")
    technician = await with_key(server, "technician")
    rows = [{"site": "acme-clinic"}, {"site": "zeta-one"}, {"site": "nowhere"}]
    answer = await technician.call("POST", "codes", json={"rows": rows})
    assert (answer.status_code, type_of(answer)) == (422, "body-invalid")
    assert "rows.1: there is no open site zeta-one; rows.2" in answer.json()["detail"]
    assert (await made(server), await audited(server)) == (0, [])


async def test_a_batch_has_its_limits(server: Running) -> None:
    technician = await with_key(server, "technician")
    row = {"site": "acme-clinic"}
    for rows in (
        [],
        [row] * 1001,
        [row | {"count": 1000}] * 6,
        [row | {"count": 2, "name": "Two"}],
        [row | {"count": 0}],
    ):
        assert (await technician.call("POST", "codes", json={"rows": rows})).status_code == 422
    assert await made(server) == 0


async def test_the_same_key_says_the_same_codes_again(server: Running) -> None:
    technician, body = await with_key(server, "technician"), {"rows": [{"site": "acme-clinic", "count": 3}]}
    first, again = [await technician.call("POST", "codes", {"Idempotency-Key": "k"}, json=body) for _ in range(2)]
    assert (again.status_code, again.json()) == (201, first.json())
    assert len({each["code"] for each in first.json()}) == await made(server) == 3
    async with server.db.partner("acme") as scope:
        await scope.conn.execute("DELETE FROM idempotency_keys")
    later = await technician.call("POST", "codes", {"Idempotency-Key": "k"}, json=body)
    assert (later.status_code, type_of(later)) == (409, "already-exists")


async def test_a_code_that_replaces_an_appliance_gives_its_id_to_the_new_device(device: Device) -> None:
    server = device.server
    technician, path = await with_key(server, "technician"), "sites/acme-clinic/codes"
    answer = await technician.call("POST", path, json={"appliance": device.appliance_id})
    assert answer.json()["detail"]["replaces_id"] == device.appliance_id
    await Device(server, ed25519.new_seed()).enroll(purposes.parse_code(answer.json()["code"]))
    assert len(await technician.walk("appliances")) == 1
    assert (await technician.call("POST", path, json={"appliance": "another"})).status_code == 404
