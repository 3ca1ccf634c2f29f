"""One-time codes: only the hash of a code's secret is stored."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import NotFoundError
from ccserver.scope import CredentialScope, SiteScope


@dataclass(frozen=True)
class Code:
    """A code as whoever presents its secret finds it; `replaces_id` is the appliance it is for, known once locked."""

    site_id: str
    partner_id: str
    expires_at: datetime
    used_by_id: str | None
    replaces_id: str | None = None


async def insert(scope: SiteScope, secret_hash: str, expires_at: datetime, replaces: str | None = None) -> None:
    """Add a code for the scope's site, and for one of its appliances if it replaces it.

    NotFoundError when the partner has no such site.
    """
    try:
        await scope.conn.execute(
            """
            INSERT INTO enrollment_codes (site_id, partner_id, secret_hash, expires_at, replaces_id)
            VALUES ($1, $2, $3, $4, $5)
            """,
            scope.site_id,
            scope.partner_id,
            secret_hash,
            expires_at,
            replaces,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no site {scope.site_id}.") from error


async def find_by_credential(scope: CredentialScope, secret_hash: str) -> Code | None:
    """Return the code whose secret was presented."""
    row = await scope.conn.fetchrow(
        "SELECT site_id, partner_id, expires_at, used_by_id FROM enrollment_codes WHERE secret_hash = $1", secret_hash
    )
    return Code(**row) if row else None


async def lock(scope: SiteScope, secret_hash: str) -> Code | None:
    """Return the code, locked until the scope ends, so that two devices cannot both use it."""
    row = await scope.conn.fetchrow(
        """
        SELECT site_id, partner_id, expires_at, used_by_id, replaces_id
        FROM enrollment_codes
        WHERE site_id = $1 AND secret_hash = $2
        FOR UPDATE
        """,
        scope.site_id,
        secret_hash,
    )
    return Code(**row) if row else None


async def mark_used(scope: SiteScope, secret_hash: str, appliance_id: str) -> None:
    """Say which appliance used the code."""
    await scope.conn.execute(
        "UPDATE enrollment_codes SET used_at = now(), used_by_id = $3 WHERE site_id = $1 AND secret_hash = $2",
        scope.site_id,
        secret_hash,
        appliance_id,
    )
