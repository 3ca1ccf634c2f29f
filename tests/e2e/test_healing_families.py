"""Each family of checks: something real is broken, found, repaired, verified, proved and reported; the same by order.

Server, agent and root helper are processes of their own; what is broken is on a machine apart (apart.py). Encryption is
for people only, so that a person is asked is what is tested.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import TEMPLATE
from tests.databases import Server
from tests.e2e import packages
from tests.e2e.apart import Apart, standing
from tests.e2e.processes import Clinic, wait_until
from tests.e2e.test_directives import api

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Break:
    """What is broken of which check, the incident that it is, and the runbook with its parameters that mends it.

    `mended` looks at the machine itself, beside what its agent says.
    """

    check: str
    incident: str
    runbook: str
    parameters: dict[str, Any]
    do: Callable[[Apart], None]
    mended: Callable[[Apart], bool] = lambda _: True


def other_rule(machine: Apart) -> None:
    machine.run("nft", "insert", "rule", "inet", "filter", "input", "tcp", "dport", "23", "accept")


def is_up_to_date(machine: Apart) -> bool:
    return machine.installed() == "2.0"


FAMILIES = ("patching", "backup", "logging", "antivirus", "firewall")
BREAKS = {
    "backup": Break("backup", "backup_stale", "run-backup", {"unit": "cc-backup.service"}, Apart.age_backup),
    "log volume": Break("logging", "log_volume_full", "rotate-logs", {"keep_bytes": 524_288_000}, Apart.fill_logs),
    "log unit": Break(
        *("logging", "logging_inactive", "start-logging", {"unit": "systemd-journald.service"}),
        lambda machine: machine.kill_unit("systemd-journald.service"),
    ),
    "anti-virus": Break(
        *("antivirus", "antivirus_inactive", "start-antivirus", {"unit": "clamav-daemon.service"}),
        lambda machine: machine.kill_unit("clamav-daemon.service"),
    ),
    "updates": Break("patching", "updates_pending", "apply-security-updates", {}, Apart.publish_update, is_up_to_date),
    "firewall": Break("firewall", "firewall_changed", "load-firewall-baseline", {}, other_rule),
}


@pytest.fixture(scope="module")
def clinic(
    postgres: Server, template: str, numbers: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clinic]:
    """One server for the module, with a site where drift is repaired and one where it is only shown."""
    assert template == TEMPLATE
    name = f"cc_test_{next(numbers)}"
    made = Clinic.prepare(postgres.create_database(name, template), tmp_path_factory.mktemp("families"))
    made.server.run("site", "create", "Ward", "--partner", "acme", "--id", "ward")
    for setting, value in (("mode", "heal"), ("window_days", "0123456"), ("window_minutes", "1440")):
        made.server.run("setting", "set", f"healing.{setting}", value, "--site", "clinic")
    made.serve()
    yield made
    made.stop()
    asyncio.run(sql(postgres.urls("postgres").admin, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What a machine apart installs of what this one lacks."""
    return packages.fetch(tmp_path_factory.mktemp("packages") / "apt")


@pytest.fixture(scope="module")
def healing(clinic: Clinic, debs: list[Path]) -> Iterator[Apart]:
    """A machine in order whose agent runs and looks each second."""
    clinic.server.run("setting", "set", "agent.patrol_interval_s", "1", "--site", "clinic")
    clinic.server.run("setting", "set", "agent.checkin_interval_s", "1", "--site", "clinic")
    with standing(clinic, "clinic", debs) as machine:
        approve_what_is_there(machine)
        machine.agent.start("run")
        wait_until((machine.place / "agent" / "control.sock").exists)
        yield machine


@pytest.fixture(scope="module")
def observing(clinic: Clinic, debs: list[Path]) -> Iterator[Apart]:
    """A machine in order where nothing is repaired that nobody ordered."""
    with standing(clinic, "ward", debs) as machine:
        approve_what_is_there(machine)
        yield machine


def approve_what_is_there(machine: Apart) -> None:
    """Let a person accept the firewall's and the engine's baselines as the appliance proposes them."""
    machine.agent.run("once")
    where = ("--site", machine.site, "--appliance", machine.status()["appliance"])
    for one in machine.clinic.server.json("baseline", "show", *where):
        machine.clinic.server.run("baseline", "approve", one["name"], one["proposed"], *where)
    machine.agent.run("once")
    said = {one["check"]: one for one in machine.status()["checks"]}
    assert [said[name] for name in FAMILIES if said[name]["status"] != "pass"] == []


