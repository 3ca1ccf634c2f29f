"""People who sign in."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from ccserver.errors import AlreadyExistsError, NotFoundError
from ccserver.listing import Page
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
    """A person with the hash that a password is compared with; none while invited only."""

    user: User
    password_hash: str | None
    has_second_factor: bool
    locked: bool


@dataclass(frozen=True)
class Factors:
    """What a person proves an identity with; `totp_sealed` opens with the key file only."""

    user: User
    password_hash: str | None
    totp_sealed: bytes | None
    totp_confirmed: bool
    totp_last_step: int | None
    locked: bool


async def insert(scope: PartnerScope | PlatformScope, user: User, password_hash: str | None) -> None:
    """Add a person; without a password it is one who chooses it by an invitation.

    AlreadyExistsError when the login is taken, NotFoundError without the partner.
    """
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
        SELECT partner_id, id, login, role, password_hash, totp_confirmed_at IS NOT NULL AS has_second_factor,
               coalesce(locked_until > now(), false) AS locked
        FROM users
        WHERE login = $1 AND disabled_at IS NULL
        """,
        login,
    )
    if row is None:
        return None
    user = User(row["partner_id"], row["id"], row["login"], row["role"])
    return Credentials(user, row["password_hash"], row["has_second_factor"], row["locked"])


@dataclass(frozen=True)
class Account:
    """A person as lists show them; `sites` are those that an auditor may read, `revision` counts changes."""

    id: str
    login: str
    role: str
    created_at: datetime
    disabled_at: datetime | None
    second_factor: bool
    invited: bool
    sites: list[str]
    revision: int


async def newest(scope: PartnerScope, page: Page) -> list[Account]:
    """Return a page of the partner's people, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, login, role, created_at, disabled_at, totp_confirmed_at IS NOT NULL AS second_factor,
               password_hash IS NULL AS invited,
               ARRAY(SELECT s.site_id FROM user_sites s
                     WHERE s.partner_id = u.partner_id AND s.user_id = u.id ORDER BY s.site_id) AS sites, revision
        FROM users u
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
    return [Account(**row) for row in rows]


async def account(scope: PartnerScope, user_id: str) -> Account | None:
    """Return a person of the partner as lists show them."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, login, role, created_at, disabled_at, totp_confirmed_at IS NOT NULL AS second_factor,
               password_hash IS NULL AS invited,
               ARRAY(SELECT s.site_id FROM user_sites s
                     WHERE s.partner_id = u.partner_id AND s.user_id = u.id ORDER BY s.site_id) AS sites, revision
        FROM users u
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        user_id,
    )
    return Account(**row) if row else None


async def lock_owners(scope: PartnerScope) -> list[str]:
    """Return the ids of the partner's owners who can sign in, locked, so that two do not unmake each other at once."""
    rows = await scope.conn.fetch(
        """
        SELECT id
        FROM users
        WHERE partner_id = $1 AND role = 'owner' AND disabled_at IS NULL AND password_hash IS NOT NULL
        ORDER BY id
        FOR UPDATE
        """,
        scope.partner_id,
    )
    return [row["id"] for row in rows]


async def give_role(scope: PartnerScope, user_id: str, role: str, revision: int) -> bool:
    """Give a person another role and no site; False when they are not at this revision."""
    done = await scope.conn.fetchval(
        """
        WITH changed AS (
            UPDATE users SET role = $3, revision = revision + 1
            WHERE partner_id = $1 AND id = $2 AND revision = $4
            RETURNING id
        ), left_sites AS (
            DELETE FROM user_sites WHERE partner_id = $1 AND user_id IN (SELECT id FROM changed)
        )
        SELECT true FROM changed
        """,
        scope.partner_id,
        user_id,
        role,
        revision,
    )
    return bool(done)


