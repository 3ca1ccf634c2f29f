"""A PostgreSQL for the run, a migrated clone for each test that asks, and the real server over a real socket."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import pytest
import uvicorn

from ccserver import app, config, keys, migrate
from ccserver.localpg import Urls
from ccserver.scope import Database, open_pool
from ccserver.serving import Server as Serving
from tests.databases import Server, asked, short_place
from tests.devices import Device, Running

TEMPLATE = "cc_template"
QUIET = {"CCSERVER_SWEEP_SECONDS": "0", "CCSERVER_METRICS_LISTEN": ""}  # nothing happens by itself while a test looks


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """The run's PostgreSQL, as PG asks: fsync off, and it says so."""
    with short_place() as place, asked(os.environ.get("PG", ""), place) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: Server) -> str:
    """A database with every migration, to be cloned."""
    urls = postgres.create_database(TEMPLATE)
    asyncio.run(migrate.run(urls.owner, lambda _: None))
    return TEMPLATE


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
async def empty_database(postgres: Server, numbers: Iterator[int]) -> AsyncIterator[Urls]:
    """A database of its own with nothing in it."""
    name = f"cc_empty_{next(numbers)}"
    yield postgres.create_database(name)
    await _drop(postgres, name)


@pytest.fixture
async def database(postgres: Server, template: str, numbers: Iterator[int]) -> AsyncIterator[Urls]:
    """A migrated database of the test's own."""
    name = f"cc_test_{next(numbers)}"
    yield postgres.create_database(name, template)
    await _drop(postgres, name)


async def _drop(postgres: Server, name: str) -> None:
    admin = await asyncpg.connect(postgres.urls("postgres").admin)
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def db(database: Urls) -> AsyncIterator[Database]:
    """The pool over the test's database, as the server's role."""
    pool = await open_pool(database.server, min_size=1, max_size=4)
    yield pool
    await pool.close()


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    made = config.from_environ({"CCSERVER_DATA_DIR": str(tmp_path / "server"), "CCSERVER_NAME": "cc.example"} | QUIET)
    keys.create(made.key_file, made.server_name)
    return made


@pytest.fixture
async def server(database: Urls, db: Database, settings: config.Config) -> AsyncIterator[Running]:
    """The real server on a loopback port, with one partner and one site in its database."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # as uvloop does; asyncio alone waits 40 ms an answer
    port = listener.getsockname()[1]
    settings = replace(settings, port=port, public_url=f"http://127.0.0.1:{port}")
    serving = Serving(
        uvicorn.Config(app.make(settings, database.server), lifespan="on", log_config=None, access_log=False)
    )
    task = asyncio.create_task(serving.serve(sockets=[listener]))
    while not serving.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=settings.public_url, trust_env=False) as client:
        running = Running(settings.public_url, client, db, keys.load(settings.key_file), database)
        await running.add_site("acme", "acme-clinic")
        yield running
    serving.should_exit = True
    await task


@pytest.fixture
async def device(server: Running) -> Device:
    """An enrolled device of the one site, with a token."""
    return await Device.enrolled(server, "acme", "acme-clinic")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("DATABASE_URL", None)  # tests have a database of their own
