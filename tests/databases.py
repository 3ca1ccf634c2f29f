"""The PostgreSQL that tests run on, as `PG` in the environment asks: the same suite on each.

PG unset, 16 or 18      the embedded one of that major (18)
PG=15                   Debian's own, /usr/lib/postgresql/15
PG=docker:IMAGE         a container of that image, by testcontainers
PG=pgbouncer            the embedded one behind PgBouncer in transaction mode (pgbouncer:15 another one): the server's
                        role goes through it, the owner and the administrator past it
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg

from ccserver import localpg, roles
from ccserver.localpg import Urls

DEBIANS = Path("/usr/lib/postgresql/15/bin")
FORGETFUL = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "cc.test_database": "on"}
AWAY = (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError)


class Server(Protocol):
    """What tests ask of a PostgreSQL, whoever runs it."""

    def urls(self, dbname: str) -> Urls:
        """Return the URLs of a database, whether or not it exists yet."""

    def create_database(self, name: str, template: str | None = None) -> Urls:
        """Create a database of cc_owner, empty or a copy of `template`."""


@dataclass(frozen=True)
class Plain:
    """A server that lets in every role without a password; `rest` is a URL's host and port, {} its database."""

    rest: str

    def urls(self, dbname: str) -> Urls:
        rest = self.rest.format(quote(dbname, safe=""))
        return Urls(*(f"postgresql://{role}@{rest}" for role in ("cc_server", "cc_owner", "postgres", "cc_backup")))

    def create_database(self, name: str, template: str | None = None) -> Urls:
        self.run(roles.database_statements(name, template))
        return self.urls(name)

    def run(self, statements: list[str]) -> None:
        """Run statements as the superuser, in a thread because the caller's may have a loop that runs."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, self._run(statements)).result()

    async def _run(self, statements: list[str]) -> None:
        conn = await _connect(self.urls("postgres").admin)
        for each in statements:
            await conn.execute(each)
        await conn.close()


async def _connect(url: str) -> asyncpg.Connection:
    """Connect, and wait half a minute for a server that is starting."""
    until = time.monotonic() + 30
    while True:
        try:
            return await asyncpg.connect(url, timeout=10)
        except AWAY:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.05)


@contextmanager
def asked(wanted: str, place: Path) -> Iterator[Server]:
    """Run the PostgreSQL that `PG` asks for, with our roles; `place` is a directory that every user may enter."""
    kind, _, rest = wanted.partition(":")
    if kind == "docker":
        with _container(rest) as server:
            yield server
    elif kind == "pgbouncer":
        with asked(rest, place) as behind, _pgbouncer(behind, place) as server:
            yield server
    elif kind == "15":
        with debians(place) as server:
            yield server
    else:
        with localpg.start(place / f"postgres{kind}", major=int(kind or 18), durable=False) as server:
            yield server


@dataclass(frozen=True)
class Pooled:
    """A server of which cc_server sees the pooler only, in the directory `socket`."""

    behind: Server
    socket: Path

    def urls(self, dbname: str) -> Urls:
        place = f"host={quote(str(self.socket), safe='')}&port=6432"
        return replace(self.behind.urls(dbname), server=f"postgresql://cc_server@/{quote(dbname, safe='')}?{place}")

    def create_database(self, name: str, template: str | None = None) -> Urls:
        self.behind.create_database(name, template)
        return self.urls(name)


# Few connections that take turns, so that whatever outlives a transaction meets somebody else's soon.
PGBOUNCER = """
[databases]
* = {target}
[pgbouncer]
listen_port = 6432
unix_socket_dir = {home}
auth_type = trust
auth_file = {home}/users
logfile = {home}/log
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
max_client_conn = 1000
"""


@contextmanager
def _pgbouncer(behind: Server, place: Path) -> Iterator[Pooled]:
    """Run PgBouncer in front of a server, as the user who may open its socket."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "PG=pgbouncer needs PgBouncer (Debian, Ubuntu: apt install pgbouncer)"
    url = urlsplit(behind.urls("postgres").server)
    query = parse_qs(url.query)
    host, port = url.hostname or query["host"][0], url.port or query["port"][0]
    owner = Path(host).stat().st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid
    home = place / "pgbouncer"
    home.mkdir(mode=0o700)
    (home / "users").write_text('"cc_server" ""\n"cc_owner" ""\n')
    (home / "pgbouncer.ini").write_text(PGBOUNCER.format(target=f"host={host} port={port}", home=home))
    switch = {"user": owner, "group": pwd.getpwuid(owner).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    if switch:
        os.chown(home, owner, -1)
    with subprocess.Popen(
        [program, "-q", home / "pgbouncer.ini"], cwd="/", stderr=subprocess.DEVNULL, **switch
    ) as running:
        try:
            _wait_for(home / ".s.PGSQL.6432", running)
            yield Pooled(behind, home)
        finally:
            running.terminate()


def _wait_for(socket: Path, running: subprocess.Popen[bytes]) -> None:
    """Wait until the socket is there; PgBouncer makes it when it is ready."""
    until = time.monotonic() + 30
    while not socket.exists():
        assert running.poll() is None, "PgBouncer ended as soon as it was started"
        assert time.monotonic() < until, "PgBouncer made no socket"
        time.sleep(0.02)


@contextmanager
def short_place() -> Iterator[Path]:
    """A short directory that every user may enter, in memory where there is some."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="cc-", dir=memory if os.access(memory, os.W_OK) else None) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def debians(place: Path) -> Iterator[Plain]:
    """Run Debian's PostgreSQL 15 in a directory of its own, as postgres where we are root."""
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    home = place / "debian15"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    switch = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    data, settings = home / "data", [f"-c{name}={value}" for name, value in FORGETFUL.items()]
    made = [DEBIANS / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
    subprocess.run(made, check=True, **switch, **quiet)
    with subprocess.Popen(
        [DEBIANS / "postgres", "-D", data, "-k", home, "-clisten_addresses=", *settings], **switch, **quiet
    ) as running:
        try:
            server = Plain(f"/{{}}?host={quote(str(home), safe='')}&port=5432")
            server.run(roles.statements())
            yield server
        finally:
            running.send_signal(2)


@contextmanager
def _container(image: str) -> Iterator[Plain]:
    """Run an image that behaves as the official one does; nothing but the loopback reaches it."""
    from testcontainers.core.container import DockerContainer

    settings = " ".join(f"-c {name}={value}" for name, value in FORGETFUL.items())
    container = DockerContainer(image).with_env("POSTGRES_HOST_AUTH_METHOD", "trust").with_exposed_ports(5432)
    with container.with_command(f"postgres {settings}") as running:
        server = Plain(f"{running.get_container_host_ip()}:{running.get_exposed_port(5432)}/{{}}")
        server.run(roles.statements())
        yield server
