"""API keys: known by the SHA-256 of the key, shown once, always expiring."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import AlreadyExistsError, NotFoundError
from ccserver.listing import Page
from ccserver.scope import CredentialScope, PartnerScope, PlatformScope


@dataclass(frozen=True)
class KnownKey:
    """A key that was presented and is still good; `created_by` is who made it, as the audit log names them."""

    partner_id: str
    id: str
    role: str
    created_by: str


async def find_by_credential(scope: CredentialScope, key_hash: str) -> KnownKey | None:
    """Return the key that was presented, unless it expired or was revoked."""
    row = await scope.conn.fetchrow(
        """
        SELECT partner_id, id, role, created_by
        FROM api_keys
        WHERE key_hash = $1 AND expires_at > now() AND revoked_at IS NULL
        """,
        key_hash,
    )
    return KnownKey(**row) if row else None


@dataclass(frozen=True)
class ApiKey:
    """A key as lists show it; the key itself is nowhere."""

    id: str
    name: str
    role: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key to be."""

    id: str
    key_hash: str
    name: str
    role: str
    created_by: str
    expires_at: datetime


async def insert(scope: PartnerScope | PlatformScope, partner_id: str, new: NewKey) -> ApiKey:
    """Add a key; NotFoundError without the partner, AlreadyExistsError for one that was made before."""
    try:
        row = await scope.conn.fetchrow(
            """
            INSERT INTO api_keys (partner_id, id, key_hash, name, role, created_by, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            RETURNING id, name, role, created_by, created_at, expires_at, revoked_at
            """,
            partner_id,
            new.id,
            new.key_hash,
            new.name,
            new.role,
            new.created_by,
            new.expires_at,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError("This key was made before: ask with another Idempotency-Key.") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no partner {partner_id}.") from error
    assert row is not None  # noqa: S101  an insert returns its row
    return ApiKey(**row)


async def newest(scope: PartnerScope | PlatformScope, partner_id: str, page: Page) -> list[ApiKey]:
    """Return a page of the partner's keys, newest first, those that no longer work too."""
    rows = await scope.conn.fetch(
        """
        SELECT id, name, role, created_by, created_at, expires_at, revoked_at
        FROM api_keys
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC
        LIMIT $4 OFFSET $5
        """,
        partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [ApiKey(**row) for row in rows]


async def revoke(scope: PartnerScope | PlatformScope, partner_id: str, key_id: str) -> ApiKey:
    """Revoke a key, which stays revoked from the first time on; NotFoundError when the partner has no such key."""
    row = await scope.conn.fetchrow(
        """
        UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
        WHERE partner_id = $1 AND id = $2
        RETURNING id, name, role, created_by, created_at, expires_at, revoked_at
        """,
        partner_id,
        key_id,
    )
    if row is None:
        raise NotFoundError
    return ApiKey(**row)


async def note_use(scope: PartnerScope, key_id: str) -> None:
    """Write that a key was used now, unless another process did within the minute."""
    await scope.conn.execute(
        """
        UPDATE api_keys SET last_used_at = now()
        WHERE partner_id = $1 AND id = $2 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
        """,
        scope.partner_id,
        key_id,
    )


async def count(scope: PartnerScope, limit: int) -> int:
    """Return how many keys the partner has, counted up to `limit`."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM api_keys WHERE partner_id = $1 LIMIT $2) AS counted", scope.partner_id, limit
    )
    return found


async def revoke_all(scope: PartnerScope) -> int:
    """Revoke every key of the partner; return how many there were."""
    rows = await scope.conn.fetch(
        "UPDATE api_keys SET revoked_at = now() WHERE partner_id = $1 AND revoked_at IS NULL RETURNING id",
        scope.partner_id,
    )
    return len(rows)
