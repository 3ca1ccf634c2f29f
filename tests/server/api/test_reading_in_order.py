"""A list reads a page, not a history: the plans of the incident lists below row security, with rows in the tables."""

from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import pytest

from ccserver.listing import ListQuery, page_of
from ccserver.localpg import Urls
from ccserver.queries import incidents, planner
from ccserver.queries.incidents import Filter
from ccserver.scope import PartnerScope, SiteScope

EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC))
ROWS = """
INSERT INTO partners (id, name) SELECT 'p' || i, 'x' FROM generate_series(0, 3) i;
INSERT INTO sites (id, partner_id, name) SELECT 's' || i, 'p' || i % 4, 'x' FROM generate_series(0, 19) i;
INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)
SELECT 's' || i, 'p' || i % 4, 'a' || i, 'h', sha256(i::text::bytea) FROM generate_series(0, 19) i;
INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,
    pattern_signature, occurrences, created_at, last_seen_at, resolved_at, epoch_number, revision)
SELECT 's' || i % 20, 'p' || i % 4, 'a' || i % 20, 'i' || i, 'h', 'x', 'low', '{}', '0123456789abcdef', 1,
    now() - i * interval '1 minute', now(), CASE WHEN i % 3 > 0 THEN now() END, 1, 1
FROM generate_series(1, 20000) i;
ANALYZE;
"""


class Explaining:
    """A connection whose fetches answer with the plan and keep it."""

    def __init__(self, conn: "asyncpg.Connection[Any]") -> None:
        self.conn, self.plan = conn, ""

    async def execute(self, sql: str) -> None:
        await self.conn.execute(sql)

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        rows = await self.conn.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}", *values)
        self.plan = "\n".join(row[0] for row in rows)
        return []


@pytest.mark.parametrize(("kind", "site"), [("newest", ""), ("newest_open", ""), ("newest_of_site", "s3")])
async def test_a_page_of_incidents_is_read_from_the_index_in_its_order(database: Urls, kind: str, site: str) -> None:
    admin, conn = await asyncpg.connect(database.admin), await asyncpg.connect(database.server)
    await admin.execute(ROWS)
    await conn.execute("BEGIN")
    await conn.execute("SELECT set_config('cc.partner_id', 'p3', true), set_config('cc.site_id', $1, true)", site)
    explaining = Explaining(conn)
    lent = cast(Any, explaining)
    scope = SiteScope(lent, "p3", site) if site else PartnerScope(lent, "p3")
    await planner.read_in_order(scope)
    await getattr(incidents, kind)(scope, Filter(None, None, None, *EVER), page_of(ListQuery(), b"", ""))
    await admin.close()
    await conn.close()
    assert "Sort" not in explaining.plan
    assert "Index Scan using idx_incidents_" in explaining.plan
    assert "rows=51" in explaining.plan
