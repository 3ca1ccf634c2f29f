"""The flywheel end to end: stores of appliances tell a server, which plans for another one and learns a rule."""

import contextlib
from pathlib import Path

from ccagent import finding, incidents, mirror
from ccagent.client import Client
from ccagent.client import Device as Known
from ccagent.finding import Drift
from ccagent.incidents import Resolution, Sighting
from ccagent.places import Places
from ccagent.resolvers import level1, level2
from ccagent.resolvers.level2 import Planners
from ccagent.scrubbing import scrub
from ccagent.store import Store, Tx
from ccserver import retention, sweeps
from ccshared import ids, policy, rules
from ccshared.vocabulary import Level, Outcome, Severity
from tests.devices import Device, Running
from tests.operators import with_key

SWEEPS = [sweep for sweep in sweeps.SWEEPS if sweep.name in ("candidates", "trials")]
FOUND = finding.failed("logging", "box", "no canary line of the last 2 h", {}, Drift(Severity.MEDIUM, "canary_missing"))


def meet(store: Store, times: int) -> None:
    """Let an appliance meet a trouble so often, and repair it each time by what its planner says."""
    for number in range(times):
        store.write_now(incidents.see, Sighting(scrub(b"k" * 32, FOUND), 1_000 + number, ids.new_id()))
        (incident,) = store.read(incidents.open_rows)
        settled = Resolution(Level.L2, "rotate-logs", Outcome.SUCCESS)
        store.write_now(incidents.settle, incident.id, settled, 2_000 + number)


def try_(tx: Tx, rule: str) -> None:
    """Record that a rule was tried, and that its check passed then, as healing does."""
    tx.execute(
        """
        INSERT INTO attempts (repair_id, incident_id, host_id, check_name, runbook, level, rule, why, parameters, pre,
            began_at, boot_id, boot_ms, order_ms, ended_at, outcome)
        VALUES (?, 'i', 'box', 'logging', 'rotate-logs', 'L1', ?, 'why', '{}', '{}', 1, 'boot', 1, 1, 2, 'success')
        """,
        (ids.new_id(), rule),
    )


def reach(device: Device) -> Client:
    """Return the appliance's own client, as it speaks to the server."""
    known = Known(device.server.keys.server, device.appliance_id, device.seed)
    return Client(device.server.url, known, timeout_s=10)


async def tell(device: Device, store: Store) -> None:
    async with reach(device) as client:
        await mirror.mirror(store, client)


async def in_force(device: Device) -> policy.Policy:
    answer = (await device.call("GET", "policy")).json()
    return policy.read(answer, [device.server.keys.order.public_key])


async def sweep(server: Running) -> None:
    for one in SWEEPS:
        assert (await sweeps.run(server.db, one, retention.Terms())).error is None


async def test_what_two_appliances_learned_a_third_is_told_and_has_as_a_rule_and_then_all_have(
    device: Device, tmp_path: Path
) -> None:
    server = device.server
    for site in ("acme-two", "acme-three"):
        await server.add_site("acme", site)
    second, third = [await Device.enrolled(server, "acme", site) for site in ("acme-two", "acme-three")]
    with contextlib.ExitStack() as stack:
        stores = [
            stack.enter_context(contextlib.closing(Store.open(Places(tmp_path / str(number))))) for number in range(3)
        ]
        for teacher, store, times in ((device, stores[0], 3), (second, stores[1], 4)):
            meet(store, times)
            await tell(teacher, store)
        stores[2].write_now(incidents.see, Sighting(scrub(b"k" * 32, FOUND), 1_000, ids.new_id()))
        (incident,) = stores[2].read(incidents.open_rows)
        async with reach(third) as client:
            said = await in_force(third)
            proposal = await level2.propose(Planners(client.plan), incident, said, [], [])
        assert proposal is not None
        assert (proposal.runbook, proposal.why) == (
            "rotate-logs",
            "the server: it helped 7 of 7 times for this pattern, at 2 sites",
        )
        assert level1.propose(rules.compile(said.rules, {one.id for one in said.runbooks}), incident) is None

        await sweep(server)
        technician = await with_key(server, "technician")
        (rule,) = await technician.walk("rules")
        approved = await technician.call(
            "POST",
            f"rules/{rule['id']}/approve",
            {"If-Match": f'"{rule["revision"]}"'},
            json={"comment": "seen", "appliance_id": third.appliance_id},
        )
        assert approved.status_code == 200
        said = await in_force(third)
        learned = level1.propose(rules.compile(said.rules, {one.id for one in said.runbooks}), incident)
        assert learned is not None
        assert (learned.rule, learned.runbook, learned.level) == (rule["id"], "rotate-logs", Level.L1)
        assert rule["id"] not in {one.id for one in (await in_force(second)).rules}

        for _ in range(3):
            stores[2].write_now(try_, rule["id"])
        await tell(third, stores[2])
        await sweep(server)
        assert rule["id"] in {one.id for one in (await in_force(second)).rules}
