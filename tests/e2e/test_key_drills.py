"""Drills with the server's key file: an order key is stolen and rotated away, the file is lost and put back or is not.

Server, agent and helper are real processes; the thief has a whole copy of the key file, and the server's place.
"""

import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pyrage
import pytest

from ccserver import catalogue, keys
from ccserver.localpg import Urls
from ccshared import orders, runbooks
from ccshared.envelope import PayloadType
from tests.e2e.processes import Clinic, Program, wait_until
from tests.e2e.test_directives import entries_of


@dataclass
class Drill:
    """A clinic whose appliance has a root helper (as this user, so that no root is needed), and a thief."""

    clinic: Clinic
    folder: Path
    helper: Program

    @property
    def key_file(self) -> Path:
        return self.folder / "server" / "server-keys.json"

    @property
    def appliance(self) -> str:
        return str(self.clinic.status()["appliance"])

    def push(self) -> str:
        """Order by a server that signs with what stands in its key file, and let the agent look."""
        where = ("--site", "clinic", "--appliance", self.appliance)
        made = self.clinic.server.json("order", "push", *where, "--runbook", "run-checks-now")
        self.clinic.command("once")
        return str(made["order"]["id"])

    def ended(self, order: str) -> list[str]:
        return [one["status"] for one in entries_of(self.clinic, "order_result") if one.get("order") == order]

    def serve_with(self, data: bytes) -> None:
        """Let the server stop, and start with this key file."""
        self.clinic.server.end()
        self.key_file.unlink(missing_ok=True)
        keys.put_back(self.key_file, data)
        self.clinic.serve()

    def ask(self, **request: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.folder / "run" / "helper.sock"))
            line.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")
            answer: dict[str, Any] = json.loads(line.makefile("rb").readline())
            return answer

    def order_by(self, data: bytes, order_id: str) -> dict[str, Any]:
        """Return what the helper says to an order that is signed with a key file's order key."""
        copy = self.folder / f"copy-{order_id}"
        made, book = keys.put_back(copy, data), catalogue.load()["run-backup"]
        now_ms = time.time_ns() // 1_000_000
        order = orders.SignedOrder(
            id=order_id, site="clinic", appliance=self.appliance, runbook=book.id, digest=runbooks.digest(book),
            parameters={"unit": "borgbackup-job-default.service"}, issued_ms=now_ms, expires_ms=now_ms + 3_600_000,
        )  # fmt: skip
        signed = made.envelope(PayloadType.ORDER, orders.make(order))
        return self.ask(ask="order", envelope=signed, runbook=runbooks.to_dict(book))


@pytest.fixture
async def drill(database: Urls, tmp_path: Path) -> AsyncIterator[Drill]:
    clinic = Clinic.prepare(database, tmp_path)
    with clinic.config.open("a") as config:
        config.write(f'[helper]\nsocket = "{tmp_path}/run/helper.sock"\nuser = "{os.geteuid()}"\n')
        config.write(f'state_dir = "{tmp_path}/helper"\n')
    clinic.serve()
    clinic.enroll()
    helper = Program("cc-agent", clinic.agent.env, tmp_path / "helper.log")
    helper.run("--config", str(clinic.config), "helper", "pin")
    helper.start("--config", str(clinic.config), "helper")
    wait_until((tmp_path / "run" / "helper.sock").exists)
    clinic.command("once")
    yield Drill(clinic, tmp_path, helper)
    clinic.stop()
    if helper.process is not None:
        helper.end(signal.SIGKILL)


async def test_an_order_key_that_was_stolen_orders_nothing_once_it_was_rotated_away(drill: Drill) -> None:
    assert drill.ended(drill.push()) == ["succeeded"]
    stolen = drill.key_file.read_bytes()
    drill.clinic.server.run("keys", "rotate", "order", "--yes")
    assert drill.key_file.stat().st_mode & 0o777 == 0o600
    assert drill.ended(drill.push()) == ["succeeded"]
    ours = drill.key_file.read_bytes()
    assert "newest order key" in drill.order_by(stolen, "by-the-thief")["reason"]
    taken = drill.order_by(ours, "by-us")
    assert taken["ok"] is True, taken

    drill.serve_with(stolen)  # the thief stands where the server stood
    forged = drill.push()
    told = entries_of(drill.clinic, "order_result")[-1]
    assert (told["order"], told["status"]) == (None, "rejected")
    assert drill.ended(forged) == []
    assert "order_refused" in [alarm["name"] for alarm in drill.clinic.status()["alarms"]]
    drill.clinic.server.run("setting", "set", "healing.mode", "heal", "--site", "clinic")
    drill.clinic.server.run("keys", "rotate", "order", "--yes")  # it announces a key of its own
    assert drill.ended(drill.push()) == []
    assert drill.clinic.status()["healing"]["mode"] == "observe"

    drill.serve_with(ours)
    assert drill.ended(drill.push()) == ["succeeded"]


async def test_a_key_file_that_was_lost_is_put_back_from_its_backup_and_orders_go_on(
    drill: Drill, database: Urls
) -> None:
    drill.clinic.server.run("keys", "rotate", "order", "--yes")
    drill.clinic.server.run("keys", "rotate", "witness", "--yes")
    drill.clinic.command("once")
    identity = pyrage.x25519.Identity.generate()
    (drill.folder / "identity").write_text(str(identity))
    copy = str(drill.folder / "keys.age")
    drill.clinic.server.run("keys", "backup", "-o", copy, "--recipient", str(identity.to_public()))
    drill.clinic.server.end()
    drill.key_file.unlink()
    assert "keys init" in drill.clinic.server.run("serve", code=1).stderr
    drill.clinic.server.run("keys", "restore", copy, "--identity", str(drill.folder / "identity"))
    assert drill.key_file.stat().st_mode & 0o777 == 0o600
    drill.clinic.serve()
    assert drill.ended(drill.push()) == ["succeeded"]
    conn = await asyncpg.connect(database.admin)
    assert await conn.fetchval("SELECT count(*) FROM orders WHERE status <> 'succeeded'") == 0
    await conn.close()


async def test_an_older_copy_of_the_key_file_orders_nothing_until_the_appliance_is_enrolled_anew(drill: Drill) -> None:
    older = drill.key_file.read_bytes()
    drill.clinic.server.run("keys", "rotate", "order", "--yes")
    drill.clinic.command("once")
    drill.serve_with(older)  # the newest file was lost, and this is all that was kept
    assert drill.ended(drill.push()) == []
    where = ("--site", "clinic", "--appliance", drill.appliance)
    code = drill.clinic.server.json("enroll-code", "create", *where)["code"]
    drill.clinic.command("enroll", "--replace", "--server-url", drill.clinic.url, "--code-file", "-", given=code)
    fingerprint = code.split("/")[1]
    drill.helper.run(
        *("--config", str(drill.clinic.config), "helper", "pin", "--replace", "--fingerprint", fingerprint)
    )
    drill.clinic.command("once")
    assert drill.ended(drill.push()) == ["succeeded"]
    assert drill.order_by(older, "by-us")["ok"] is True
