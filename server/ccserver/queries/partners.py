"""Partners: the providers who look after sites."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import AlreadyExistsError
from ccserver.listing import Page
from ccserver.scope import PartnerScope, PlatformScope


@dataclass(frozen=True)
class Partner:
    """A partner."""

    id: str
    name: str
    created_at: datetime


async def insert(scope: PlatformScope, partner_id: str, name: str) -> None:
    """Add a partner; AlreadyExistsError when the id is taken."""
    try:
        await scope.conn.execute("INSERT INTO partners (id, name) VALUES ($1, $2)", partner_id, name)
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError(f"There is a partner {partner_id} already.") from error


async def list_all(scope: PlatformScope, limit: int) -> list[Partner]:
    """Return partners by name, without the platform's own row."""
    rows = await scope.conn.fetch(
        "SELECT id, name, created_at FROM partners WHERE id <> 'platform' ORDER BY name, id LIMIT $1", limit
    )
    return [Partner(**row) for row in rows]


async def newest(scope: PlatformScope, page: Page) -> list[Partner]:
    """Return a page of partners, newest first, without the platform's own row."""
    rows = await scope.conn.fetch(
        """
        SELECT id, name, created_at
        FROM partners
        WHERE id <> 'platform' AND (created_at, id) < ($1, $2)
        ORDER BY created_at DESC, id DESC
        LIMIT $3 OFFSET $4
        """,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Partner(**row) for row in rows]


async def count(scope: PlatformScope) -> int:
    """Return how many partners there are, at most 10,001."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM partners WHERE id <> 'platform' LIMIT 10001) AS counted"
    )
    return found


async def find_anywhere(scope: PlatformScope, partner_id: str) -> Partner | None:
    """Return a partner, but never the platform's own row."""
    row = await scope.conn.fetchrow(
        "SELECT id, name, created_at FROM partners WHERE id = $1 AND id <> 'platform'", partner_id
    )
    return Partner(**row) if row else None


async def find(scope: PartnerScope) -> Partner | None:
    """Return the scope's partner."""
    row = await scope.conn.fetchrow("SELECT id, name, created_at FROM partners WHERE id = $1", scope.partner_id)
    return Partner(**row) if row else None


async def close(scope: PlatformScope, partner_id: str) -> None:
    """Note that a partner was off-boarded, from the first time on."""
    await scope.conn.execute("UPDATE partners SET closed_at = coalesce(closed_at, now()) WHERE id = $1", partner_id)
