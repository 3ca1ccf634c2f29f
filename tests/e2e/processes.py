"""The real programs as processes: a server on a real PostgreSQL, an agent on real files, HTTP over a socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ccserver.localpg import Urls

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Program:
    """One of our programs with its environment; `process` while it runs."""

    name: str
    env: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def run(self, *arguments: str, given: str | None = None, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / self.name, *arguments],
            env=self.env,
            input=given,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert code is None or done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def start(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / self.name, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code


@dataclass
class Clinic:
    """A server with one partner and site, and one appliance."""

    server: Program
    agent: Program
    urls: Urls
    url: str
    config: Path
    admin: dict[str, str] = field(default_factory=dict)

    @classmethod
    def prepare(cls, urls: Urls, folder: Path) -> Self:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        base = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "CCSERVER_"))}
        settings = {
            "DATABASE_URL": urls.server,
            "DATABASE_OWNER_URL": urls.owner,
            "CCSERVER_DATA_DIR": str(folder / "server"),
            "CCSERVER_NAME": "cc.example",
            "CCSERVER_LISTEN": f"127.0.0.1:{port}",
            "CCSERVER_PUBLIC_URL": url,
        }
        config = folder / "agent.toml"
        stale = folder / "backup.json"
        stale.write_text(json.dumps({"last_backup": "2020-01-01T00:00:00Z", "checksum": "ab", "last_restore_test": 1}))
        config.write_text(
            f'[agent]\nstate_dir = "{folder / "agent"}"\n[checks.backup]\nstatus_file = "{stale}"\n', encoding="utf-8"
        )
        server = Program("ccserver", base | settings, folder / "server.log")
        agent = Program("cc-agent", base, folder / "agent.log")
        clinic = cls(server, agent, urls, url, config)
        server.run("keys", "init")
        server.run("partner", "create", "Acme", "--id", "acme")
        server.run("site", "create", "Clinic", "--partner", "acme", "--id", "clinic")
        clinic.admin = server.json("admin", "create", "admin", "--partner", "acme")
        return clinic

    def serve(self) -> None:
        self.server.start("serve")
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/agent/v1/nonce", timeout=5):  # noqa: S310  our own address
                return True
        except (urllib.error.URLError, OSError):
            return False

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.agent.run("--config", str(self.config), *arguments, **more)

    def enroll(self) -> None:
        code = self.server.json("enroll-code", "create", "--site", "clinic")["code"]
        self.command("enroll", "--server-url", self.url, "--code-file", "-", given=code)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return told

    def stop(self) -> None:
        for program in (self.agent, self.server):
            if program.process is not None:
                program.end(signal.SIGKILL)