async def count(scope: PartnerScope, limit: int) -> int:
    """Return how many people the partner has, counted up to `limit`."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM users WHERE partner_id = $1 LIMIT $2) AS counted", scope.partner_id, limit
    )
    return found


async def find_anywhere(scope: PlatformScope, login: str) -> User | None:
    """Return a person of any partner, disabled or not."""
    row = await scope.conn.fetchrow("SELECT partner_id, id, login, role FROM users WHERE login = $1", login)
    return User(**row) if row else None


async def disable(scope: PartnerScope, user_id: str) -> User:
    """Disable a person, whose sessions and links end; NotFoundError when the partner has no such person."""
    row = await scope.conn.fetchrow(
        """
        WITH ended AS (
            DELETE FROM sessions WHERE partner_id = $1 AND user_id = $2
        ), void AS (
            DELETE FROM invitations WHERE partner_id = $1 AND user_id = $2 AND used_at IS NULL
        )
        UPDATE users SET disabled_at = coalesce(disabled_at, now()), revision = revision + 1
        WHERE partner_id = $1 AND id = $2
        RETURNING partner_id, id, login, role
        """,
        scope.partner_id,
        user_id,
    )
    if row is None:
        raise NotFoundError
    return User(**row)


async def drop_second_factor(scope: PartnerScope, user_id: str) -> None:
    """Void a person's authenticator and recovery codes, and end their sessions."""
    await scope.conn.execute(
        """
        WITH ended AS (
            DELETE FROM sessions WHERE partner_id = $1 AND user_id = $2
        ), void AS (
            DELETE FROM recovery_codes WHERE partner_id = $1 AND user_id = $2
        )
        UPDATE users
        SET totp_sealed = NULL, totp_confirmed_at = NULL, totp_last_step = NULL, revision = revision + 1
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        user_id,
    )


async def enable(scope: PartnerScope, user_id: str) -> None:
    """Let a person sign in again who was disabled."""
    await scope.conn.execute(
        "UPDATE users SET disabled_at = NULL, revision = revision + 1 WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        user_id,
    )


async def find(scope: PartnerScope, user_id: str) -> User | None:
    """Return a person of the scope's partner, unless disabled."""
    row = await scope.conn.fetchrow(
        "SELECT partner_id, id, login, role FROM users WHERE partner_id = $1 AND id = $2 AND disabled_at IS NULL",
        scope.partner_id,
        user_id,
    )
    return User(**row) if row else None


async def factors(scope: PartnerScope, user_id: str) -> Factors | None:
    """Return what a person proves an identity with, locked against a second use at once; None when disabled."""
    row = await scope.conn.fetchrow(
        """
        SELECT partner_id, id, login, role, password_hash, totp_sealed, totp_confirmed_at IS NOT NULL AS totp_confirmed,
               totp_last_step, coalesce(locked_until > now(), false) AS locked
        FROM users
        WHERE partner_id = $1 AND id = $2 AND disabled_at IS NULL
        FOR UPDATE
        """,
        scope.partner_id,
        user_id,
    )
    if row is None:
        return None
    values = dict(row)
    return Factors(User(*(values.pop(name) for name in ("partner_id", "id", "login", "role"))), **values)


async def count_failure(scope: PartnerScope, user_id: str) -> None:
    """Count a failed sign-in; while the login is locked, nothing more is counted.

    From the fifth in a row it is locked for a minute, twice as long each time, up to an hour.
    """
    await scope.conn.execute(
        """
        UPDATE users
        SET failed_count = failed_count + 1,
            locked_until = CASE WHEN failed_count >= 4
                THEN now() + least(interval '1 hour', interval '1 minute' * power(2, least(failed_count - 4, 6))) END
        WHERE partner_id = $1 AND id = $2 AND (locked_until IS NULL OR locked_until <= now())
        """,
        scope.partner_id,
        user_id,
    )


async def forgive(scope: PartnerScope, user_id: str) -> bool:
    """End a row of failures after a success; False when the login was locked meanwhile."""
    found = await scope.conn.fetchval(
        """
        UPDATE users SET failed_count = 0, locked_until = NULL
        WHERE partner_id = $1 AND id = $2 AND (locked_until IS NULL OR locked_until <= now())
        RETURNING true
        """,
        scope.partner_id,
        user_id,
    )
    return found is True


async def use_totp_step(scope: PartnerScope, user_id: str, step: int) -> bool:
    """Return whether this step's code was not used yet and the login is not locked; now it is used."""
    found = await scope.conn.fetchval(
        """
        UPDATE users SET totp_last_step = $3, failed_count = 0, locked_until = NULL
        WHERE partner_id = $1 AND id = $2 AND (totp_last_step IS NULL OR totp_last_step < $3)
          AND (locked_until IS NULL OR locked_until <= now())
        RETURNING true
        """,
        scope.partner_id,
        user_id,
        step,
    )
    return found is True


async def offer_totp(scope: PartnerScope, user_id: str, sealed: bytes) -> bool:
    """Keep a sealed secret to be confirmed; False for a person whose second factor is confirmed already."""
    found = await scope.conn.fetchval(
        """
        UPDATE users SET totp_sealed = $3, totp_last_step = NULL
        WHERE partner_id = $1 AND id = $2 AND totp_confirmed_at IS NULL
        RETURNING true
        """,
        scope.partner_id,
        user_id,
        sealed,
    )
    return found is True


async def confirm_totp(scope: PartnerScope, user_id: str, sealed: bytes, step: int) -> bool:
    """Confirm the offered secret by the step of its first code, and end the person's sessions, which lack it."""
    found = await scope.conn.fetchval(
        """
        WITH ended AS (
            DELETE FROM sessions WHERE partner_id = $1 AND user_id = $2
        )
        UPDATE users SET totp_confirmed_at = now(), totp_last_step = $4, revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND totp_sealed = $3 AND totp_confirmed_at IS NULL
        RETURNING true
        """,
        scope.partner_id,
        user_id,
        sealed,
        step,
    )
    return found is True


async def set_password(scope: PartnerScope, user_id: str, password_hash: str) -> None:
    """Give a person another password, and end all their sessions and their lock."""
    await scope.conn.execute(
        """
        WITH ended AS (
            DELETE FROM sessions WHERE partner_id = $1 AND user_id = $2
        )
        UPDATE users SET password_hash = $3, failed_count = 0, locked_until = NULL, revision = revision + 1
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        user_id,
        password_hash,
    )


async def disable_all(scope: PartnerScope) -> int:
    """Disable every person of the partner, whose sessions and links end; return how many could sign in."""
    rows = await scope.conn.fetch(
        """
        WITH ended AS (
            DELETE FROM sessions WHERE partner_id = $1
        ), void AS (
            DELETE FROM invitations WHERE partner_id = $1 AND used_at IS NULL
        )
        UPDATE users SET disabled_at = now(), revision = revision + 1
        WHERE partner_id = $1 AND disabled_at IS NULL
        RETURNING id
        """,
        scope.partner_id,
    )
    return len(rows)
