"""Signed policies, each version as its appliance got it."""

import zlib
from dataclasses import dataclass
from datetime import datetime

from ccserver.listing import Page
from ccserver.scope import ApplianceScope, SiteScope


@dataclass(frozen=True)
class Version:
    """A version of an appliance's policy: its issue time in ms UTC, and the hash of what it says as 64 hex."""

    version: int
    content_hash: str | None
    created_at: datetime


async def insert(scope: SiteScope, appliance_id: str, version: int, content_hash: str, envelope: bytes) -> None:
    """Keep a new version; `envelope` is DSSE JSON."""
    await scope.conn.execute(
        """
        INSERT INTO policies (site_id, partner_id, appliance_id, version, content_hash, envelope)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        version,
        content_hash,
        zlib.compress(envelope),
    )


async def content_hash(scope: SiteScope, appliance_id: str, version: int) -> str | None:
    """Return the hash of what a version says; None when there is no such version."""
    found: str | None = await scope.conn.fetchval(
        """
        SELECT content_hash FROM policies
        WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3 AND version = $4
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        version,
    )
    return found


async def envelope(scope: ApplianceScope | SiteScope, appliance_id: str, version: int) -> bytes | None:
    """Return a version as it was signed (DSSE JSON)."""
    found: bytes | None = await scope.conn.fetchval(
        """
        SELECT envelope FROM policies
        WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3 AND version = $4
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        version,
    )
    return zlib.decompress(found) if found is not None else None


async def beside(
    scope: SiteScope, appliance_id: str, version: int, against: int | None
) -> tuple[str, bytes, bytes | None] | None:
    """Return an appliance's hostname, a version of its policy, and the one it is compared with: by default the one
    before it, which may not be there. None without the version.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT a.hostname, p.envelope,
               (SELECT o.envelope FROM policies o
                WHERE o.site_id = $1 AND o.partner_id = $2 AND o.appliance_id = $3
                  AND ($5::bigint IS NULL AND o.version < $4 OR o.version = $5::bigint)
                ORDER BY o.version DESC LIMIT 1) AS other
        FROM policies p JOIN appliances a ON a.site_id = p.site_id AND a.id = p.appliance_id
        WHERE p.site_id = $1 AND p.partner_id = $2 AND p.appliance_id = $3 AND p.version = $4
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        version,
        against,
    )
    if row is None:
        return None
    other = row["other"]
    return row["hostname"], zlib.decompress(row["envelope"]), zlib.decompress(other) if other is not None else None


async def before(scope: SiteScope, appliance_id: str, version: int) -> int | None:
    """Return the version that was in force before another."""
    found: int | None = await scope.conn.fetchval(
        """
        SELECT max(version) FROM policies
        WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3 AND version < $4
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        version,
    )
    return found


async def newest(scope: SiteScope, appliance_id: str, page: Page) -> list[Version]:
    """Return a page of an appliance's versions, the newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT version, content_hash, created_at
        FROM policies
        WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3 AND (created_at, version::text) < ($4, $5)
        ORDER BY created_at DESC, version DESC
        LIMIT $6 OFFSET $7
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Version(**row) for row in rows]


async def count(scope: SiteScope, appliance_id: str) -> int:
    """Return how many versions an appliance had, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM policies
              WHERE site_id = $1 AND partner_id = $2 AND appliance_id = $3 LIMIT 10001) AS counted
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
    )
    return found
