"""One-time links to choose a password: known by the SHA-256 of their token."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.scope import CredentialScope, PartnerScope
from ccshared.vocabulary import Purpose


@dataclass(frozen=True)
class Invitation:
    """A link that is still good."""

    partner_id: str
    user_id: str
    purpose: str


async def replace(scope: PartnerScope, user_id: str, token_hash: str, purpose: Purpose, expires_at: datetime) -> None:
    """Add a link for a person; earlier ones are void."""
    await scope.conn.execute(
        """
        WITH void AS (
            DELETE FROM invitations WHERE partner_id = $1 AND user_id = $2 AND used_at IS NULL
        )
        INSERT INTO invitations (partner_id, user_id, token_hash, purpose, expires_at) VALUES ($1, $2, $3, $4, $5)
        """,
        scope.partner_id,
        user_id,
        token_hash,
        str(purpose),
        expires_at,
    )


async def find_by_credential(scope: CredentialScope, token_hash: str) -> Invitation | None:
    """Return the link whose token was presented, unless it was used or has expired."""
    row = await scope.conn.fetchrow(
        """
        SELECT partner_id, user_id, purpose
        FROM invitations
        WHERE token_hash = $1 AND used_at IS NULL AND expires_at > now()
        """,
        token_hash,
    )
    return Invitation(**row) if row else None


async def use(scope: PartnerScope, token_hash: str) -> bool:
    """Return whether the link was still good; now it is used."""
    found = await scope.conn.fetchval(
        """
        UPDATE invitations SET used_at = now()
        WHERE partner_id = $1 AND token_hash = $2 AND used_at IS NULL AND expires_at > now()
        RETURNING true
        """,
        scope.partner_id,
        token_hash,
    )
    return found is True
