"""Waivers: a check that does not count for a while, with the reason that a person gave."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.listing import Page
from ccserver.scope import PartnerScope, SiteScope


@dataclass(frozen=True)
class Waiver:
    """A waiver; `host_id` None is every host of the site. It counts until it expires or is revoked."""

    id: str
    site_id: str
    check_id: str
    host_id: str | None
    reason: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    revision: int


@dataclass(frozen=True)
class Draft:
    """A waiver to be made."""

    check_id: str
    host_id: str | None
    reason: str
    expires_at: datetime


async def insert(scope: SiteScope, waiver_id: str, draft: Draft, created_by: str) -> Waiver:
    """Add a waiver to the scope's site."""
    row = await scope.conn.fetchrow(
        """
        INSERT INTO waivers (site_id, partner_id, id, check_id, host_id, reason, created_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        RETURNING id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at, revision
        """,
        scope.site_id,
        scope.partner_id,
        waiver_id,
        draft.check_id,
        draft.host_id,
        draft.reason,
        created_by,
        draft.expires_at,
    )
    assert row is not None  # noqa: S101  an insert returns its row
    return Waiver(**row)


async def newest(scope: SiteScope, page: Page) -> list[Waiver]:
    """Return a page of the site's waivers, those that count no more too, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at, revision
        FROM waivers
        WHERE site_id = $1 AND partner_id = $2 AND (created_at, id) < ($3, $4)
        ORDER BY created_at DESC, id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.site_id,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Waiver(**row) for row in rows]


async def newest_of_partner(scope: PartnerScope, page: Page) -> list[Waiver]:
    """Return a page of the waivers of all the partner's sites, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at, revision
        FROM waivers
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
    return [Waiver(**row) for row in rows]


async def count(scope: PartnerScope | SiteScope, site_id: str | None) -> int:
    """Return how many waivers the partner, or its site, has: at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM waivers
              WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2) LIMIT 10001) AS counted
        """,
        scope.partner_id,
        site_id,
    )
    return found


async def find(scope: SiteScope, waiver_id: str) -> Waiver | None:
    """Return a waiver of the site."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at, revision
        FROM waivers
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        waiver_id,
    )
    return Waiver(**row) if row else None


async def revoke(scope: SiteScope, waiver_id: str, revision: int) -> Waiver | None:
    """End a waiver now; None when it is not there at this revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE waivers SET revoked_at = coalesce(revoked_at, now()), revision = revision + 1
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND revision = $4
        RETURNING id, site_id, check_id, host_id, reason, created_by, created_at, expires_at, revoked_at, revision
        """,
        scope.site_id,
        scope.partner_id,
        waiver_id,
        revision,
    )
    return Waiver(**row) if row else None
