"""Agents of every release that was made still work: what they sent is taken, what they read is still there."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ccserver.app import ENDPOINTS
from ccserver.config import Config
from ccshared import ed25519, notes, purposes
from tests.compat.samples import FOLDER, PARTNER, SITE, Exchange, Sample, as_superuser, push_order
from tests.devices import Device, Running

SAMPLES = sorted(FOLDER.glob("*.json"))


@pytest.fixture(params=SAMPLES, ids=lambda path: path.stem)
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample.load(request.param)


@pytest.fixture
def settings(settings: Config, sample: Sample) -> Config:
    """The server of the recording: its name and keys."""
    settings.key_file.write_text(json.dumps(sample.key_file), encoding="utf-8")
    return settings


@pytest.fixture
async def replayed(server: Running, sample: Sample) -> list[tuple[Exchange, int, bytes]]:
    """Every request of the sample sent again, with what it is answered today."""
    device = Device(server, bytes.fromhex(sample.device_seed), sample.appliance_id)
    await give_code(server, sample.code_hash)
    found = []
    for exchange in sample.exchanges:
        body = exchange.sent
        if exchange.path.endswith("/token"):
            body = await signed(device, body)
        headers = exchange.headers | (device.headers if exchange.bears else {})
        answer = await server.client.request(exchange.method, exchange.path, content=body, headers=headers)
        found.append((exchange, answer.status_code, answer.content))
        if exchange.path.endswith("/enroll"):
            await become(server, sample)
        if exchange.path.endswith("/token"):
            device.token = answer.json()["token"]
    return found


async def give_code(server: Running, code_hash: str) -> None:
    code = await server.code(PARTNER, SITE)
    await as_superuser(
        server.urls.admin,
        ("UPDATE enrollment_codes SET secret_hash = $1 WHERE secret_hash = $2", (code_hash, code.secret_hash)),
    )


async def become(server: Running, sample: Sample) -> None:
    """Give the appliance the id that it had, and the order that it got."""
    await as_superuser(
        server.urls.admin,
        ("UPDATE appliances SET id = $1", (sample.appliance_id,)),
        ("UPDATE enrollment_codes SET used_by_id = $1", (sample.appliance_id,)),
    )
    await push_order(server.db, server.keys, sample.appliance_id, sample.order_id)


async def signed(device: Device, body: bytes) -> bytes:
    """A token's request is for one nonce of one minute: sign one of now."""
    nonce = (await device.server.client.get("/agent/v1/nonce")).json()["nonce"]
    signature = ed25519.sign(device.seed, purposes.token(device.server.keys.server, device.appliance_id, nonce))
    return json.dumps(json.loads(body) | {"nonce": nonce, "signature": signature.hex()}).encode()


def missing(then: Any, now: Any, where: str = "") -> list[str]:
    """Return what an agent of then would look for in vain: members that went, or are of another type."""
    if isinstance(then, dict) and isinstance(now, dict):
        if "payloadType" in then:
            then, now = opened(then), opened(now)
        return [each for name, value in then.items() for each in missing(value, now.get(name), f"{where}.{name}")]
    if isinstance(then, list) and isinstance(now, list):
        return missing(then[0], now[0], f"{where}[0]") if then and now else [where] if then else []
    return [] if then is None or type(then) is type(now) else [where]


def opened(envelope: dict[str, Any]) -> dict[str, Any]:
    """Show what an envelope's payload says as a member of it."""
    return {"type is " + envelope["payloadType"]: json.loads(base64.b64decode(envelope["payload"]))} | {
        "signatures": envelope["signatures"]
    }


async def test_every_request_of_an_earlier_agent_is_answered_as_it_was(
    replayed: list[tuple[Exchange, int, bytes]],
) -> None:
    assert [(each.route, each.status, status) for each, status, _ in replayed if each.status != status] == []
    assert all(200 <= each.status < 300 for each, _, _ in replayed if not each.route.endswith("GET /agent/v1/log/*"))
    found = [
        (each.route, lost)
        for each, _, body in replayed
        if each.answered
        for lost in missing(json.loads(each.answered), json.loads(body))
    ]
    assert found == []


async def test_its_receipts_are_over_the_same_roots(
    replayed: list[tuple[Exchange, int, bytes]], sample: Sample, server: Running
) -> None:
    key = ed25519.public_key(bytes.fromhex(sample.device_seed))
    appends = [(each, body) for each, _, body in replayed if each.path.endswith("/entries")]
    pairs = [(json.loads(each.answered), json.loads(body)) for each, body in appends]
    assert pairs
    for then, now in pairs:
        read = [notes.read_receipt(each["receipt"], key, server.keys.witnesses) for each in (then, now)]
        assert read[0].checkpoint == read[1].checkpoint


def test_every_route_that_agents_have_is_recorded() -> None:
    now = {f"{row.method} {star(row.path)}" for row in ENDPOINTS if row.path.startswith("/agent/")}
    recorded = {each.route for each in Sample.load(SAMPLES[-1]).exchanges}
    assert recorded == now


def star(path: str) -> str:
    return "/".join("*" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize(
    ("then", "now", "lost"),
    [
        ({"a": 1}, {"a": 2, "b": 3}, []),
        ({"a": 1}, {"b": 3}, [".a"]),
        ({"a": 1}, {"a": "1"}, [".a"]),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, [".a[0].b"]),
        ({"a": None}, {"a": 1}, []),
    ],
)
def test_what_is_missing_is_found(then: Any, now: Any, lost: list[str]) -> None:
    assert missing(then, now) == lost


def test_samples_hold_no_token(sample: Sample) -> None:
    assert all("authorization" not in each.headers for each in sample.exchanges)


if not SAMPLES:
    pytest.exit(f"no samples in {Path(FOLDER)}: python -m tests.compat.record")