async def sql(url: str, query: str, *values: object) -> list[asyncpg.Record]:
    conn = await asyncpg.connect(url)
    try:
        return list(await conn.fetch(query, *values))
    finally:
        await conn.close()


def incidents(machine: Apart, kind: str) -> list[tuple[str | None, str | None, str | None]]:
    """Return level, action and outcome of each incident of a kind that the server was told of."""
    query = """
        SELECT resolution_level AS level, resolution_action AS action, outcome FROM incidents
        WHERE site_id = $1 AND incident_type = $2
    """
    found = asyncio.run(sql(machine.clinic.urls.admin, query, machine.site, kind))
    return [(one["level"], one["action"], one["outcome"]) for one in found]


def proofs(machine: Apart, kind: str) -> list[dict[str, Any]]:
    """Return the bodies of a kind of entry that the server keeps, and for which the appliance has its receipt."""
    query = (
        "SELECT seq, payload FROM evidence_bundles WHERE site_id = $1 AND bundle_type = $2 AND seq < $3 ORDER BY seq"
    )
    receipted = machine.status()["receipted"]
    found = asyncio.run(sql(machine.clinic.urls.admin, query, machine.site, kind, receipted))
    return [json.loads(one["payload"])["body"] for one in found]


@pytest.mark.parametrize("name", ["backup", "log volume", "firewall", "anti-virus", "updates"])
def test_what_is_only_shown_is_repaired_by_an_order_of_a_person(observing: Apart, name: str) -> None:
    broken = BREAKS[name]
    broken.do(observing)
    observing.agent.run("once")
    assert observing.says(broken.check) == "fail"
    assert broken.runbook in [one["would"]["runbook"] for one in proofs(observing, "escalation") if "would" in one]
    assert incidents(observing, broken.incident) == [(None, None, None)]

    order = push(observing, broken)
    observing.agent.run("once")
    assert order_status(observing, order) == "succeeded"
    assert observing.says(broken.check) == "pass"
    assert broken.mended(observing)
    (proof,) = [one for one in proofs(observing, "order_result") if one["order"] == order]
    assert (proof["status"], {step["exit_code"] for step in proof["steps"]}) == ("succeeded", {0})
    assert proofs(observing, "remediation") == []


@pytest.mark.parametrize("broken", BREAKS.values(), ids=BREAKS.keys())
def test_what_breaks_is_found_repaired_verified_proved_and_reported(healing: Apart, broken: Break) -> None:
    broken.do(healing)
    wait_until(lambda: incidents(healing, broken.incident) == [("L1", broken.runbook, "success")])
    assert healing.says(broken.check) == "pass"
    assert broken.mended(healing)

    def proved() -> list[dict[str, Any]]:
        return [one for one in proofs(healing, "remediation") if one["runbook"] == broken.runbook]

    wait_until(lambda: bool(proved()))
    (proof,) = proved()
    assert (proof["level"], proof["outcome"], proof["parameters"]) == ("L1", "success", broken.parameters)
    assert (proof["pre"]["status"], proof["post"]["status"]) == ("fail", "pass")
    assert {step["exit_code"] for step in proof["steps"]} == {0}


def test_a_volume_that_is_not_encrypted_is_for_a_person_whatever_the_mode(healing: Apart) -> None:
    wait_until(lambda: "encryption" in [one["check"] for one in proofs(healing, "escalation")])
    assert healing.status()["healing"]["mode"] == "heal"
    assert healing.says("encryption") == "fail"
    assert "encryption" not in [one["check"] for one in proofs(healing, "remediation")]


def push(machine: Apart, broken: Break) -> str:
    secret = machine.clinic.server.json(
        *("key", "create", broken.check, "--partner", "acme", "--role", "technician", "--days", "1")
    )["key"]
    body = {
        "appliance_id": machine.status()["appliance"],
        "runbook_id": broken.runbook,
        "parameters": broken.parameters,
    }
    return str(api(machine.clinic, secret, f"/sites/{machine.site}/orders", body, broken.check)["order"]["id"])


def order_status(machine: Apart, order: str) -> str:
    query = "SELECT status FROM orders WHERE site_id = $1 AND id = $2"
    (found,) = asyncio.run(sql(machine.clinic.urls.admin, query, machine.site, order))
    return str(found["status"])
