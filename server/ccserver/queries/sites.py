"""Sites: the clinics that partners look after."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import AlreadyExistsError, NotFoundError
from ccserver.listing import Page
from ccserver.scope import PartnerScope, PlatformScope, SiteScope


@dataclass(frozen=True)
class Site:
    """A site and the partner it belongs to."""

    id: str
    partner_id: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class SiteDetail:
    """A site as the API shows it; `revision` grows with each change by hand, `tags` name it among others."""

    id: str
    name: str
    created_at: datetime
    closed_at: datetime | None
    tags: list[str]
    revision: int


async def insert(scope: PartnerScope, site_id: str, name: str) -> None:
    """Add a site of the scope's partner; AlreadyExistsError when the id is taken, NotFoundError without the partner."""
    try:
        await scope.conn.execute(
            "INSERT INTO sites (id, partner_id, name) VALUES ($1, $2, $3)", site_id, scope.partner_id, name
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError(f"There is a site {site_id} already.") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no partner {scope.partner_id}.") from error


async def find_anywhere(scope: PlatformScope, site_id: str) -> Site | None:
    """Return a site of any partner."""
    row = await scope.conn.fetchrow("SELECT id, partner_id, name, created_at FROM sites WHERE id = $1", site_id)
    return Site(**row) if row else None


async def partners_of(scope: PartnerScope | PlatformScope, site_ids: Sequence[str]) -> dict[str, str]:
    """Return the partner of each of these sites that is there and open, in the caller's own scope."""
    rows = await scope.conn.fetch(
        """
        SELECT id, partner_id
        FROM sites
        WHERE id = ANY ($1) AND closed_at IS NULL AND ($2::text IS NULL OR partner_id = $2)
        """,
        site_ids,
        scope.partner_id if isinstance(scope, PartnerScope) else None,
    )
    return {row["id"]: row["partner_id"] for row in rows}


async def list_anywhere(scope: PlatformScope, limit: int) -> list[Site]:
    """Return the sites of all partners by partner and name."""
    rows = await scope.conn.fetch(
        "SELECT id, partner_id, name, created_at FROM sites ORDER BY partner_id, name, id LIMIT $1", limit
    )
    return [Site(**row) for row in rows]


async def is_readable(scope: SiteScope, auditor_id: str | None) -> bool:
    """Return whether the partner has the scope's site, and the auditor (if one asks) may read it."""
    found: bool = await scope.conn.fetchval(
        """
        SELECT EXISTS (SELECT FROM sites WHERE partner_id = $1 AND id = $2)
           AND ($3::text IS NULL
                OR EXISTS (SELECT FROM user_sites WHERE partner_id = $1 AND site_id = $2 AND user_id = $3))
        """,
        scope.partner_id,
        scope.site_id,
        auditor_id,
    )
    return found


async def open_by_name(scope: PartnerScope, limit: int) -> list[Site]:
    """Return the partner's sites that are not closed, by name."""
    rows = await scope.conn.fetch(
        """
        SELECT id, partner_id, name, created_at
        FROM sites
        WHERE partner_id = $1 AND closed_at IS NULL
        ORDER BY name, id
        LIMIT $2
        """,
        scope.partner_id,
        limit,
    )
    return [Site(**row) for row in rows]


async def names(scope: PartnerScope | SiteScope, site_ids: Sequence[str]) -> dict[str, str]:
    """Return what some of the partner's sites are called, by id."""
    rows = await scope.conn.fetch(
        "SELECT id, name FROM sites WHERE partner_id = $1 AND id = ANY ($2)", scope.partner_id, site_ids
    )
    return {row["id"]: row["name"] for row in rows}


async def newest(scope: PartnerScope, page: Page) -> list[SiteDetail]:
    """Return a page of the partner's sites, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, name, created_at, closed_at, tags, revision
        FROM sites
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC
        LIMIT $4 OFFSET $5
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [SiteDetail(**row) for row in rows]


async def count(scope: PartnerScope) -> int:
    """Return how many sites the partner has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM sites WHERE partner_id = $1 LIMIT 10001) AS counted", scope.partner_id
    )
    return found


async def find(scope: PartnerScope | SiteScope, site_id: str) -> SiteDetail | None:
    """Return a site of the scope's partner."""
    row = await scope.conn.fetchrow(
        "SELECT id, name, created_at, closed_at, tags, revision FROM sites WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        site_id,
    )
    return SiteDetail(**row) if row else None


async def change(scope: SiteScope, name: str | None, tags: Sequence[str] | None, revision: int) -> SiteDetail | None:
    """Give the scope's site another name or other tags, where they are said; None when it is not at this revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE sites
        SET name = coalesce($4, name), tags = coalesce($5::text[], tags), revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND revision = $3
        RETURNING id, name, created_at, closed_at, tags, revision
        """,
        scope.partner_id,
        scope.site_id,
        revision,
        name,
        tags,
    )
    return SiteDetail(**row) if row else None


async def hold_open(scope: SiteScope) -> bool:
    """Let nothing begin in the scope's site until the scope ends; False when it is not there, or is closed."""
    held = await scope.conn.fetchval(
        "SELECT true FROM sites WHERE partner_id = $1 AND id = $2 AND closed_at IS NULL FOR UPDATE",
        scope.partner_id,
        scope.site_id,
    )
    return bool(held)


async def close(scope: SiteScope) -> None:
    """Close the scope's site for good."""
    await scope.conn.execute(
        "UPDATE sites SET closed_at = now(), revision = revision + 1 WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        scope.site_id,
    )


async def open_ids(scope: PartnerScope) -> list[str]:
    """Return the partner's sites that are not closed."""
    rows = await scope.conn.fetch(
        "SELECT id FROM sites WHERE partner_id = $1 AND closed_at IS NULL ORDER BY id", scope.partner_id
    )
    return [row["id"] for row in rows]
