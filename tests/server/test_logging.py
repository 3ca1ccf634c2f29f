"""The log: a line of JSON for each request, and nothing in it that anybody gave in confidence."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ccserver import config, keys
from ccserver.localpg import Urls
from ccserver.scope import Database
from ccshared import ids
from ccshared.vocabulary import Role
from tests import people
from tests.devices import Device, Running
from tests.e2e.processes import free_port

FORGED = '{"level":"info","event":"forged"}'


@dataclass
class Serving:
    """`ccserver serve` as a process, and its log."""

    running: Running
    log: Path
    process: "subprocess.Popen[bytes]"
    secrets: set[str] = field(default_factory=set)

    def end(self) -> str:
        """Stop the server; return its whole log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0
        return self.log.read_text(encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
async def served(database: Urls, db: Database, settings: config.Config, tmp_path: Path) -> AsyncIterator[Serving]:
    port, log = free_port(), tmp_path / "server.log"
    url = f"http://127.0.0.1:{port}"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CCSERVER_", "DATABASE_"))}
    env |= {"DATABASE_URL": database.server, "CCSERVER_DATA_DIR": str(settings.data_dir)}
    env |= {"CCSERVER_LISTEN": f"127.0.0.1:{port}", "CCSERVER_NAME": "cc.example"}
    process = start(env, log)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        running = Running(url, client, db, keys.load(settings.key_file), database)
        await running.add_site("acme", "acme-clinic")
        await until_ready(client, process)
        yield Serving(running, log, process)
    if process.poll() is None:
        process.kill()
    process.wait(20)


def start(env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", "from ccserver.cli import main; main()", "serve"]
    with log.open("wb") as to:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=to, stderr=to)


async def until_ready(client: httpx.AsyncClient, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None
            try:
                await client.get("/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_the_log_holds_no_secret_and_no_name_of_what_passed_through(served: Serving) -> None:
    secrets = await a_person(served.running) | await a_device(served.running) | await mistakes(served.running)
    text = served.end()
    assert {value for value in secrets if value in text} == set()
    assert len(secrets) > 15
    seen = {line["route"] for line in served.lines() if line["event"] == "request"}
    assert {"/login/code", "/account/second-factor", "/agent/v1/enroll", "/welcome/{token}"} <= seen
    assert {line.get("caller") for line in served.lines()} >= {"person", "appliance", "anyone"}


async def a_person(server: Running) -> set[str]:
    """Sign in with all there is; return whatever was secret or personal about it."""
    person = await people.signed_in(server, "olga.petrova@acme.example", Role.OWNER)
    cookies = set(person.client.cookies.values())
    await person.client.post("/logout")
    ticket = await person.ticket()
    await person.give_code(ticket, person.code())
    key = await person.client.post(
        "/api/v1/keys",
        json={"name": "Petrova's key", "role": "viewer", "days": 1},
        headers={"Idempotency-Key": ids.new_id()},
    )
    cookies |= set(person.client.cookies.values())
    seed = base64.b32encode(person.secret).decode()
    await person.client.aclose()
    hidden = {people.PASSWORD, "olga.petrova", "Petrova", seed, ticket, person.last_code, *person.recovery_codes}
    return hidden | cookies | set(re.findall(r"cck_[0-9A-Za-z_-]{43}", key.text))


async def a_device(server: Running) -> set[str]:
    """Enrol and append; return the device's secrets and what it told of a person."""
    code = await server.code("acme", "acme-clinic")
    device = Device(server, bytes(range(32)))
    assert (await device.enroll(code, hostname="room-7-petrov")).status_code == 200
    await device.enroll(code, secret="0" * 64)
    device = await Device.enrolled(server, "acme", "acme-clinic")
    device.seal()
    device.check_run("firewall", "fail", "the laptop of Doctor Ivanov")
    assert (await device.send(device.batch(0))).status_code == 200
    again = device.batch(0)
    assert (await device.send(again)).status_code == 200
    return {code.secret, device.token, device.seed.hex(), "room-7-petrov", "Ivanov", server.keys.master.hex()}


async def mistakes(server: Running) -> set[str]:
    """Do what is refused, with secrets in every place where one may end up."""
    link = "L" * 43
    for path in (f"/welcome/{link}", f"/?token={link}", "/no/such/hunter2", "/?partner=hunter2"):
        await server.client.get(path, headers={"X-Request-Id": "hunter2hunter2hunter2"})
    await server.client.post("/login", data={"login": "eve.smith@x.example", "password": "hunter2"})
    await server.client.get("/api/v1/sites", headers={"Authorization": "Bearer cck_" + "h" * 43})
    await server.client.post("/agent/v1/enroll", json={"secret": "hunter2", "public_key": "eve.smith"})
    await server.client.request("PATCH", "/login?password=hunter2")
    return {link, "hunter2", "eve.smith", "h" * 43}


async def test_what_is_sent_cannot_forge_a_line(served: Serving) -> None:
    for place in (f"/x%0A{FORGED}", f"/welcome/a%0A{FORGED}", f"/api/v1/sites/%0D%0A{FORGED}"):
        await served.running.client.get(place, headers={"User-Agent": FORGED, "X-Request-Id": FORGED})
    served.end()
    assert [line for line in served.lines() if line["event"] == "forged"] == []


async def test_a_request_is_known_by_one_id_everywhere(served: Serving) -> None:
    answer = await served.running.client.get("/api/v1/sites", headers={"X-Request-Id": "0123456789abcdef"})
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "0123456789abcdef"
    served.end()
    assert [line["status"] for line in served.lines() if line.get("request_id") == "0123456789abcdef"] == [401]


@pytest.mark.parametrize("given", ["short", "0123456789abcdeg", "0" * 65, "Olga-Petrova-1234567"])
async def test_an_id_of_another_form_is_not_taken(server: Running, given: str) -> None:
    answer = await server.client.get("/agent/v1/nonce", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
