"""Runbooks: the packaged catalogue, the same for everybody."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ccserver.listing import Page
from ccserver.scope import PartnerScope, PlatformScope
from ccshared import runbooks


@dataclass(frozen=True)
class Runbook:
    """A runbook of the catalogue; `digest` is the SHA-256 of its text as 64 hex."""

    id: str
    digest: str
    title: str
    risk: str
    updated_at: datetime


async def replace(scope: PlatformScope, catalogue: Mapping[str, runbooks.Runbook]) -> None:
    """Make the rows those of the packaged catalogue; one that is as it was keeps its time."""
    await scope.conn.execute(
        """
        WITH packaged AS (
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS p (id, digest, title, risk)
        ), gone AS (
            DELETE FROM runbooks WHERE id NOT IN (SELECT id FROM packaged)
        )
        INSERT INTO runbooks AS r (id, digest, title, risk)
        SELECT id, digest, title, risk FROM packaged ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET digest = excluded.digest, title = excluded.title, risk = excluded.risk, updated_at = now()
        WHERE r.digest <> excluded.digest
        """,
        list(catalogue),
        [runbooks.digest(each) for each in catalogue.values()],
        [each.title for each in catalogue.values()],
        [str(each.risk) for each in catalogue.values()],
    )


async def newest(scope: PartnerScope, page: Page) -> list[Runbook]:
    """Return a page of the catalogue, the last changed first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, digest, title, risk, updated_at
        FROM runbooks
        WHERE (updated_at, id) < ($1, $2)
        ORDER BY updated_at DESC, id DESC
        LIMIT $3 OFFSET $4
        """,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Runbook(**row) for row in rows]


async def count(scope: PartnerScope) -> int:
    """Return how many runbooks there are, at most 10,001."""
    found: int = await scope.conn.fetchval("SELECT count(*) FROM (SELECT FROM runbooks LIMIT 10001) AS counted")
    return found


async def find(scope: PartnerScope, runbook_id: str) -> Runbook | None:
    """Return a runbook of the catalogue."""
    row = await scope.conn.fetchrow(
        "SELECT id, digest, title, risk, updated_at FROM runbooks WHERE id = $1", runbook_id
    )
    return Runbook(**row) if row else None
