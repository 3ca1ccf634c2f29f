"""The edge: bodies within limits, errors as problem documents, secrets in none of them."""

import gzip
import zlib

import asyncpg
import pytest

from ccserver import errors, http
from tests.devices import Device, Running

LIMIT = 1000


def test_gzip_is_unpacked_up_to_the_limit() -> None:
    assert http.unpack(gzip.compress(b"a" * LIMIT), LIMIT) == b"a" * LIMIT
    with pytest.raises(errors.TooLargeError):
        http.unpack(gzip.compress(b"a" * (LIMIT + 1)), LIMIT)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"not gzip",
        gzip.compress(b"a", mtime=0)[:-1],
        gzip.compress(b"a", mtime=0) + b"x",
        gzip.compress(b"a", mtime=0) * 2,
        zlib.compress(b"a"),
    ],
)
def test_what_is_not_exactly_one_gzip_member_is_refused(packed: bytes) -> None:
    with pytest.raises(errors.BadBodyError):
        http.unpack(packed, LIMIT)


async def test_a_bomb_is_refused_before_it_goes_off(device: Device) -> None:
    bomb = gzip.compress(b"0" * 100_000_000)
    headers = {"Content-Encoding": "gzip"} | device.headers
    answer = await device.server.client.post(f"/agent/v1/log/{device.epoch}/entries", content=bomb, headers=headers)
    assert answer.status_code == 413
    unknown = await device.server.client.post(
        f"/agent/v1/log/{device.epoch}/entries", content=b"x", headers={"Content-Encoding": "br"} | device.headers
    )
    assert unknown.status_code == 415


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b'"x"'])
async def test_a_body_that_is_no_message_is_a_problem(device: Device, body: bytes) -> None:
    headers = device.headers | {"Content-Type": "application/json"}
    answer = await device.server.client.post("/agent/v1/checkin", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_another_content_type_is_refused(device: Device) -> None:
    plain = await device.server.client.post("/agent/v1/checkin", content=b"{}", headers=device.headers)
    assert plain.status_code == 415


async def test_unknown_paths_and_methods_are_problems_too(server: Running) -> None:
    assert (await server.client.get("/agent/v1/nothing")).json()["type"].endswith(":not-found")
    assert (await server.client.delete("/agent/v1/nonce")).status_code == 405


async def test_a_problem_never_repeats_what_was_sent(server: Running) -> None:
    answer = await server.client.post("/agent/v1/enroll", json={"secret": "hunter2", "public_key": "hunter2"})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text


async def test_connections_that_the_database_ended_cost_one_try_at_most(device: Device) -> None:
    admin = await asyncpg.connect(device.server.urls.admin)
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cc_server'")
    await admin.close()
    statuses = [(await device.call("GET", "log")).status_code for _ in range(6)]
    assert set(statuses) <= {200, 503}
    assert statuses[-1] == 200
