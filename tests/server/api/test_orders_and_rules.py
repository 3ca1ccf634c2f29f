"""Orders, patterns, rules and the catalogue over the API."""

from typing import Any

import pytest

from ccshared.vocabulary import OrderStatus
from tests.devices import Device, Running
from tests.operators import audited, type_of, with_key, with_session

ORDERS = "sites/acme-clinic/orders"


async def add(device: Device, *names: str, status: str = "pending") -> None:
    """Add orders of the device, as healing will."""
    for name in names:
        async with device.server.db.site("acme", "acme-clinic") as scope:
            await scope.conn.execute(
                """
                INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, status, created_by, expires_at)
                VALUES ('acme-clinic', 'acme', $1, $2, 'restart_service', $3, 'test', now() + interval '1 h')
                """,
                device.appliance_id,
                name,
                status,
            )


async def test_a_cursor_walks_all_orders_and_filters_narrow_them(device: Device) -> None:
    await add(device, "a", "b", "c")
    await add(device, "d", status="failed")
    viewer = await with_key(device.server, "viewer")
    assert [each["id"] for each in await viewer.walk("orders")] == ["d", "c", "b", "a"]
    assert [each["id"] for each in await viewer.walk("orders", site="acme-clinic", status="pending")] == ["c", "b", "a"]
    assert await viewer.walk("orders", appliance="another") == []
    counted = await viewer.call("GET", "orders?total=true&limit=1&status=failed")
    assert counted.json()["total"] == 1


async def test_a_pending_order_is_cancelled_once_and_written_down(device: Device) -> None:
    await add(device, "a")
    technician = await with_key(device.server, "technician")
    done = await technician.call("POST", f"{ORDERS}/a/cancel")
    assert (done.status_code, done.json()["order"]["status"]) == (200, "cancelled")
    assert type_of(await technician.call("POST", f"{ORDERS}/a/cancel")) == "not-pending"
    assert await audited(device.server) == [("order.cancel", "a")]


@pytest.mark.parametrize("status", [each for each in OrderStatus if each is not OrderStatus.PENDING])
async def test_an_order_that_does_not_wait_is_not_cancelled(device: Device, status: str) -> None:
    await add(device, "a", status=status)
    answer = await (await with_key(device.server, "technician")).call("POST", f"{ORDERS}/a/cancel")
    assert (answer.status_code, type_of(answer)) == (409, "not-pending")
    assert await audited(device.server) == []


async def test_another_partners_order_is_not_there_and_stays(device: Device) -> None:
    await add(device, "a")
    await device.server.add_site("zeta", "zeta-one")
    stranger = await with_key(device.server, "owner", "zeta")
    for site in ("acme-clinic", "zeta-one"):
        assert (await stranger.call("GET", f"sites/{site}/orders/a")).status_code == 404
        assert (await stranger.call("POST", f"sites/{site}/orders/a/cancel")).status_code == 404
    assert (await stranger.call("GET", "orders")).json()["items"] == []
    assert (await stranger.call("GET", "orders?site=acme-clinic")).status_code == 404
    found = await (await with_key(device.server, "viewer")).call("GET", f"{ORDERS}/a")
    assert found.json()["order"]["status"] == "pending"


async def test_viewers_cancel_nothing(device: Device) -> None:
    await add(device, "a")
    for who in (await with_key(device.server, "viewer"), await with_session(device.server, "auditor", "acme-clinic")):
        assert (await who.call("POST", f"{ORDERS}/a/cancel")).status_code == 403


def pattern(signature: str, total: int) -> dict[str, Any]:
    counts = {"total_count": total, "l1_count": 0, "l2_count": total, "l3_count": 0, "success_count": total}
    return counts | {"pattern_signature": signature, "incident_type": "backup", "total_resolution_time_ms": 10}


async def test_patterns_are_summed_over_a_partners_appliances_and_never_beyond(device: Device) -> None:
    server = device.server
    for partner in ("acme", "zeta"):
        await server.add_site(partner, f"{partner}-two")
        other = await Device.enrolled(server, partner, f"{partner}-two")
        await other.call("PUT", "patterns", json={"epoch": 1, "revision": 1, "patterns": [pattern("a" * 16, 3)]})
    said = {"epoch": 1, "revision": 1, "patterns": [pattern("a" * 16, 2), pattern("b" * 16, 1), pattern("c" * 16, 1)]}
    await device.call("PUT", "patterns", json=said)
    viewer = await with_key(server, "viewer")
    found = {each["pattern_signature"][0]: each["total_count"] for each in await viewer.walk("patterns")}
    assert found == {"a": 5, "b": 1, "c": 1}
    own = {each["pattern_signature"][0]: each["total_count"] for each in await viewer.walk("patterns", site="acme-two")}
    assert own == {"a": 3}
    assert (await viewer.call("GET", "patterns?site=zeta-two")).status_code == 404
    assert (await viewer.call("GET", "patterns?total=true")).json()["total"] == 3


async def test_rules_are_listed_and_shown_to_their_partner_alone(server: Running) -> None:
    await server.add_site("zeta", "zeta-one")
    for name, status in (("a", "candidate"), ("b", "active"), ("c", "candidate")):
        async with server.db.partner("acme") as scope:
            await scope.conn.execute(
                """
                INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status)
                VALUES ('acme', $1, repeat('a', 16), 'restart_service', '[{"field": "check", "eq": "backup"}]', $2)
                """,
                name,
                status,
            )
    viewer, stranger = await with_key(server, "viewer"), await with_key(server, "owner", "zeta")
    assert [each["id"] for each in await viewer.walk("rules")] == ["c", "b", "a"]
    assert [each["id"] for each in await viewer.walk("rules", status="active")] == ["b"]
    assert (await viewer.call("GET", "rules/a")).json()["conditions"] == [{"field": "check", "eq": "backup"}]
    assert (await viewer.call("GET", "rules?status=loud")).status_code == 422
    assert (await stranger.call("GET", "rules/a")).status_code == 404
    assert (await stranger.call("GET", "rules")).json()["items"] == []


async def test_the_catalogue_is_the_same_for_every_partner(server: Running) -> None:
    async with server.db.platform() as scope:
        await scope.conn.execute(
            "INSERT INTO runbooks (id, digest, title, risk) VALUES ('restart', repeat('a', 64), 'Restart', 'low')"
        )
    viewer = await with_key(server, "viewer")
    (listed,) = await viewer.walk("runbooks")
    assert (await viewer.call("GET", "runbooks/restart")).json() == {**listed, "definition": None}
    assert (await viewer.call("GET", "runbooks/none")).status_code == 404
