"""The check-in with all that it does, beside a bare route with one UPDATE, and beside FastAPI with SQLAlchemy."""

import asyncio
import time
from collections.abc import Sequence

import asyncpg
import orjson
import uvloop

from tests.bench import load, peers
from tests.bench.measure import Block, Pair, Result, faster, times
from tests.bench.real_server import serving
from tests.devices import Device

APPLIANCES, CALLS, ROUNDS, PEER_ROUNDS = 16, 12, 25, 7
AT_LEAST, OF_ORM, OF_CORE = 0.65, 6.0, 4.0
JSON = "Content-Type: application/json\r\n"
TABLES = """
    CREATE TABLE floor_appliances (id text PRIMARY KEY, last_checkin timestamptz, version text) WITH (fillfactor = 70);
    INSERT INTO floor_appliances (id) SELECT id FROM appliances;
"""


async def measure() -> list[Result]:
    """Return the rows."""
    async with serving() as bench:
        devices = await bench.devices(APPLIANCES)
        conn = await asyncpg.connect(bench.running.urls.admin)
        await conn.execute(TABLES + peers.TABLES)
        await conn.close()
        ours = await _block(bench.port, "/agent/v1/checkin", devices)
        floor = await _block(bench.floor(), "/checkin", devices)
        port = bench.peer()
        orm, core = [await _block(port, f"/{kind}/checkin", devices) for kind in ("orm", "core")]
        return [
            await _row("everything included ÷ a bare route with one UPDATE", Pair(ours, floor), AT_LEAST, ROUNDS),
            await _row("÷ FastAPI + SQLAlchemy, ORM", Pair(ours, orm), OF_ORM, PEER_ROUNDS),
            await _row("÷ FastAPI + SQLAlchemy, prebuilt Core", Pair(ours, core), OF_CORE, PEER_ROUNDS),
        ]


async def _row(what: str, pair: Pair, at_least: float, rounds: int) -> Result:
    return faster("checkin", what, await times(pair, rounds), at_least, APPLIANCES * CALLS)


async def _block(port: int, path: str, devices: Sequence[Device]) -> Block:
    lines = await load.lines(port, len(devices))
    calls = [[load.request("POST", path, one.token, _said(one), JSON)] * CALLS for one in devices]

    async def block() -> None:
        await load.each(lines, calls)

    return block


def _said(one: Device) -> bytes:
    said = {"version": "0.1.0", "hostname": one.appliance_id, "sent_at_ms": time.time_ns() // 1_000_000}
    return orjson.dumps(said | {"clock": "sync", "epoch": one.epoch, "size": 1, "waiting": 0, "waiting_bytes": 0})


def run() -> list[Result]:
    """Measure from the main thread, because PostgreSQL ends with the thread that started it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
