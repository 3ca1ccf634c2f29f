"""Orders for many: the canary first, then a share at once; failures pause it, and two servers never do it twice."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from ccserver import catalogue, fleets
from ccserver.config import Config
from ccserver.fleets import Means
from ccserver.queries import fleet_orders, orders
from ccserver.queries.orders import Answer
from ccserver.scope import open_pool
from tests.devices import Device, Running
from tests.operators import Operator, audited, type_of, with_key, with_session
from tests.ordering import HIGH, LOW, extended

FLEETS = "fleet-orders"
ADD = """
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin)
    SELECT $1, 'acme', $1 || '-box-' || n, 'box', sha256($1::bytea || n::text::bytea), now() - n * interval '1 minute'
    FROM generate_series(1, $2::int) n
"""


@pytest.fixture
def settings(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    extended(monkeypatch)
    return settings


async def add(server: Running, count: int, site: str = "acme-clinic") -> None:
    if site != "acme-clinic":
        await server.add_site("acme", site)
    async with server.db.platform() as scope:
        await scope.conn.execute(ADD, site, count)


async def begun(server: Running, who: Operator | None = None, **more: Any) -> str:
    who = who or await with_key(server, "technician")
    answer = await who.call("POST", FLEETS, json={"runbook_id": LOW, "all": True} | more)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["fleet_order"]["id"])


async def shown(server: Running, fleet: str) -> tuple[str, dict[str, int]]:
    found = (await (await with_key(server, "viewer")).call("GET", f"{FLEETS}/{fleet}")).json()
    return found["fleet_order"]["status"], found["progress"]


async def active(server: Running) -> list[Any]:
    """Return the orders that appliances have, by the order in which they were given."""
    async with server.db.platform() as scope:
        rows = await scope.conn.fetch(
            "SELECT site_id, appliance_id, id, fleet_order_id FROM orders WHERE envelope IS NOT NULL"
            " AND status IN ('pending', 'acknowledged', 'running') ORDER BY issued_at, id"
        )
    return list(rows)


async def end(server: Running, row: Any, status: str = "succeeded") -> None:
    """Let an appliance take its order and answer it, and the order for many go on, as the routes do.

    One that was taken back meanwhile is not run: the appliance asks last, and is told so.
    """
    async with server.db.appliance(row["site_id"], row["appliance_id"]) as scope:
        if await orders.acknowledge(scope, row["id"]) == "cancelled":
            return
        assert await orders.answer(scope, row["id"], Answer(status, {"status": status})) == row["fleet_order_id"]
    await advance(server, row["fleet_order_id"])


async def advance(server: Running, fleet: str, means: Means | None = None) -> int:
    async with server.db.partner("acme") as scope:
        return await fleets.advance(scope, means or Means(server.keys, catalogue.load()), fleet)


async def act(server: Running, fleet: str, what: str, who: Operator | None = None) -> Any:
    return await (who or await with_key(server, "technician")).call("POST", f"{FLEETS}/{fleet}/{what}")


async def test_the_canary_tries_it_alone_and_then_a_share_runs_it_at_once(server: Running) -> None:
    await add(server, 60)
    fleet = await begun(server)
    (first,) = await active(server)
    assert first["appliance_id"] == "acme-clinic-box-1"  # heard last
    assert await advance(server, fleet) == 0
    await end(server, first)
    assert len(await active(server)) == 3  # 5 % of 60
    for _ in range(59):
        await end(server, (await active(server))[0])
        assert len(await active(server)) <= 3
    status, progress = await shown(server, fleet)
    assert (status, progress["succeeded"], progress["waiting"]) == ("done", 60, 0)


async def test_of_a_few_appliances_one_runs_it_at_a_time(server: Running) -> None:
    await add(server, 3)
    fleet = await begun(server)
    for _ in range(3):
        (one,) = await active(server)
        await end(server, one)
    assert (await shown(server, fleet))[0] == "done"


async def test_a_canary_that_fails_pauses_it_and_a_person_lets_it_go_on(server: Running) -> None:
    await add(server, 40)
    fleet = await begun(server)
    await end(server, (await active(server))[0], "failed")
    viewer = await with_key(server, "viewer")
    found = (await viewer.call("GET", f"{FLEETS}/{fleet}")).json()["fleet_order"]
    assert (found["status"], found["pause_reason"]) == ("paused", "the canary failed")
    assert (await active(server), await advance(server, fleet)) == ([], 0)
    assert (await act(server, fleet, "resume")).status_code == 200
    assert len(await active(server)) == 2
    assert [action for action, _ in await audited(server)] == ["fleet_order.create", "fleet_order.resume"]


async def test_a_canary_that_began_and_is_not_heard_of_pauses_it(server: Running) -> None:
    await add(server, 40)
    fleet = await begun(server)
    (first,) = await active(server)
    async with server.db.appliance(first["site_id"], first["appliance_id"]) as scope:
        await orders.answer(scope, first["id"], Answer("running", {}))
    assert (await advance(server, fleet), (await shown(server, fleet))[0]) == (0, "running")
    async with server.db.platform() as platform:
        await platform.conn.execute(
            "UPDATE orders SET started_at = now() - interval '1 day' WHERE id = $1", first["id"]
        )
    assert await advance(server, fleet) == 0
    found = (await (await with_key(server, "viewer")).call("GET", f"{FLEETS}/{fleet}")).json()["fleet_order"]
    assert (found["status"], found["pause_reason"]) == ("paused", "the canary began and nothing was heard of it since")
    assert (await act(server, fleet, "resume")).status_code == 200
    assert len(await active(server)) == 2  # a share of two, of which that one is


async def test_three_failures_in_a_row_pause_it_and_a_success_between_does_not(server: Running) -> None:
    await add(server, 60)
    fleet = await begun(server)
    for status in ("succeeded", "failed", "rejected", "succeeded", "failed", "failed"):
        await end(server, (await active(server))[0], status)
        assert (await shown(server, fleet))[0] == "running"
    await end(server, (await active(server))[0], "failed")
    status, progress = await shown(server, fleet)
    assert (status, progress["active"], progress["failed"]) == ("paused", 0, 4)  # what nobody had taken was taken back
    await act(server, fleet, "resume")
    assert len(await active(server)) == 3
    for _ in range(2):
        await end(server, (await active(server))[0], "failed")
    assert (await shown(server, fleet))[0] == "running"


async def test_a_canary_that_is_away_gives_its_turn_to_the_next(server: Running) -> None:
    await add(server, 40)
    fleet = await begun(server, canary="acme-clinic-box-7")
    assert [row["appliance_id"] for row in await active(server)] == ["acme-clinic-box-7"]
    async with server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = 'expired'")
    assert await advance(server, fleet) == 1
    assert [row["appliance_id"] for row in await active(server)] == ["acme-clinic-box-1"]


async def expire(server: Running, row: Any, *, taken: bool) -> None:
    """Let an order's time be over, which the appliance had taken before, or not."""
    if taken:
        async with server.db.appliance(row["site_id"], row["appliance_id"]) as scope:
            assert await orders.acknowledge(scope, row["id"]) == "acknowledged"
    async with server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = 'expired', finished_at = now() WHERE id = $1", row["id"])


