"""What row security costs: the same statements on the same rows, in a copy of the database that has none.

The second part asks PostgreSQL how it would find a tenant's rows when a statement names no tenant at all.
"""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg

from ccserver import migrate
from ccserver.listing import Page
from ccserver.queries import appliances, incidents
from ccserver.queries.incidents import Filter
from ccserver.scope import Database, open_pool
from ccserver.tokens import Device
from ccshared.messages import Checkin
from ccshared.vocabulary import Clock
from tests.bench.measure import Block, Pair, Result, judged, on_one_processor, quickest, times
from tests.databases import Server, asked, short_place

NUMBER = 1_000_000 if os.environ.get("FULL") else 100_000
SITES, PARTNERS = NUMBER // 50, NUMBER // 5000
ROUNDS = 6001  # of one call each: what else keeps the machine busy meets both alike
IN_TURN = 20  # appliances that check in
AT_MOST = 1.10
EPOCH = "1-00000000"
# Past references and triggers, for they are not on trial.
FILL = """
    SET session_replication_role = replica;
    INSERT INTO partners (id, name) SELECT 'p-' || p, 'p' FROM generate_series(0, {partners} - 1) p;
    INSERT INTO sites (id, partner_id, name)
    SELECT 's-' || s, 'p-' || s % {partners}, 's' FROM generate_series(0, {sites} - 1) s;
    INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)
    SELECT 's-' || s, 'p-' || s % {partners}, 'a-' || s, 'box', sha256(s::text::bytea)
    FROM generate_series(0, {sites} - 1) s;
    INSERT INTO evidence_logs (site_id, partner_id, appliance_id, epoch, origin, public_key, size)
    SELECT site_id, partner_id, id, '{epoch}', 'central.test/log/' || id || '/{epoch}', public_key, 10 FROM appliances;
    INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
                           pattern_signature, occurrences, created_at, last_seen_at, resolved_at, epoch_number,
                           revision)
    SELECT 's-' || n % {sites}, 'p-' || n % {sites} % {partners}, 'a-' || n % {sites}, 'i-' || n, 'host',
           'backup_stale', 'high', '{{"reason": "too old"}}', '0123456789abcdef', 1, now() - n * interval '1 minute',
           now(), CASE WHEN n % 10 > 0 THEN now() END, 1, 1
    FROM generate_series(1, {number}) n;
    INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, created_by, created_at, expires_at)
    SELECT 's-' || n % {sites}, 'p-' || n % {sites} % {partners}, 'a-' || n % {sites}, 'o-' || n, 'restart', 'somebody',
           now() - n * interval '1 minute', now()
    FROM generate_series(1, {number}) n;
    INSERT INTO site_totals (site_id, partner_id)
    SELECT 't-' || n, 'p-' || n % {partners} FROM generate_series(1, {number}) n;
    INSERT INTO check_states (site_id, partner_id, appliance_id, host_id, check_id, status, severity, reason, since,
                              seen_at, epoch_number, seq)
    SELECT 's-' || n % {sites}, 'p-' || n % {sites} % {partners}, 'a-' || n % {sites}, 'host-' || n, 'backup', 'pass',
           'high', '', now(), now(), 1, n
    FROM generate_series(1, {number}) n;
    RESET session_replication_role;
"""
# No WHERE: whatever finds the rows is the policy's.
PLANS = {
    "incidents": "SELECT id FROM incidents ORDER BY created_at DESC, id DESC LIMIT 50",
    "orders": "SELECT id FROM orders ORDER BY created_at DESC, id DESC LIMIT 50",
    "site_totals": "SELECT site_id, open_high FROM site_totals",
    "check_states": "SELECT site_id, check_id, status FROM check_states",
}


@dataclass(frozen=True)
class Two:
    """The same database with row security and without."""

    locked: Database
    open: Database


