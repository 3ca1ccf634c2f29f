"""A real root helper in a process of its own, with a server's order key whose orders it obeys."""

import json
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ccagent.helper import pinning
from ccagent.helper.pinned import Pin
from ccshared import ed25519, envelope, ids, orders, policy, runbooks
from ccshared.envelope import PayloadType
from ccshared.messages import ServerKey
from ccshared.policy import Policy
from ccshared.runbooks import Runbook

NOW_MS = 1_790_000_000_000
KEY_NAME = "cc.example/server/order-1"
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class RootHelper:
    """Everything is below `place`; `uid` is the agent's user."""

    place: Path
    uid: int = field(default_factory=os.geteuid)
    seed: bytes = field(default_factory=ed25519.new_seed)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        return self.place / "run" / "helper.sock"

    @property
    def state_dir(self) -> Path:
        return self.place / "state"

    @property
    def ran(self) -> Path:
        """Where the steps of the runbooks here leave a line each."""
        return self.place / "ran"

    def lines(self) -> list[str]:
        return self.ran.read_text().splitlines() if self.ran.exists() else []

    def configure(self, checks: str = "") -> Path:
        file = self.place / "config.toml"
        file.write_text(
            f'[helper]\nsocket = "{self.socket}"\nuser = "{self.uid}"\nstate_dir = "{self.state_dir}"\n{checks}'
        )
        return file

    def pin(self) -> None:
        key = ServerKey(use="order", name=KEY_NAME, public_key=ed25519.public_key(self.seed).hex())
        pinning.pin(self.state_dir, Pin(server="cc.example", site="clinic", appliance="box-1", keys=[key]))

    def start(self, checks: str = "", launcher: Sequence[str] = ("ccagent",)) -> "RootHelper":
        config = self.configure(checks)
        argv = [sys.executable, "-c", "from ccagent.cli import main; main()", "--config", str(config), "helper"]
        if launcher != ("ccagent",):
            argv[1:3] = [*launcher]
        with (self.place / "log").open("ab") as log:
            programs = {"PATH": f"{self.place / 'bin'}:{os.environ['PATH']}"}
            self.process = subprocess.Popen(argv, cwd=ROOT, stderr=log, stdout=log, env=os.environ | programs)
        until = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, (self.place / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            return "ok" in self.send(b"{}\n")
        except OSError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def send(self, data: bytes, *, close: bool = False) -> dict[str, Any]:
        """Send bytes as they are and return the answer; {} when there was none."""
        with self.connect() as line:
            try:
                line.sendall(data)
                if close:
                    line.shutdown(sockets.SHUT_WR)
            except OSError:  # it has answered and closed before it read all
                pass
            return receive(line)

    def connect(self) -> sockets.socket:
        line = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        line.settimeout(60)
        try:
            line.connect(str(self.socket))
        except OSError:
            line.close()
            raise
        return line

    def ask(self, **request: Any) -> dict[str, Any]:
        return self.send(compact(request) + b"\n")

    def order(self, runbook: Runbook, parameters: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """Return the request to run an order that the server signed, with some fields as said."""
        order = orders.SignedOrder(
            id=ids.new_id(NOW_MS),
            site="clinic",
            appliance="box-1",
            runbook=runbook.id,
            digest=runbooks.digest(runbook),
            parameters=parameters or {},
            issued_ms=NOW_MS,
            expires_ms=NOW_MS + 3_600_000,
        )
        signed = self.sign(PayloadType.ORDER, orders.make(replace(order, **changes)))
        return {"ask": "order", "envelope": signed, "runbook": runbooks.to_dict(runbook)}

    def sign(self, payload_type: PayloadType, value: dict[str, Any], seed: bytes | None = None) -> dict[str, Any]:
        return envelope.sign(payload_type, value, seed or self.seed, KEY_NAME).to_json()

    def repair(self, runbook: Runbook, given: Policy | None = None, **changes: Any) -> dict[str, Any]:
        """Return the request to repair by a policy that the server signed, with some members as said."""
        made = given or policy_of(runbook)
        request = {
            "ask": "repair",
            "id": ids.new_id(NOW_MS),
            "policy": self.sign(PayloadType.POLICY, policy.make(made)),
            "rule": None,
            "runbook": runbook.id,
            "parameters": {},
            "host": "box",
        }
        return request | changes

    def script(self, text: str, **more: Any) -> Runbook:
        """Return a runbook whose one step is this shell text."""
        return runbook_of([("/bin/sh", "-c", text)], **more)

    def mark(self, **more: Any) -> Runbook:
        """Return a runbook that leaves a line."""
        return self.script(f"echo ran >> {self.ran}", **more)


@contextmanager
def standing(uid: int | None = None) -> Iterator[RootHelper]:
    """Yield a helper that is pinned and not started; what it became is ended afterwards."""
    place = Path(tempfile.mkdtemp(prefix="cc-helper-", dir="/tmp"))
    place.chmod(0o755)
    helper = RootHelper(place, os.geteuid() if uid is None else uid)
    helper.pin()
    try:
        yield helper
    finally:
        if helper.process is not None and helper.process.poll() is None:
            helper.end(signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def runbook_of(steps: Sequence[Sequence[str]], time_limit_s: int = 20, **more: Any) -> Runbook:
    """Return a runbook with these steps on any platform; `preconditions` and `rollback` are argument vectors too."""

    def made(argvs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        limit = {"time_limit_s": time_limit_s}
        return [{"argv": list(argv), "about": f"step {number}"} | limit for number, argv in enumerate(argvs)]

    variant: dict[str, Any] = {"platform": "any", "steps": made(steps)}
    variant |= {name: made(more.pop(name)) for name in ("preconditions", "rollback") if name in more}
    plain = {"id": "test", "title": "A test", "about": "For tests.", "families": ["logging"], "risk": "low"}
    return runbooks.from_dict(plain | {"disruptive": False, "variants": [variant]} | more)


def policy_of(*known: Runbook, **changes: Any) -> Policy:
    """Return a policy that heals at any time with these runbooks."""
    made = Policy("clinic", "box-1", NOW_MS, "heal", policy.ALWAYS, False, {}, (), known)
    return replace(made, **changes)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def receive(line: sockets.socket) -> dict[str, Any]:
    data = bytearray()
    try:
        while chunk := line.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    answer: dict[str, Any] = json.loads(data) if data else {}
    return answer
