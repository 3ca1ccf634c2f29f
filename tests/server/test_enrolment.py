"""Becoming known: codes, proofs, tokens, revocation; each refusal is its own problem."""

import httpx
import pytest

from ccshared import ed25519, envelope, ids, purposes
from tests.devices import Device, Running


def type_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"].removeprefix("urn:central-command:problem:"))


async def test_a_code_makes_an_appliance_and_the_answer_is_signed(server: Running) -> None:
    device = Device(server, ed25519.new_seed())
    answer = await device.enroll(await server.code("acme", "acme-clinic"))
    opened = envelope.open_envelope(answer.json(), envelope.PayloadType.ENROLMENT, server.keys.order.public_key)
    assert (opened["site_id"], opened["server"]) == ("acme-clinic", "cc.example")
    assert opened["public_key"] == device.public_key.hex()
    assert {key["use"] for key in opened["keys"]} == {"witness", "order"}


async def test_the_same_code_with_the_same_key_gets_the_same_answer(server: Running) -> None:
    device, code = Device(server, ed25519.new_seed()), await server.code("acme", "acme-clinic")
    assert (await device.enroll(code)).json() == (await device.enroll(code)).json()


async def test_a_used_code_is_refused_to_another_device(server: Running) -> None:
    code = await server.code("acme", "acme-clinic")
    await Device(server, ed25519.new_seed()).enroll(code)
    answer = await Device(server, ed25519.new_seed()).enroll(code)
    assert (answer.status_code, type_of(answer)) == (403, "code-used")


async def test_an_expired_and_an_unknown_code_are_refused(server: Running) -> None:
    device = Device(server, ed25519.new_seed())
    assert type_of(await device.enroll(await server.code("acme", "acme-clinic", hours=0))) == "code-expired"
    unknown = purposes.EnrolmentCode("cc.example", server.keys.order_fingerprint, purposes.new_secret())
    assert type_of(await device.enroll(unknown)) == "code-unknown"


async def test_a_device_must_prove_that_it_holds_the_key(server: Running) -> None:
    device, code = Device(server, ed25519.new_seed()), await server.code("acme", "acme-clinic")
    assert type_of(await device.enroll(code, proof="0" * 128)) == "proof-invalid"
    assert type_of(await device.enroll(code, public_key="0" * 64)) == "proof-invalid"
    assert (await device.enroll(code)).status_code == 200


@pytest.mark.parametrize("change", [{"secret": "x"}, {"public_key": "ZZ"}, {"hostname": ""}, {"hostname": "a\x00b"}])
async def test_a_body_of_another_shape_is_refused_before_anything_is_done(
    server: Running, change: dict[str, str]
) -> None:
    answer = await Device(server, ed25519.new_seed()).enroll(await server.code("acme", "acme-clinic"), **change)
    assert (answer.status_code, type_of(answer)) == (422, "body-invalid")


async def test_a_token_needs_a_signature_by_the_registered_key(device: Device) -> None:
    device.seed = ed25519.new_seed()
    assert type_of(await device.ask_token()) == "signature-invalid"


async def test_an_unknown_appliance_gets_no_token(device: Device) -> None:
    device.appliance_id = ids.new_id()
    assert type_of(await device.ask_token()) == "device-unknown"


async def test_a_nonce_that_is_not_ours_is_refused(device: Device) -> None:
    body = {"appliance_id": device.appliance_id, "nonce": "v1.9999999999." + "0" * 32 + "." + "A" * 43}
    answer = await device.server.client.post("/agent/v1/token", json=body | {"signature": "0" * 128})
    assert type_of(answer) == "nonce-expired"


@pytest.mark.parametrize("token", ["x", "v1.a.b.1.c", "v1.acme-clinic.x.99999999999." + "A" * 43])
async def test_a_forged_token_is_refused(device: Device, token: str) -> None:
    device.token = token
    for method, path in (("GET", "log"), ("POST", "checkin"), ("PUT", "incidents"), ("PUT", "patterns")):
        answer = await device.call(method, path, json={} if method != "GET" else None)
        assert (answer.status_code, type_of(answer)) == (401, "token-invalid")


async def test_a_token_for_one_site_opens_no_other(device: Device, server: Running) -> None:
    await server.add_site("acme", "acme-other")
    device.token = device.token.replace("acme-clinic", "acme-other")
    assert type_of(await device.call("GET", "log")) == "token-invalid"


async def test_revocation_is_immediate(device: Device, server: Running) -> None:
    async with server.db.partner("acme") as scope:
        await scope.conn.execute("UPDATE appliances SET revoked_at = now()")
    assert type_of(await device.call("GET", "log")) == "device-unknown"
    assert type_of(await device.ask_token()) == "device-unknown"
    body = {"version": "1", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    assert type_of(await device.call("POST", "checkin", json=body)) == "device-unknown"
    device.seal()
    assert type_of(await device.send(device.batch(0))) == "device-unknown"


async def test_a_check_in_writes_liveness_and_learns_the_head(device: Device, server: Running) -> None:
    device.seal()
    await device.send(device.batch(0))
    body = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "unsync", "epoch": device.epoch, "size": 1}
    answer = await device.call("POST", "checkin", json=body)
    assert answer.status_code == 200
    assert answer.json()["head_size"] == 1
    async with server.db.partner("acme") as scope:
        row = await scope.conn.fetchrow(
            "SELECT is_online, clock, clock_offset_ms, host(ip_address) AS ip FROM appliances"
        )
    assert row is not None
    assert (row["is_online"], row["clock"], row["ip"]) == (True, "unsync", "127.0.0.1")
    assert row["clock_offset_ms"] < -1_000_000


async def test_a_clock_ten_years_off_does_not_matter(device: Device) -> None:
    body = {"version": "1", "hostname": "box", "sent_at_ms": 253_402_300_799_999, "clock": "stepped"}
    assert (await device.call("POST", "checkin", json=body)).status_code == 200
    assert (await device.call("POST", "checkin", json=body | {"sent_at_ms": -1})).status_code == 422
