"""People who sign in."""

from dataclasses import dataclass

import asyncpg

from ccserver.errors import AlreadyExistsError, NotFoundError
from ccserver.scope import CredentialScope, PartnerScope, PlatformScope


@dataclass(frozen=True)
class User:
    """A person; `partner_id` is `platform` for the platform's own."""

    partner_id: str
    id: str
    login: str
    role: str


@dataclass(frozen=True)
class Credentials:
    """A person with the hash that a password is compared with."""

    user: User
    password_hash: str


async def insert(scope: PlatformScope, user: User, password_hash: str) -> None:
    """Add a person; AlreadyExistsError when the login is taken, NotFoundError without the partner."""
    try:
        await scope.conn.execute(
            "INSERT INTO users (partner_id, id, login, role, password_hash) VALUES ($1, $2, $3, $4, $5)",
            user.partner_id,
            user.id,
            user.login,
            user.role,
            password_hash,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExistsError(f"There is a user {user.login} already.") from error
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no partner {user.partner_id}.") from error


async def find_by_credential(scope: CredentialScope, login: str) -> Credentials | None:
    """Return the person whose login was presented, unless disabled."""
    row = await scope.conn.fetchrow(
        """
        SELECT partner_id, id, login, role, password_hash
        FROM users
        WHERE login = $1 AND disabled_at IS NULL
        """,
        login,
    )
    if row is None:
        return None
    return Credentials(User(row["partner_id"], row["id"], row["login"], row["role"]), row["password_hash"])


async def find(scope: PartnerScope, user_id: str) -> User | None:
    """Return a person of the scope's partner, unless disabled."""
    row = await scope.conn.fetchrow(
        "SELECT partner_id, id, login, role FROM users WHERE partner_id = $1 AND id = $2 AND disabled_at IS NULL",
        scope.partner_id,
        user_id,
    )
    return User(**row) if row else None