async def test_a_canary_that_took_it_and_was_never_heard_of_again_pauses_it(server: Running) -> None:
    await add(server, 40)
    fleet = await begun(server)
    await expire(server, (await active(server))[0], taken=True)
    assert await advance(server, fleet) == 0
    assert (await shown(server, fleet))[0] == "paused"


async def test_three_in_a_row_that_took_it_and_were_never_heard_of_again_pause_it(server: Running) -> None:
    await add(server, 60)
    fleet = await begun(server)
    await end(server, (await active(server))[0])
    for row in (await active(server))[:2]:
        await expire(server, row, taken=True)
    assert await advance(server, fleet) == 2
    await expire(server, (await active(server))[0], taken=False)  # it never knew of it, so that says nothing
    assert await advance(server, fleet) == 1
    await end(server, (await active(server))[0], "failed")
    assert (await shown(server, fleet))[0] == "paused"


async def test_it_is_paused_and_cancelled_by_a_person_and_nothing_more_is_given(server: Running) -> None:
    await add(server, 40)
    fleet = await begun(server)
    await act(server, fleet, "pause")
    assert await active(server) == []
    assert type_of(await act(server, fleet, "pause")) == "not-pending"
    await act(server, fleet, "resume")
    taken, waiting = await active(server)
    async with server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = 'running' WHERE id = $1", taken["id"])
    assert (await act(server, fleet, "cancel")).status_code == 200
    assert [row["id"] for row in await active(server)] == [taken["id"]]
    assert waiting["id"] != taken["id"]
    await end(server, taken)
    assert (await shown(server, fleet))[0] == "cancelled"
    assert type_of(await act(server, fleet, "resume")) == "not-pending"


