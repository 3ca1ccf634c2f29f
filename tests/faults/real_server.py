"""The real server on a real PostgreSQL, on a loopback port, for rows that need both."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import uvicorn

from ccserver import app, config, keys, migrate
from ccserver.scope import open_pool
from tests.databases import asked, short_place
from tests.devices import Running


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Running]:
    """Serve with one partner and one site until the block ends."""
    with short_place() as place, asked("", place) as postgres:
        urls = postgres.create_database("cc_faults")
        await asyncio.to_thread(lambda: asyncio.run(migrate.run(urls.owner, lambda _: None)))
        made = config.from_environ({"CCSERVER_DATA_DIR": str(folder / "server"), "CCSERVER_NAME": "cc.example"})
        keys.create(made.key_file, made.server_name)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        made = replace(made, port=port, public_url=f"http://127.0.0.1:{port}")
        server = uvicorn.Server(
            uvicorn.Config(app.make(made, urls.server), lifespan="on", log_config=None, access_log=False)
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        pool = await open_pool(urls.server, min_size=1, max_size=2)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=made.public_url, trust_env=False) as client:
            running = Running(made.public_url, client, pool, keys.load(made.key_file), urls)
            await running.add_site("acme", "acme-clinic")
            yield running
        await pool.close()
        server.should_exit = True
        await task
