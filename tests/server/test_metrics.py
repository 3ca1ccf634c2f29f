"""Metrics of a real process, a rotated key file that a running process sees, and what a device's own limit does."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ccserver import config, keys
from ccserver.errors import BadConfigError
from ccserver.keys import KeyFile
from ccserver.limits import Rate, Rates
from ccserver.localpg import Urls
from ccserver.scope import Database
from tests import operators, people
from tests.devices import Device, Running
from tests.e2e.processes import Clinic, free_port, wait_until
from tests.people import Role

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def clinic(database: Urls, tmp_path: Path) -> Iterator[Clinic]:
    made = Clinic.prepare(database, tmp_path)
    made.server.env["CCSERVER_METRICS_LISTEN"] = f"127.0.0.1:{free_port()}"
    yield made
    made.stop()


def scraped(clinic: Clinic, path: str = "/metrics") -> Samples:
    url = f"http://{clinic.server.env['CCSERVER_METRICS_LISTEN']}{path}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    assert "acme" not in text
    assert "clinic" not in text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_real_process_tells_prometheus_how_it_is(clinic: Clinic) -> None:
    clinic.server.env["CCSERVER_SWEEP_SECONDS"] = "1"
    clinic.serve()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{clinic.url}/api/v1/sites", timeout=10)  # noqa: S310  our own address
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{clinic.url}/no/such/acme", timeout=10)  # noqa: S310  our own address
    log = clinic.server.log
    wait_until(lambda: ("ccserver_sweep_runs_total", (("result", "done"), ("sweep", "snapshots"))) in scraped(clinic))
    found = scraped(clinic)
    route = (("method", "GET"), ("route", "/agent/v1/nonce"), ("status", "200"))
    assert found["ccserver_requests_total", route] >= 1
    assert found["ccserver_requests_total", (("method", "other"), ("route", "none"), ("status", "404"))] == 1
    assert found["ccserver_refusals_total", (("problem", "not-signed-in"),)] == 1
    assert found["ccserver_database_up", ()] == 1
    assert found["ccserver_schema_version", ()] >= 16
    assert found["ccserver_pool_connections", (("state", "most"),)] == 10
    assert found["ccserver_request_seconds_count", (("route", "/agent/v1/nonce"),)] >= 1
    assert any(name == "ccserver_build_info" for name, _ in found)
    assert clinic.server.end() == 0
    assert "Traceback" not in log.read_text()


def test_the_metrics_listener_has_one_page_and_the_server_has_none(clinic: Clinic) -> None:
    clinic.serve()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scraped(clinic, "/")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{clinic.url}/metrics", timeout=10)  # noqa: S310  our own address


def test_an_asked_for_metrics_address_that_is_taken_is_one_sentence(clinic: Clinic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        clinic.server.env["CCSERVER_METRICS_LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "set CCSERVER_METRICS_LISTEN to another" in clinic.server.run("serve", code=1).stderr


async def test_appended_entries_and_receipts_are_counted(clinic: Clinic, db: Database) -> None:
    clinic.serve()
    async with httpx.AsyncClient(base_url=clinic.url, trust_env=False) as client:
        held = keys.load(Path(clinic.server.env["CCSERVER_DATA_DIR"]) / "server-keys.json")
        device = await Device.enrolled(Running(clinic.url, client, db, held, clinic.urls), "acme", "clinic")
        for _ in range(3):
            device.check_run("firewall", "pass")
        for _ in range(2):  # the same again is a receipt, and no entry
            assert (await device.send(device.batch(0))).status_code == 200
    found = scraped(clinic)
    assert (found["ccserver_appended_entries_total", ()], found["ccserver_receipts_total", ()]) == (3, 2)
    assert found["ccserver_appliances", (("state", "all"),)] == 1


def test_a_running_process_sees_a_rotated_key_file(clinic: Clinic) -> None:
    clinic.serve()
    clinic.enroll()
    path = Path(clinic.server.env["CCSERVER_DATA_DIR"]) / "server-keys.json"
    before = path.read_bytes()
    clinic.server.json("keys", "rotate", "witness", "--yes")
    rotated = keys.load(path)
    assert len(rotated.witnesses) == 2
    with urllib.request.urlopen(f"{clinic.url}/agent/v1/keys", timeout=10) as answer:  # noqa: S310  our own address
        assert rotated.witness.name in answer.read().decode()
    path.write_bytes(before[:50])
    with urllib.request.urlopen(f"{clinic.url}/agent/v1/keys", timeout=10) as answer:  # noqa: S310  our own address
        assert rotated.witness.name in answer.read().decode()
    assert scraped(clinic)["ccserver_key_files_refused_total", ()] == 1


async def test_a_receipt_by_a_rotated_key_is_given_by_the_running_server(
    server: Running, device: Device, settings: config.Config
) -> None:
    device.check_run("firewall", "pass")
    assert (await device.send(device.batch(0))).status_code == 200
    rotated = keys.rotate(settings.key_file, "witness")
    device.check_run("firewall", "fail")
    answer = await device.send(device.batch(1))
    assert answer.status_code == 200
    assert rotated.witness.name in answer.json()["receipt"]


def test_another_servers_key_file_is_not_taken(settings: config.Config, tmp_path: Path) -> None:
    file = KeyFile(settings.key_file)
    good = file.current
    other = tmp_path / "other.json"
    keys.create(other, "other.example")
    other.replace(settings.key_file)
    assert file.current is good
    assert file.current is good
    assert file.refused == 1


def test_a_missing_key_file_keeps_the_last_good_one(settings: config.Config) -> None:
    file = KeyFile(settings.key_file)
    good = file.current
    settings.key_file.unlink()
    assert file.current is good
    with pytest.raises(BadConfigError):
        KeyFile(settings.key_file)


async def test_a_keys_last_use_is_written_once_a_minute(server: Running) -> None:
    owner = await operators.with_key(server, "owner")
    conn = await asyncpg.connect(server.urls.admin)
    read = "SELECT last_used_at FROM api_keys"
    assert await conn.fetchval(read) is None
    first = None
    until = time.monotonic() + 10
    while first is None and time.monotonic() < until:
        assert (await owner.call("GET", "sites")).status_code == 200
        first = await conn.fetchval(read)
    assert first is not None
    for _ in range(5):
        await owner.call("GET", "sites")
    assert await conn.fetchval(read) == first
    await conn.close()


async def test_failed_sign_ins_do_not_flood_the_audit_log(server: Running) -> None:
    person = await people.add(server, "anna", Role.VIEWER)
    assert [(await person.give_password("wrong")).status_code for _ in range(12)] == [401] * 12
    refused = [action for action, _ in await operators.audited(server) if action == "session.refuse"]
    assert len(refused) == 5


class TestATightServer:
    """One appliance may call four times at once."""

    @pytest.fixture
    def settings(self, settings: config.Config) -> config.Config:
        return replace(settings, rates=replace(Rates(), appliance=Rate(0.01, 4)))

    async def test_an_appliance_that_calls_too_often_waits_and_no_other(self, server: Running) -> None:
        one, other = [await Device.enrolled(server, "acme", "acme-clinic") for _ in range(2)]
        assert [(await one.call("GET", "log")).status_code for _ in range(5)] == [200] * 4 + [429]
        assert (await other.call("GET", "log")).status_code == 200


def test_an_old_copy_of_the_key_file_takes_no_key_away_from_a_process_that_runs(settings: config.Config) -> None:
    before = settings.key_file.read_bytes()
    newest = keys.rotate(settings.key_file, "witness").witness
    file = KeyFile(settings.key_file)
    settings.key_file.write_bytes(before)
    assert file.current.witness == newest
    assert file.refused == 1
