"""Sessions: known by the SHA-256 of the cookie's value."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ccserver.queries.users import User
from ccserver.scope import CredentialScope, PartnerScope

if TYPE_CHECKING:
    from ccserver.scope import PooledConnection


@dataclass(frozen=True)
class Session:
    """A session that has not expired."""

    partner_id: str
    user_id: str
    second_factor: bool


@dataclass(frozen=True)
class NewSession:
    """A session to be: `second_factor` is true only when the person gave a code or has just confirmed one."""

    token_hash: str
    user_id: str
    id: str
    expires_at: datetime
    second_factor: bool
    user_agent: str


async def insert(scope: PartnerScope, new: NewSession) -> None:
    """Add a session, and drop the person's expired ones."""
    await scope.conn.execute(
        """
        WITH expired AS (
            DELETE FROM sessions WHERE partner_id = $1 AND user_id = $3 AND expires_at < now()
        )
        INSERT INTO sessions (partner_id, token_hash, user_id, id, expires_at, second_factor, user_agent)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        scope.partner_id,
        new.token_hash,
        new.user_id,
        new.id,
        new.expires_at,
        new.second_factor,
        new.user_agent,
    )


@dataclass(frozen=True)
class SignedIn:
    """A person with a session that has not expired; `second_factor` is the session's."""

    user: User
    second_factor: bool


async def signed_in(conn: "PooledConnection", token_hash: str) -> SignedIn | None:
    """Return the person whose cookie was presented, in one round trip; None without a session, or when disabled.

    The function sets its own scope, so this query takes a bare connection.
    """
    row = await conn.fetchrow("SELECT partner_id, id, login, role, second_factor FROM cc_session($1)", token_hash)
    if row is None:
        return None
    return SignedIn(User(row["partner_id"], row["id"], row["login"], row["role"]), row["second_factor"])


async def find_by_credential(scope: CredentialScope, token_hash: str) -> Session | None:
    """Return the session whose cookie was presented."""
    row = await scope.conn.fetchrow(
        "SELECT partner_id, user_id, second_factor FROM sessions WHERE token_hash = $1 AND expires_at > now()",
        token_hash,
    )
    return Session(**row) if row else None


async def delete(scope: PartnerScope, token_hash: str) -> None:
    """End a session."""
    await scope.conn.execute(
        "DELETE FROM sessions WHERE partner_id = $1 AND token_hash = $2", scope.partner_id, token_hash
    )


@dataclass(frozen=True)
class OpenSession:
    """A session as its person sees it."""

    id: str
    created_at: datetime
    expires_at: datetime
    second_factor: bool
    user_agent: str | None


async def list_open(scope: PartnerScope, user_id: str) -> list[OpenSession]:
    """Return a person's sessions, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, created_at, expires_at, second_factor, user_agent
        FROM sessions
        WHERE partner_id = $1 AND user_id = $2 AND expires_at > now() AND id IS NOT NULL
        ORDER BY created_at DESC, id DESC
        LIMIT 200
        """,
        scope.partner_id,
        user_id,
    )
    return [OpenSession(**row) for row in rows]


async def end(scope: PartnerScope, user_id: str, session_id: str) -> bool:
    """End a session of this person; False when there is none of that id."""
    found = await scope.conn.fetchval(
        "DELETE FROM sessions WHERE partner_id = $1 AND user_id = $2 AND id = $3 RETURNING true",
        scope.partner_id,
        user_id,
        session_id,
    )
    return found is True
