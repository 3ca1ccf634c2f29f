"""API keys: known by the SHA-256 of the key, shown once, always expiring."""

from dataclasses import dataclass

from ccserver.scope import CredentialScope


@dataclass(frozen=True)
class KnownKey:
    """A key that was presented and is still good."""

    partner_id: str
    id: str
    role: str


async def find_by_credential(scope: CredentialScope, key_hash: str) -> KnownKey | None:
    """Return the key that was presented, unless it expired or was revoked."""
    row = await scope.conn.fetchrow(
        """
        SELECT partner_id, id, role
        FROM api_keys
        WHERE key_hash = $1 AND expires_at > now() AND revoked_at IS NULL
        """,
        key_hash,
    )
    return KnownKey(**row) if row else None