async def measure() -> list[Result]:
    """Return the rows: check-in, list of open incidents, and the plans."""
    with short_place() as place, asked(os.environ.get("PG", ""), place) as server:
        async with _two(server) as two:
            checkins = await times(Pair(_checkins(two.locked), _checkins(two.open)), ROUNDS)
            lists = await times(Pair(_lists(two.locked), _lists(two.open)), ROUNDS)
            return [
                *_judged("check-in with row security ÷ without", checkins),
                *_judged("open incidents with row security ÷ without", lists),
                *[await _plan(two.locked, name) for name in PLANS],
            ]


def _judged(what: str, found: list[tuple[float, float]]) -> list[Result]:
    low = quickest(found)
    bound = f"at most {AT_MOST:.2f}"
    return [
        judged("rls", what, [ours / other for ours, other in found], AT_MOST),
        Result("rls", f"{what}, quartiles", low, None, None, bound, low <= AT_MOST),
    ]


@asynccontextmanager
async def _two(server: Server) -> AsyncIterator[Two]:
    urls = server.create_database("cc_locked")
    await migrate.run(urls.owner, lambda _: None)
    await _run(urls.admin, FILL.format(number=NUMBER, sites=SITES, partners=PARTNERS, epoch=EPOCH))
    copy = server.create_database("cc_open", "cc_locked")
    await _run(copy.admin, await _unlock(copy.admin))
    for each in (urls, copy):
        await _run(each.admin, "VACUUM ANALYZE")
    locked, bare = [await open_pool(each.server, min_size=1, max_size=1) for each in (urls, copy)]
    try:
        yield Two(locked, bare)
    finally:
        await locked.close()
        await bare.close()


async def _run(url: str, statements: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(statements)
    await conn.close()


async def _unlock(url: str) -> str:
    conn = await asyncpg.connect(url)
    rows = await conn.fetch("SELECT oid::regclass::text AS name FROM pg_class WHERE relrowsecurity")
    await conn.close()
    alter = "ALTER TABLE {0} DISABLE ROW LEVEL SECURITY; ALTER TABLE {0} NO FORCE ROW LEVEL SECURITY;"
    return "".join(alter.format(row["name"]) for row in rows)


def _checkins(db: Database) -> Block:
    said = Checkin(version="0.1.0", hostname="box", sent_at_ms=1, clock=Clock.SYNC, epoch=EPOCH, size=10)
    reporting = appliances.Reporting(None, 0, "basis")
    devices = itertools.cycle([Device(f"s-{number}", f"a-{number}") for number in range(IN_TURN)])

    async def block() -> None:
        async with db.bare() as conn:
            assert await appliances.check_in(conn, next(devices), said, reporting)

    return block


def _lists(db: Database) -> Block:
    always = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    page = Page(50, 0, always[1], "")
    wanted = Filter(None, None, True, *always)

    async def block() -> None:
        async with db.partner("p-0") as scope:
            assert await incidents.newest_open(scope, wanted, page)

    return block


async def _plan(db: Database, name: str) -> Result:
    async with db.partner("p-0") as scope:
        found = json.loads(await scope.conn.fetchval("EXPLAIN (FORMAT JSON) " + PLANS[name]))
    by_index = any("partner_id" in each for each in _conditions(found, "Index Cond"))
    filtered = any("partner_id" in each for each in _conditions(found, "Filter"))
    what = f"{name}: {NUMBER:,} rows, found by the policy"
    return Result("rls", what, None, None, None, "an index condition, no filter", by_index and not filtered)


def _conditions(plan: object, kind: str) -> list[str]:
    """Return every condition of a kind in a plan: `Index Cond`, `Filter`."""
    if isinstance(plan, list):
        return [each for part in plan for each in _conditions(part, kind)]
    if not isinstance(plan, dict):
        return []
    own = [plan[kind]] if kind in plan else []
    return own + [each for part in plan.values() for each in _conditions(part, kind)]


def run() -> list[Result]:
    """Measure in a loop of its own; from the main thread, because PostgreSQL ends with the thread that started it."""
    with on_one_processor():
        return asyncio.run(measure())