async def test_two_servers_at_once_never_go_beyond_the_share(server: Running) -> None:
    await add(server, 80)
    fleet = await begun(server)
    await end(server, (await active(server))[0])
    other = replace(server, db=await open_pool(server.urls.server, min_size=1, max_size=4))
    chance = random.Random(7)
    while await active(server):
        rows = await active(server)
        assert len(rows) <= 4
        chosen = chance.sample(rows, min(len(rows), 3))
        results = (
            end(chance.choice((server, other)), row, chance.choice(("succeeded",) * 4 + ("failed",))) for row in chosen
        )
        await asyncio.gather(*results, *(advance(each, fleet) for each in (server, other)))
        if (await shown(server, fleet))[0] == "paused":
            await act(server, fleet, "resume")
    await other.db.close()
    status, progress = await shown(server, fleet)
    assert (status, progress["succeeded"] + progress["failed"]) == ("done", 80)
    async with server.db.platform() as scope:
        twice = "SELECT appliance_id FROM orders WHERE status <> 'cancelled' GROUP BY 1 HAVING count(*) > 1"
        assert await scope.conn.fetch(twice) == []


async def test_a_result_that_arrives_carries_it_on(device: Device) -> None:
    await add(device.server, 1)
    fleet = await begun(device.server, canary=device.appliance_id)
    (first,) = await active(device.server)
    answer = await device.call("POST", f"orders/{first['id']}/result", json={"status": "succeeded"})
    assert answer.status_code == 200
    assert [row["appliance_id"] for row in await active(device.server)] == ["acme-clinic-box-1"]
    assert (await shown(device.server, fleet))[1]["succeeded"] == 1


async def test_a_round_carries_on_what_no_result_did(server: Running) -> None:
    await add(server, 2)
    await begun(server)
    async with server.db.platform() as scope:
        await scope.conn.execute("UPDATE orders SET status = 'expired'")
    means = Means(server.keys, catalogue.load())
    assert [await fleets.advance_every(server.db, means) for _ in range(2)] == [1, 0]


async def test_one_partner_with_many_of_them_keeps_no_other_from_a_round(server: Running) -> None:
    await add(server, 1)
    first = [await begun(server) for _ in range(3)]
    await server.add_site("zeta", "zeta-one")
    async with server.db.platform() as scope:
        await scope.conn.execute(ADD.replace("'acme'", "'zeta'"), "zeta-one", 1)
    other = await begun(server, await with_key(server, "technician", "zeta"))
    async with server.db.platform() as scope:
        assert [each.id for each in await fleet_orders.list_running(scope, 2)] == [first[0], other]


async def stop(server: Running, level: str, target: str, partner: str = "acme") -> None:
    async with server.db.partner(partner) as scope:
        await scope.conn.execute(
            "INSERT INTO settings (partner_id, level, target_id, name, value, updated_by)"
            " VALUES ($1, $2, $3, 'healing.mode', '\"stop\"', 'test')",
            partner,
            level,
            target,
        )


@pytest.mark.parametrize("level", ["platform", "partner"])
async def test_while_healing_is_stopped_nobody_gets_it(server: Running, level: str) -> None:
    await add(server, 3)
    owner = "platform" if level == "platform" else "acme"
    await stop(server, level, owner, owner)
    fleet = await begun(server)
    assert await active(server) == []
    async with server.db.partner(owner) as scope:
        await scope.conn.execute("DELETE FROM settings")
    assert await advance(server, fleet) == 1


async def test_a_site_that_is_stopped_waits_and_one_that_is_closed_is_passed_over(server: Running) -> None:
    await add(server, 1)
    await add(server, 1, "acme-two")
    await add(server, 2, "acme-three")
    await stop(server, "site", "acme-clinic")
    fleet = await begun(server, canary="acme-three-box-1")
    async with server.db.platform() as scope:
        await scope.conn.execute("UPDATE sites SET closed_at = now() WHERE id = 'acme-two'")
        await scope.conn.execute("UPDATE appliances SET revoked_at = now() WHERE id = 'acme-three-box-2'")
    await end(server, (await active(server))[0])
    status, progress = await shown(server, fleet)
    assert (status, progress["skipped"], progress["waiting"], await active(server)) == ("running", 2, 1, [])


