"""The least that a check-in can cost in Python: a bare Starlette route with one UPDATE, on asyncpg's default pool.

Run as `python -m tests.bench.floor_app PORT URL`.
"""

import contextlib
import sys
from collections.abc import AsyncIterator

import asyncpg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def make(url: str) -> Starlette:
    """Return the app; its one table is there already."""
    pool: asyncpg.Pool

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal pool
        async with asyncpg.create_pool(url) as pool:
            yield

    async def check_in(request: Request) -> JSONResponse:
        said = await request.json()
        async with pool.acquire() as conn:
            await conn.execute(
                "UPDATE floor_appliances SET last_checkin = now(), version = $2 WHERE id = $1",
                said["hostname"],
                said["version"],
            )
        return JSONResponse({"ok": True})

    async def up(_: Request) -> JSONResponse:
        return JSONResponse({"ok": True})

    return Starlette(routes=[Route("/checkin", check_in, methods=["POST"]), Route("/up", up)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(
        make(sys.argv[2]),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        timeout_keep_alive=75,
    )
