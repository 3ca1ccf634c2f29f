"""What the overview of a thousand sites costs: beside a read of its check states, and with ten times the history."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg

from ccserver import migrate
from ccserver.pages import overview
from ccserver.queries.overview import Asked
from ccserver.scope import Database, open_pool
from tests.bench.measure import Block, Pair, Result, judged, on_one_processor, ratios
from tests.databases import Server, asked, short_place

SITES, HISTORY = 1000, 20_000
ROUNDS = 101
AT_MOST_OF_A_READ, AT_MOST_WITH_HISTORY = 2.5, 1.3
# Past references and triggers, for they are not on trial; three partners, each with as many sites.
FILL = """
    SET session_replication_role = replica;
    INSERT INTO partners (id, name) SELECT 'p-' || p, 'p' FROM generate_series(0, 2) p;
    INSERT INTO sites (id, partner_id, name)
    SELECT 's-' || p || '-' || s, 'p-' || p, 'Site ' || s FROM generate_series(0, 2) p, generate_series(1, {sites}) s;
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin, waiting, oldest_at)
    SELECT id, partner_id, id || '-' || b, 'box', sha256(id::bytea), now() - random() * interval '20 minutes', b,
           now() - interval '1 hour'
    FROM sites, generate_series(1, 3) b;
    INSERT INTO check_states (site_id, partner_id, appliance_id, host_id, check_id, status, severity, reason, since,
                              seen_at, epoch_number, seq)
    SELECT site_id, partner_id, id, 'box', family, CASE WHEN random() < 0.1 THEN 'fail' ELSE 'pass' END, 'high',
           'because of this', now(), now() - random() * interval '2 hours', 1, 1
    FROM appliances, unnest(ARRAY['patching', 'antivirus', 'backup', 'logging', 'firewall', 'encryption']) family;
    INSERT INTO waivers (site_id, partner_id, id, check_id, reason, created_by, expires_at)
    SELECT id, partner_id, id, 'backup', 'later', 'somebody', now() + interval '1 day' FROM sites WHERE id LIKE '%0';
    INSERT INTO site_totals (site_id, partner_id, incidents, open_high, l1_count)
    SELECT id, partner_id, {history}, 2, 5 FROM sites;
    INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
                           pattern_signature, occurrences, created_at, last_seen_at, epoch_number, revision)
    SELECT 's-0-' || 1 + n % {sites}, 'p-0', 's-0-' || 1 + n % {sites} || '-1', 'i-' || n, 'box', 'backup_stale',
           'high', '{{"reason": "too old"}}', '0123456789abcdef', 1, now() - n * interval '1 minute', now(), 1, 1
    FROM generate_series(1, {history}) n;
    INSERT INTO compliance_snapshots (site_id, partner_id, snapshot_at)
    SELECT 's-0-' || 1 + n % {sites}, 'p-0', now() - n * interval '1 minute' FROM generate_series(1, {history}) n;
    INSERT INTO evidence_bundles (site_id, partner_id, appliance_id, log_id, seq, bundle_hash, payload)
    SELECT 's-0-' || 1 + n % {sites}, 'p-0', 's-0-' || 1 + n % {sites} || '-1', n % {sites}, n, sha256(n::text::bytea),
           '{{}}'
    FROM generate_series(1, {history}) n;
    RESET session_replication_role;
"""


async def measure() -> list[Result]:
    """Return the rows: beside a plain read, and with ten times the history."""
    with short_place() as place, asked("", place) as server:
        async with _filled(server, HISTORY) as young, _filled(server, HISTORY * 10) as old:
            read = await ratios(Pair(_overview(young), _read(young)), ROUNDS)
            history = await ratios(Pair(_overview(old), _overview(young)), ROUNDS)
    return [
        judged("overview", f"{SITES:,} sites ÷ a read of their check states", read, AT_MOST_OF_A_READ),
        judged("overview", "ten times the history ÷ once", history, AT_MOST_WITH_HISTORY),
    ]


@asynccontextmanager
async def _filled(server: Server, history: int) -> AsyncIterator[Database]:
    urls = server.create_database(f"cc_overview_{history}")
    await migrate.run(urls.owner, lambda _: None)
    conn = await asyncpg.connect(urls.admin)
    await conn.execute(FILL.format(sites=SITES, history=history))
    await conn.execute("VACUUM ANALYZE")
    await conn.close()
    pool = await open_pool(urls.server, min_size=1, max_size=1)
    try:
        yield pool
    finally:
        await pool.close()


def _overview(db: Database) -> Block:
    async def block() -> None:
        async with db.partner("p-0") as scope:
            _, found = await overview.read(scope, datetime.now(UTC), Asked())
        assert found.total == SITES

    return block


def _read(db: Database) -> Block:
    async def block() -> None:
        async with db.partner("p-0") as scope:
            rows = await scope.conn.fetch(
                "SELECT site_id, appliance_id, check_id, host_id, status, seen_at FROM check_states"
                " WHERE partner_id = 'p-0'"
            )
        assert len(rows) == SITES * 18

    return block


def run() -> list[Result]:
    """Measure in a loop of its own; from the main thread, because PostgreSQL ends with the thread that started it."""
    with on_one_processor():
        return asyncio.run(measure())
