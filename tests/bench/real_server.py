"""The real server as a process on a durable PostgreSQL, and other programs beside it on the same PostgreSQL."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ccserver import keys, localpg, migrate
from ccserver.scope import open_pool
from tests.bench.rivals import PYTHON, REPOSITORY
from tests.devices import Device, Running

SITE, PARTNER = "acme-clinic", "acme"
FOLDERS = os.pathsep.join(str(REPOSITORY / name) for name in (".", "shared", "server"))
OURS = {
    "CCSERVER_NAME": "cc.example",
    "CCSERVER_SWEEP_SECONDS": "0",  # nothing happens by itself while we look
    "CCSERVER_METRICS_LISTEN": "",
    "CCSERVER_LIMIT_APPLIANCE": "999999/999999",  # who calls as fast as it can is let in
    "CCSERVER_LIMIT_ANONYMOUS": "999999/999999",
    "CCSERVER_LIMIT_PRINCIPAL": "999999/999999",
    "CCSERVER_APPLIANCE_QUOTA_MIB": "9999",
}


@dataclass
class Bench:
    """The running server; `pid` is its process, `folder` a directory on the disk that is measured."""

    running: Running
    port: int
    pid: int
    folder: Path
    undo: AsyncExitStack = field(repr=False)

    async def devices(self, count: int) -> list[Device]:
        """Enrol devices of the one site; the epoch that all begin with is theirs alone by their id."""
        return [await Device.enrolled(self.running, PARTNER, SITE) for _ in range(count)]

    def beside(self, command: Sequence[str | Path]) -> int:
        """Run another program until the measuring ends and return the port that it was told to listen on."""
        port = free_port()
        started = [*command, str(port), self.running.urls.admin]
        self.undo.enter_context(process(started, {"PYTHONPATH": FOLDERS}, self.folder / f"{port}.log"))
        wait_for(port, "/up")
        return port

    def floor(self) -> int:
        """Run the bare route."""
        return self.beside([sys.executable, "-m", "tests.bench.floor_app"])

    def peer(self) -> int:
        """Run FastAPI with SQLAlchemy in the rivals' environment."""
        return self.beside([PYTHON, "-m", "tests.bench.peer_app", str(self.folder / "keys")])


@asynccontextmanager
async def serving() -> AsyncIterator[Bench]:
    """Run PostgreSQL with all its durability and the server, both on the disk that holds the working directory."""
    async with AsyncExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd())))
        server = undo.enter_context(localpg.start(folder / "postgres"))
        urls = server.create_database("cc_bench")
        await migrate.run(urls.owner, lambda _: None)
        port = free_port()
        address = f"127.0.0.1:{port}"
        own = {
            "DATABASE_URL": urls.server,
            "CCSERVER_DATA_DIR": str(folder / "server"),
            "CCSERVER_KEY_FILE": str(folder / "keys"),
            "CCSERVER_LISTEN": address,
            "CCSERVER_PUBLIC_URL": f"http://{address}",
        }
        program = Path(sys.executable).with_name("ccserver")
        known = keys.create(folder / "keys", OURS["CCSERVER_NAME"])
        started = undo.enter_context(process([program, "serve"], OURS | own, folder / "server.log"))
        wait_for(port, "/agent/v1/nonce")
        pool = await open_pool(urls.server, min_size=1, max_size=2)
        undo.push_async_callback(pool.close)
        client = await undo.enter_async_context(httpx.AsyncClient(base_url=f"http://{address}", trust_env=False))
        running = Running(f"http://{address}", client, pool, known, urls)
        await running.add_site(PARTNER, SITE)
        yield Bench(running, port, started.pid, folder, undo)


@contextmanager
def process(command: Sequence[str | Path], more: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program, with its log in a file, until the block ends."""
    with (
        log.open("wb") as said,
        subprocess.Popen(command, env=_env(more), stdin=subprocess.DEVNULL, stdout=said, stderr=said) as running,
    ):
        try:
            yield running
        finally:
            running.terminate()


def _env(more: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "CCSERVER_"))} | more


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int, path: str) -> None:
    """Wait until that path answers."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
        assert time.monotonic() < until, "a program did not begin to listen"
        time.sleep(0.05)