@pytest.mark.parametrize(("level", "target"), [("platform", "platform"), ("partner", "acme"), ("site", "acme-clinic")])
async def test_a_stop_takes_back_what_no_appliance_has_taken_yet(server: Running, level: str, target: str) -> None:
    await add(server, 40)
    await add(server, 40, "acme-two")
    fleet = await begun(server, canary="acme-two-box-1")
    await end(server, (await active(server))[0])
    taken, *waiting = await active(server)
    async with server.db.appliance(taken["site_id"], taken["appliance_id"]) as scope:
        assert await orders.acknowledge(scope, taken["id"]) == "acknowledged"
    there = {row["id"] for row in waiting if level == "site" and row["site_id"] != target}
    await stop(server, level, target, "platform" if level == "platform" else "acme")
    await advance(server, fleet)
    left = await active(server)
    assert {taken["id"]} | there <= {row["id"] for row in left}
    assert {row["id"] for row in waiting} & {row["id"] for row in left} == there
    assert (await shown(server, fleet))[0] == "running"


async def test_a_high_risk_begins_after_a_second_person_agreed(server: Running) -> None:
    await add(server, 3)
    first, second = await with_session(server, "technician"), await with_session(server, "owner")
    fleet = await begun(server, first, runbook_id=HIGH)
    assert (await advance(server, fleet), await active(server)) == (0, [])
    assert type_of(await act(server, fleet, "approve", first)) == "second-person-needed"
    assert type_of(await act(server, fleet, "approve")) == "person-needed"
    assert (await act(server, fleet, "approve", second)).status_code == 200
    (one,) = await active(server)
    found = await (await with_key(server, "viewer")).call("GET", f"sites/acme-clinic/orders/{one['id']}")
    assert found.json()["order"]["approved_by"] is not None


async def test_a_runbook_that_changed_meanwhile_pauses_it(server: Running) -> None:
    await add(server, 3)
    fleet = await begun(server)
    await advance(server, fleet, Means(server.keys, {}))
    assert (await shown(server, fleet))[0] == "paused"


async def test_sites_or_a_tag_say_for_whom_it_is(server: Running) -> None:
    await add(server, 2)
    await add(server, 3, "acme-two")
    technician = await with_key(server, "technician")
    tagged = await technician.call("PATCH", "sites/acme-two", {"If-Match": '"1"'}, json={"tags": ["dental", "dental"]})
    assert tagged.json()["tags"] == ["dental"]
    for target, count in (({"tag": "dental"}, 3), ({"sites": ["acme-clinic"]}, 2), ({"all": True}, 5)):
        answer = await technician.call("POST", FLEETS, json={"runbook_id": LOW} | target)
        progress = answer.json()["progress"]
        assert progress["waiting"] + progress["active"] == count
    for wrong in ({}, {"all": True, "tag": "x"}, {"tag": "none"}, {"sites": []}, {"all": True, "canary": "nobody"}):
        assert (await technician.call("POST", FLEETS, json={"runbook_id": LOW} | wrong)).status_code == 422


async def test_another_partner_sees_and_moves_nothing_of_it(server: Running) -> None:
    await add(server, 3)
    fleet = await begun(server)
    await server.add_site("zeta", "zeta-one")
    stranger = await with_key(server, "owner", "zeta")
    for path in ("", "/appliances"):
        assert (await stranger.call("GET", f"{FLEETS}/{fleet}{path}")).status_code == 404
    for what in ("approve", "pause", "resume", "cancel"):
        assert (await act(server, fleet, what, stranger)).status_code == 404
    sites = {"runbook_id": LOW, "sites": ["acme-clinic"]}
    assert (await stranger.call("POST", FLEETS, json=sites)).status_code == 422  # for nobody
    assert (await shown(server, fleet))[0] == "running"
    assert (await act(server, fleet, "cancel", await with_key(server, "viewer"))).status_code == 403


async def test_its_appliances_are_listed_in_their_turns(server: Running) -> None:
    await add(server, 3)
    fleet = await begun(server)
    viewer = await with_key(server, "viewer")
    listed = (await viewer.call("GET", f"{FLEETS}/{fleet}/appliances?limit=2")).json()
    assert [(each["turn"], each["order_status"]) for each in listed] == [(0, "pending"), (1, None)]
    assert [each["id"] for each in await viewer.walk(FLEETS)] == [fleet]
