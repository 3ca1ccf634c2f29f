"""The list of incidents over the API, beside FastAPI with SQLAlchemy's ORM: fifty of ten thousand, and how many."""

import asyncio

import uvloop

from tests import operators
from tests.bench import floor_rows, load, peers
from tests.bench.measure import Pair, Result, faster, times
from tests.bench.real_server import serving

INCIDENTS, CALLERS, CALLS, ROUNDS, AT_LEAST = 10_000, 4, 8, 21, 4.0
FILL = """
    INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
                           pattern_signature, occurrences, created_at, last_seen_at, resolved_at, epoch_number,
                           revision)
    SELECT a.site_id, a.partner_id, a.id, 'i-' || n, 'host', 'backup_stale', 'high',
           '{"reason": "the last backup is 51 h old", "facts": {"age_h": 51}}', '0123456789abcdef', 1,
           now() - n * interval '1 minute', now(), CASE WHEN n % 10 > 0 THEN now() END, 1, 1
    FROM appliances a, generate_series(1, $1) n
"""


async def measure() -> list[Result]:
    """Return the row."""
    async with serving() as bench:
        await bench.devices(1)
        (admin,) = await floor_rows.connect(bench.running.urls.admin, 1)
        await admin.execute(FILL, INCIDENTS)
        await admin.execute(peers.TABLES)
        await admin.execute("VACUUM ANALYZE incidents")
        await admin.close()
        operator = await operators.with_key(bench.running, "viewer")
        token = operator.headers["Authorization"].removeprefix("Bearer ")
        blocks = []
        for port, path in ((bench.port, "/api/v1/incidents?limit=50"), (bench.peer(), "/orm/incidents?limit=50")):
            lines, calls = await load.lines(port, CALLERS), [load.request("GET", path, token)] * CALLS
            blocks.append(lambda lines=lines, calls=calls: load.each(lines, [calls] * CALLERS))
        found = await times(Pair(*blocks), ROUNDS)
        return [faster("listing", "incidents ÷ FastAPI + SQLAlchemy, ORM", found, AT_LEAST, CALLERS * CALLS)]


def run() -> list[Result]:
    """Measure from the main thread, because PostgreSQL ends with the thread that started it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
