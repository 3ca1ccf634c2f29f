"""What a real server wants of a real appliance: the policy that its operators made, and orders by its API."""

import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccagent import attempts, opening
from ccagent.attempts import Attempt, Moment
from ccagent.clock import Boot, ClockWatch
from ccagent.places import Places
from ccserver.localpg import Urls
from ccshared.vocabulary import Outcome
from tests.e2e.processes import Clinic


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    made.serve()
    made.enroll()
    yield made
    made.stop()


def key(clinic: Clinic) -> str:
    made = clinic.server.json("key", "create", "tests", "--partner", "acme", "--role", "technician", "--days", "1")
    return str(made["key"])


def api(clinic: Clinic, secret: str, path: str, body: dict[str, Any] | None = None, once: str = "once-only") -> Any:
    """Ask the operators' API; with a body, POST it under the idempotency key `once`."""
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", "Idempotency-Key": once}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{clinic.url}/api/v1{path}", data, headers)  # noqa: S310  our own address
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def setting(clinic: Clinic, name: str, value: str) -> None:
    clinic.server.run("setting", "set", name, value, "--site", "clinic")


def entries_of(clinic: Clinic, kind: str) -> list[dict[str, Any]]:
    from ccagent import opening, queue
    from ccagent.clock import ClockWatch
    from ccagent.places import Places

    store = opening.open_store(Places(clinic.config.parent / "agent"), ClockWatch().stamp())
    try:
        found = [
            json.loads(line)
            for log in store.read(queue.all_epochs)
            for line in store.read(queue.lines, log.epoch, 0, 10_000, 10**9)
            if isinstance(line, bytes)
        ]
    finally:
        store.close()
    return [one["body"] for one in found if one["kind"] == kind]


def test_the_policy_that_an_operator_made_is_followed_with_the_next_check_in(clinic: Clinic) -> None:
    clinic.command("once")
    assert clinic.status()["healing"]["mode"] == "observe"
    setting(clinic, "healing.mode", "heal")
    setting(clinic, "checks.backup.max_age_hours", "12")
    clinic.command("once")
    assert clinic.status()["healing"]["mode"] == "heal"
    setting(clinic, "healing.mode", "stop")
    clinic.command("once")
    assert clinic.status()["healing"]["mode"] == "stop"
    said = entries_of(clinic, "policy")
    assert [one["mode"] for one in said] == ["observe", "heal", "stop"]
    assert "checks.backup.max_age_hours" in said[1]["changed"]


def test_the_catalogue_says_what_would_be_done_before_anything_is_allowed(clinic: Clinic) -> None:
    clinic.command("once")
    stale = [one for one in entries_of(clinic, "escalation") if one["check"] == "backup"]
    assert [(one["mode"], one["would"]["runbook"]) for one in stale] == [("observe", "run-backup")]
    assert "a person is asked" in clinic.command("incidents").stdout


def test_an_order_by_the_api_is_run_proved_and_told(clinic: Clinic) -> None:
    clinic.command("once")
    secret, who = key(clinic), clinic.status()["appliance"]
    made = api(
        clinic, secret, "/sites/clinic/orders", {"appliance_id": who, "runbook_id": "run-checks-now", "parameters": {}}
    )
    order = made["order"]["id"]
    clinic.command("once")
    told = api(clinic, secret, f"/sites/clinic/orders/{order}")
    assert told["order"]["status"] == "succeeded"
    (proof,) = entries_of(clinic, "order_result")
    assert (proof["order"], proof["status"]) == (order, "succeeded")
    clinic.command("once")
    assert len(entries_of(clinic, "order_result")) == 1


def test_a_support_bundle_is_collected_by_order(clinic: Clinic) -> None:
    clinic.command("once")
    secret, who = key(clinic), clinic.status()["appliance"]
    body = {"appliance_id": who, "runbook_id": "collect-support-bundle", "parameters": {}}
    api(clinic, secret, "/sites/clinic/orders", body)
    clinic.command("once")
    bundle = clinic.config.parent / "agent" / "support-bundle.tar.gz"
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert entries_of(clinic, "order_result")[0]["status"] == "succeeded"


def test_what_is_suppressed_is_tried_again_by_order(clinic: Clinic) -> None:
    clinic.command("once")
    key_of, now = ("box", "backup", "run-backup"), Moment(1_800_000_000_000, Boot("boot", 1), 1)
    places = Places(clinic.config.parent / "agent")
    with contextlib.closing(opening.open_store(places, ClockWatch().stamp())) as store:
        for number in range(3):
            store.write_now(attempts.begin, Attempt(f"r-{number}", "i", key_of, "L1", "rule", "why", {}, {}), now)
            store.write_now(attempts.end, f"r-{number}", Outcome.SUCCESS, "it passes", 1)
        assert store.write_now(attempts.suppress_if_flapping, key_of, now)
    secret, who = key(clinic), clinic.status()["appliance"]
    body = {"appliance_id": who, "runbook_id": "clear-suppressions", "parameters": {"check": "backup"}}
    api(clinic, secret, "/sites/clinic/orders", body)
    clinic.command("once")
    (proof,) = entries_of(clinic, "order_result")
    assert (proof["status"], proof["steps"][0]["output"]) == ("succeeded", "1 cleared")
    with contextlib.closing(opening.open_store(places, ClockWatch().stamp())) as store:
        assert store.read(attempts.suppressions) == []
