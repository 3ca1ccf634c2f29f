"""One-time codes: only the hash of a code's secret is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import AlreadyExistsError, NotFoundError
from ccserver.listing import Page
from ccserver.scope import CredentialScope, PartnerScope, PlatformScope, SiteScope


@dataclass(frozen=True)
class Code:
    """A code as whoever presents its secret finds it; `replaces_id` is the appliance it is for, known once locked."""

    site_id: str
    partner_id: str
    expires_at: datetime
    used_by_id: str | None
    replaces_id: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class CodeDetail:
    """A code as lists show it: nothing of it opens anything. `id` is the first half of its secret's hash.

    `replaces_id` is the appliance that its device becomes, `label` what a new one will be called.
    """

    id: str
    site_id: str
    created_at: datetime
    created_by: str | None
    expires_at: datetime
    used_at: datetime | None
    used_by_id: str | None
    revoked_at: datetime | None
    replaces_id: str | None
    label: str | None


@dataclass(frozen=True)
class Draft:
    """A code to be made; `label` is the name that its appliance gets."""

    site_id: str
    partner_id: str
    secret_hash: str
    expires_at: datetime
    label: str | None


async def insert_many(scope: PartnerScope | PlatformScope, drafts: Sequence[Draft], created_by: str) -> None:
    """Add many codes; a site is never another partner's. AlreadyExistsError for one that was made before."""
    try:
        await scope.conn.execute(
            """
            INSERT INTO enrollment_codes (site_id, partner_id, secret_hash, expires_at, label, created_by)
            SELECT r.*, $6
            FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[]) AS r
            """,
            [draft.site_id for draft in drafts],
            [draft.partner_id for draft in drafts],
            [draft.secret_hash for draft in drafts],
            [draft.expires_at for draft in drafts],
            [draft.label for draft in drafts],
            created_by,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError("These codes were made before: ask with another Idempotency-Key.") from error


async def insert(
    scope: SiteScope,
    secret_hash: str,
    expires_at: datetime,
    created_by: str | None = None,
    replaces: str | None = None,
) -> None:
    """Add a code for the scope's site, and for the appliance that `replaces` names, if it does.

    NotFoundError when the partner has no such site.
    """
    try:
        await scope.conn.execute(
            """
            INSERT INTO enrollment_codes (site_id, partner_id, secret_hash, expires_at, created_by, replaces_id)
            VALUES ($1, $2, $3, $4, $5, $6)
            """,
            scope.site_id,
            scope.partner_id,
            secret_hash,
            expires_at,
            created_by,
            replaces,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError("This code was made before: ask for another.") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no site {scope.site_id}.") from error


async def find_by_credential(scope: CredentialScope, secret_hash: str) -> Code | None:
    """Return the code whose secret was presented."""
    row = await scope.conn.fetchrow(
        "SELECT site_id, partner_id, expires_at, used_by_id FROM enrollment_codes WHERE secret_hash = $1", secret_hash
    )
    return Code(**row) if row else None


async def lock(scope: SiteScope, secret_hash: str) -> Code | None:
    """Return the code, locked until the scope ends, so that two devices cannot both use it.

    A revoked code expired when it was revoked.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT site_id, partner_id, least(expires_at, revoked_at) AS expires_at, used_by_id, replaces_id, label
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


async def newest(scope: SiteScope, page: Page) -> list[CodeDetail]:
    """Return a page of the site's codes, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, site_id, created_at, created_by, expires_at, used_at, used_by_id, revoked_at, replaces_id, label
        FROM enrollment_codes
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
    return [CodeDetail(**row) for row in rows]


async def count(scope: SiteScope) -> int:
    """Return how many codes the site has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM enrollment_codes WHERE site_id = $1 AND partner_id = $2 LIMIT 10001) AS counted
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


async def find(scope: SiteScope, code_id: str) -> CodeDetail | None:
    """Return a code of the site by its id."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, site_id, created_at, created_by, expires_at, used_at, used_by_id, revoked_at, replaces_id, label
        FROM enrollment_codes
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        code_id,
    )
    return CodeDetail(**row) if row else None


async def revoke(scope: SiteScope, code_id: str) -> bool:
    """Make a code useless; False when it is not there, was used, or was revoked before."""
    done = await scope.conn.fetchval(
        """
        UPDATE enrollment_codes SET revoked_at = now()
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND used_at IS NULL AND revoked_at IS NULL
        RETURNING true
        """,
        scope.site_id,
        scope.partner_id,
        code_id,
    )
    return bool(done)


async def count_open(scope: SiteScope) -> int:
    """Return how many codes of the site could still be used."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM enrollment_codes
        WHERE site_id = $1 AND partner_id = $2 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > now()
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


async def revoke_all(scope: SiteScope) -> int:
    """Make every unused code of the site useless; return how many there were."""
    rows = await scope.conn.fetch(
        """
        UPDATE enrollment_codes SET revoked_at = now()
        WHERE site_id = $1 AND partner_id = $2 AND used_at IS NULL AND revoked_at IS NULL
        RETURNING id
        """,
        scope.site_id,
        scope.partner_id,
    )
    return len(rows)
