"""Orders from the request to the result: checked, approved, signed, frozen, fetched, answered."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from ccagent import keyring
from ccserver import catalogue, keys, sweeps
from ccserver.config import Config
from ccserver.retention import Terms
from ccshared import orders, policy, runbooks
from ccshared.envelope import PayloadType
from ccshared.vocabulary import SettingLevel
from tests.devices import Device, Running
from tests.operators import Operator, audited, type_of, with_key, with_session
from tests.ordering import HIGH, LOW, PEOPLE, extended

ORDERS = "sites/acme-clinic/orders"


@pytest.fixture
def settings(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    extended(monkeypatch)
    return settings


def wanted(device: Device, runbook_id: str = LOW, **more: Any) -> dict[str, Any]:
    return {"appliance_id": device.appliance_id, "runbook_id": runbook_id} | more


async def pushed(device: Device, who: Operator | None = None, runbook_id: str = LOW, **more: Any) -> dict[str, Any]:
    """Order a runbook and return the order."""
    who = who or await with_key(device.server, "technician")
    answer = await who.call("POST", ORDERS, json=wanted(device, runbook_id, **more))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()["order"]
    return found


async def fetched(device: Device) -> list[orders.SignedOrder]:
    answer = await device.call("GET", "orders")
    assert answer.status_code == 200, answer.text
    known = [key.public_key for key in device.server.keys.signing if key.use == "order"]
    return [orders.read(each, known) for each in answer.json()["orders"]]


async def waits(device: Device) -> bool:
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    return bool((await device.call("POST", "checkin", json=said)).json()["orders_waiting"])


async def ended(device: Device, order_id: str, status: str = "succeeded", **more: Any) -> str:
    answer = await device.call("POST", f"orders/{order_id}/result", json={"status": status} | more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


async def shown(server: Running, order_id: str) -> dict[str, Any]:
    answer = await (await with_key(server, "viewer")).call("GET", f"{ORDERS}/{order_id}")
    found: dict[str, Any] = answer.json()
    return found


async def test_an_order_is_signed_delivered_and_answered(device: Device) -> None:
    assert not await waits(device)
    made = await pushed(device, parameters={"unit": "rsyslog.service"})
    assert await waits(device)
    (signed,) = await fetched(device)
    known = catalogue.load()[LOW]
    assert (signed.id, signed.site, signed.appliance) == (made["id"], "acme-clinic", device.appliance_id)
    assert (signed.runbook, signed.digest) == (LOW, runbooks.digest(known))
    assert signed.parameters["unit"] == "rsyslog.service"
    assert signed.expires_ms - signed.issued_ms == 3_600_000
    assert (await device.call("POST", f"orders/{made['id']}/ack", json={})).json() == {"status": "acknowledged"}
    assert await ended(device, made["id"], "running") == "running"
    assert not await waits(device)
    assert len(await fetched(device)) == 1  # an appliance that lost its place finds it again
    steps = [{"about": "restart it", "exit_code": 0, "output": "ok"}]
    assert await ended(device, made["id"], steps=steps, proved="pass") == "succeeded"
    assert await fetched(device) == []
    found = await shown(device.server, made["id"])
    assert (found["result"]["steps"], found["result"]["proved"]) == (steps, "pass")
    assert found["order"]["finished_at"] is not None


async def test_the_same_key_orders_once_and_it_is_written_down(device: Device) -> None:
    technician = await with_key(device.server, "technician")
    both = [await technician.call("POST", ORDERS, {"Idempotency-Key": "k"}, json=wanted(device)) for _ in range(2)]
    assert both[0].json() == both[1].json()
    assert await audited(device.server) == [("order.create", both[0].json()["order"]["id"])]
    other = await technician.call("POST", ORDERS, {"Idempotency-Key": "k"}, json=wanted(device, life_s=60))
    assert type_of(other) == "idempotency-conflict"


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"runbook_id": "rm-rf"}, 404, "runbook-unknown"),
        ({"runbook_id": PEOPLE}, 409, "people-only"),
        ({"parameters": {"unit": "a; reboot"}}, 422, "body-invalid"),
        ({"parameters": {"unit": "-x"}}, 422, "body-invalid"),
        ({"parameters": {"unit": True}}, 422, "body-invalid"),
        ({"parameters": {"unit": 1}}, 422, "body-invalid"),
        ({"parameters": {"other": "a"}}, 422, "body-invalid"),
        ({"parameters": {"unit": ["a"]}}, 422, "body-invalid"),
        ({"life_s": 7 * 86_400 + 1}, 422, "body-invalid"),
        ({"life_s": 0}, 422, "body-invalid"),
        ({"appliance_id": "nobody"}, 404, "not-found"),
    ],
)
async def test_what_cannot_be_ordered_is_refused(
    device: Device, change: dict[str, Any], status: int, kind: str
) -> None:
    technician = await with_key(device.server, "technician")
    answer = await technician.call("POST", ORDERS, json=wanted(device) | change)
    assert (answer.status_code, type_of(answer)) == (status, kind)
    assert (await technician.call("GET", "orders")).json()["items"] == []


@pytest.mark.parametrize("level", list(SettingLevel))
async def test_where_healing_is_stopped_only_errands_are_ordered(device: Device, level: SettingLevel) -> None:
    target = {"platform": "platform", "partner": "acme", "site": "acme-clinic"}.get(level, device.appliance_id)
    async with device.server.db.partner("platform" if level == "platform" else "acme") as scope:
        await scope.conn.execute(
            "INSERT INTO settings (partner_id, level, target_id, name, value, updated_by)"
            " VALUES ($1, $2, $3, 'healing.mode', '\"stop\"', 'test')",
            scope.partner_id,
            str(level),
            target,
        )
    technician = await with_key(device.server, "technician")
    answer = await technician.call("POST", ORDERS, json=wanted(device))
    assert (answer.status_code, type_of(answer)) == (409, "healing-stopped")
    errand = {"appliance_id": device.appliance_id, "runbook_id": "run-checks-now"}
    assert (await technician.call("POST", ORDERS, json=errand)).status_code == 201


async def test_viewers_and_strangers_order_nothing(device: Device) -> None:
    await device.server.add_site("zeta", "zeta-one")
    viewer, stranger = await with_key(device.server, "viewer"), await with_key(device.server, "owner", "zeta")
    assert (await viewer.call("POST", ORDERS, json=wanted(device))).status_code == 403
    for site in ("acme-clinic", "zeta-one"):
        assert (await stranger.call("POST", f"sites/{site}/orders", json=wanted(device))).status_code == 404


async def test_a_high_risk_waits_for_a_second_person(device: Device) -> None:
    first, second = await with_session(device.server, "technician"), await with_session(device.server, "technician")
    made = await pushed(device, first, HIGH)
    assert (made["issued_at"], await waits(device), await fetched(device)) == (None, False, [])
    place = f"{ORDERS}/{made['id']}/approve"
    assert type_of(await first.call("POST", place)) == "second-person-needed"
    assert type_of(await (await with_key(device.server, "owner")).call("POST", place)) == "person-needed"
    one_factor = await with_session(device.server, "owner", second_factor=False)
    assert type_of(await one_factor.call("POST", place)) == "second-factor-needed"
    assert await fetched(device) == []
    assert (await second.call("POST", place)).status_code == 200
    assert [each.id for each in await fetched(device)] == [made["id"]]
    assert type_of(await second.call("POST", place)) == "not-pending"
    assert [action for action, _ in await audited(device.server)] == ["order.create", "order.approve"]


async def test_who_made_the_key_that_ordered_is_no_second_person(device: Device) -> None:
    person, other = await with_session(device.server, "owner"), await with_session(device.server, "owner")
    until = "2026-12-24T00:00:00Z"
    asked = {"name": "robot", "role": "technician", "days": 1, "expires_at": until}
    key = await person.call("POST", "api-keys", json=asked)
    assert key.status_code == 201, key.text
    robot = Operator(device.server, {"Authorization": f"Bearer {key.json()['key']}"})
    made = await pushed(device, robot, HIGH)
    place = f"{ORDERS}/{made['id']}/approve"
    assert type_of(await person.call("POST", place)) == "second-person-needed"
    assert (await other.call("POST", place)).status_code == 200


async def test_an_order_that_was_cancelled_is_not_approved_and_never_delivered(device: Device) -> None:
    first, second = await with_session(device.server, "technician"), await with_session(device.server, "technician")
    made = await pushed(device, first, HIGH)
    assert (await first.call("POST", f"{ORDERS}/{made['id']}/cancel")).status_code == 200
    assert type_of(await second.call("POST", f"{ORDERS}/{made['id']}/approve")) == "not-pending"
    assert await fetched(device) == []


async def test_an_appliance_reaches_its_own_released_orders_alone(device: Device) -> None:
    other = await Device.enrolled(device.server, "acme", "acme-clinic")
    made = await pushed(device)
    waiting = await pushed(device, await with_session(device.server, "owner"), HIGH)
    assert (await fetched(other), await waits(other)) == ([], False)
    for order_id, who in ((made["id"], other), (waiting["id"], device), ("nothing", device)):
        assert (await who.call("POST", f"orders/{order_id}/ack", json={})).status_code == 404
        answer = await who.call("POST", f"orders/{order_id}/result", json={"status": "succeeded"})
        assert answer.status_code == 404
    assert (await shown(device.server, made["id"]))["order"]["status"] == "pending"


async def test_an_order_is_taken_by_one_copy_of_an_appliance_however_often_it_asks(device: Device) -> None:
    made = await pushed(device)
    one, other = {"taker": "1" * 32}, {"taker": "2" * 32}
    for _ in range(2):  # its first answer may be lost
        assert (await device.call("POST", f"orders/{made['id']}/ack", json=one)).json() == {"status": "acknowledged"}
    for said in (other, {}):
        assert type_of(await device.call("POST", f"orders/{made['id']}/ack", json=said)) == "order-taken"
    assert await ended(device, made["id"], "running") == "running"
    assert type_of(await device.call("POST", f"orders/{made['id']}/ack", json=other)) == "order-taken"
    assert await ended(device, made["id"]) == "succeeded"
    assert (await device.call("POST", f"orders/{made['id']}/ack", json=other)).json() == {"status": "succeeded"}


async def test_two_copies_that_ask_at_once_are_told_apart(device: Device) -> None:
    made = await pushed(device)
    asked = [device.call("POST", f"orders/{made['id']}/ack", json={"taker": f"{n:032x}"}) for n in range(6)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*asked)) == [200, *[409] * 5]


async def test_an_agent_of_before_takes_an_order_without_a_name(device: Device) -> None:
    made = await pushed(device)
    for said in ({}, {"taker": "1" * 32}):  # and is replaced by one that makes them
        assert (await device.call("POST", f"orders/{made['id']}/ack", json=said)).json() == {"status": "acknowledged"}


async def test_the_first_result_stays_however_often_another_is_sent(device: Device) -> None:
    made = await pushed(device)
    assert await ended(device, made["id"], "failed", reason="first") == "failed"
    for status in ("failed", "succeeded", "running", "rejected"):
        assert await ended(device, made["id"], status, reason="second") == "failed"
    assert (await device.call("POST", f"orders/{made['id']}/ack", json={})).json() == {"status": "failed"}
    assert (await shown(device.server, made["id"]))["result"]["reason"] == "first"


@pytest.mark.parametrize("given_up", ["expired", "cancelled"])
async def test_a_result_wins_over_having_been_given_up(device: Device, given_up: str) -> None:
    made = await pushed(device)
    async with device.server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = $1, finished_at = now()", given_up)
    assert (await device.call("POST", f"orders/{made['id']}/ack", json={})).json() == {"status": given_up}
    assert await fetched(device) == []
    assert await ended(device, made["id"]) == "succeeded"


async def test_an_order_whose_time_is_over_waits_no_more(device: Device) -> None:
    await pushed(device, life_s=60)
    conn = await asyncpg.connect(device.server.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("UPDATE orders SET expires_at = now() - interval '1 second'")
    await conn.close()
    assert (await waits(device), await fetched(device)) == (False, [])
    (sweep,) = [each for each in sweeps.SWEEPS if each.name == "orders"]
    assert (await sweeps.run(device.server.db, sweep, Terms())).rows == 1


@pytest.mark.parametrize(
    "change",
    [
        "runbook_id = 'x'",
        "parameters = '{}'",
        "runbook_digest = repeat('a', 64)",
        "expires_at = expires_at + interval '1 h'",
        "envelope = NULL",
        "envelope = '\\x00'",
        "created_by = 'x'",
        "approved_by = 'x'",
        "issued_at = now()",
    ],
)
async def test_the_database_keeps_a_released_order_as_it_is(device: Device, change: str) -> None:
    await pushed(device, parameters={"unit": "rsyslog.service"})
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="not changed"):
        async with device.server.db.platform() as scope:
            await scope.conn.execute(f"UPDATE orders SET {change}")  # noqa: S608  a test's own words
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never deleted"):
        async with device.server.db.platform() as scope:
            await scope.conn.execute("DELETE FROM orders")


FORGED = [
    {"runbook": "run-backup"},
    {"parameters": {"unit": "other.service"}},
    {"digest": "a" * 64},
    {"appliance": "box-2"},
    {"site": "acme-two"},
    {"id": "another"},
    {"issued_ms": 1},
    {"expires_ms": 2**41},
]


def release(server: Running, made: dict[str, Any], **change: Any) -> tuple[bytes, int, int]:
    """Return an envelope as a release makes it, with changes, and the times that the release writes beside it."""
    now = time.time_ns() // 1_000_000
    true = {"id": made["id"], "site": made["site_id"], "appliance": made["appliance_id"], "runbook": made["runbook_id"]}
    true |= {"digest": made["runbook_digest"], "parameters": {"unit": "a.service"}}
    signed = orders.SignedOrder(**{**true, "issued_ms": now, "expires_ms": now + 60_000, **change})
    return orjson.dumps(server.keys.envelope(PayloadType.ORDER, orders.make(signed))), now, now + 60_000


RELEASE = """
    UPDATE orders SET envelope = $2, issued_at = to_timestamp($3::bigint / 1000.0),
                      expires_at = to_timestamp($4::bigint / 1000.0)
    WHERE id = $1
    """


@pytest.mark.parametrize("change", FORGED, ids=str)
async def test_an_order_whose_columns_are_not_what_is_signed_is_never_released(
    device: Device, change: dict[str, Any]
) -> None:
    made = await pushed(device, await with_session(device.server, "owner"), HIGH)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="as it was signed"):
        async with device.server.db.platform() as scope:
            await scope.conn.execute(RELEASE, made["id"], *release(device.server, made, **change))
    async with device.server.db.platform() as scope:
        assert await scope.conn.execute(RELEASE, made["id"], *release(device.server, made)) == "UPDATE 1"


@pytest.mark.parametrize(
    ("before", "after"),
    [("acknowledged", "pending"), ("running", "acknowledged"), ("succeeded", "failed"), ("failed", "running")],
)
async def test_the_database_lets_an_order_go_forward_only(device: Device, before: str, after: str) -> None:
    made = await pushed(device)
    async with device.server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = $1 WHERE id = $2", before, made["id"])
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="forward"):
        async with device.server.db.platform() as scope:
            await scope.conn.execute("UPDATE orders SET status = $1", after)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "expired"},
        {"status": "pending"},
        {"status": "succeeded", "steps": [{"about": "x", "output": "a" * 2001}]},
        {"status": "succeeded", "steps": [{"about": "x"}] * 65},
        {"status": "succeeded", "steps": [{"about": "x", "exit_code": 2**40}]},
        {"status": "succeeded", "reason": "a\x00b"},
        {"status": "succeeded", "proved": "maybe"},
        {"status": "succeeded", "started_ms": -1},
    ],
)
async def test_a_hostile_result_is_refused_and_changes_nothing(device: Device, body: dict[str, Any]) -> None:
    made = await pushed(device)
    assert (await device.call("POST", f"orders/{made['id']}/result", json=body)).status_code == 422
    assert (await shown(device.server, made["id"]))["order"]["status"] == "pending"


async def test_an_appliance_gets_a_short_list_the_oldest_first(device: Device) -> None:
    technician = await with_key(device.server, "technician")
    made = [(await pushed(device, technician))["id"] for _ in range(22)]
    assert [each.id for each in await fetched(device)] == made[:20]
    await asyncio.gather(*(ended(device, each) for each in made[:5]))
    assert [each.id for each in await fetched(device)] == made[5:]


async def test_an_order_that_runs_for_a_week_after_its_time_is_given_up(device: Device) -> None:
    made = await pushed(device)
    await ended(device, made["id"], "running")
    (sweep,) = [each for each in sweeps.SWEEPS if each.name == "orders"]
    for days, rows in ((6, 0), (8, 1)):
        conn = await asyncpg.connect(device.server.urls.admin)
        await conn.execute("SET session_replication_role = replica")
        await conn.execute("UPDATE orders SET expires_at = now() - $1 * interval '1 day'", days)
        await conn.close()
        assert (await sweeps.run(device.server.db, sweep, Terms())).rows == rows
    assert await ended(device, made["id"]) == "succeeded"


async def test_an_agent_that_follows_the_chain_takes_orders_and_policies_of_the_newest_key(
    device: Device, settings: Config
) -> None:
    pinned = device.server.keys.public
    for _ in range(2):  # it was away for two rotations
        after = keys.rotate(settings.key_file, "order")
    await pushed(device)
    (order,) = (await device.call("GET", "orders")).json()["orders"]
    told = await device.call("GET", "policy")
    known = [bytes.fromhex(key.public_key) for key in pinned if key.use == "order"]
    with pytest.raises(orders.BadOrderError):
        orders.read(order, known)
    said = (await device.server.client.get("/agent/v1/keys")).json()
    followed = keyring.follow(device.server.keys.server, pinned, said["statements"])
    known = [bytes.fromhex(key.public_key) for key in followed if key.use == "order"]
    assert known[-1] == after.order.public_key
    assert orders.read(order, known).appliance == policy.read(told.json(), known).appliance == device.appliance_id


async def test_a_key_that_a_thief_made_and_nobody_announced_signs_nothing_that_is_taken(
    device: Device, tmp_path: Path
) -> None:
    pinned = device.server.keys.public
    keys.create(tmp_path / "stolen", device.server.keys.server)
    thief = keys.load(tmp_path / "stolen")
    made = await pushed(device)
    forged = orjson.loads(release(replace(device.server, keys=thief), made)[0])
    announced = keys.announce(thief, thief.order, 1)
    followed = keyring.follow(device.server.keys.server, pinned, [announced])
    assert followed == pinned
    with pytest.raises(orders.BadOrderError):
        orders.read(forged, [bytes.fromhex(key.public_key) for key in followed if key.use == "order"])
