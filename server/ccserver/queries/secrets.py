"""What a new master key touches, in whatever table it stands: seals to be made again, credentials to be void."""

from dataclasses import dataclass

from ccserver.scope import PlatformScope


@dataclass(frozen=True)
class Sealed:
    """A sealed value by its row."""

    partner_id: str
    id: str
    sealed: bytes


@dataclass(frozen=True)
class Voided:
    """How many credentials work no more."""

    sessions: int
    api_keys: int
    enrollment_codes: int
    invitations: int


async def totp_seals(scope: PlatformScope) -> list[Sealed]:
    """Return the sealed second factors of everybody, locked until the scope ends."""
    rows = await scope.conn.fetch(
        """
        SELECT partner_id, id, totp_sealed AS sealed FROM users
        WHERE totp_sealed IS NOT NULL
        ORDER BY partner_id, id
        FOR UPDATE
        """
    )
    return [Sealed(**row) for row in rows]


async def reseal_totp(scope: PlatformScope, rows: list[Sealed]) -> None:
    """Write second factors that were sealed anew."""
    await scope.conn.execute(
        """
        UPDATE users u SET totp_sealed = made.sealed
        FROM unnest($1::text[], $2::text[], $3::bytea[]) AS made (partner_id, id, sealed)
        WHERE u.partner_id = made.partner_id AND u.id = made.id
        """,
        [row.partner_id for row in rows],
        [row.id for row in rows],
        [row.sealed for row in rows],
    )


async def target_seals(scope: PlatformScope) -> list[Sealed]:
    """Return the sealed targets of every notification channel, locked until the scope ends."""
    rows = await scope.conn.fetch(
        """
        SELECT partner_id, id, target_sealed AS sealed FROM notification_channels
        ORDER BY partner_id, id
        FOR UPDATE
        """
    )
    return [Sealed(**row) for row in rows]


async def reseal_targets(scope: PlatformScope, rows: list[Sealed]) -> None:
    """Write targets that were sealed anew."""
    await scope.conn.execute(
        """
        UPDATE notification_channels c SET target_sealed = made.sealed
        FROM unnest($1::text[], $2::text[], $3::bytea[]) AS made (partner_id, id, sealed)
        WHERE c.partner_id = made.partner_id AND c.id = made.id
        """,
        [row.partner_id for row in rows],
        [row.id for row in rows],
        [row.sealed for row in rows],
    )


async def void(scope: PlatformScope) -> Voided:
    """End every session, key, code and link of everybody, and forget the answers that could be said again."""
    row = await scope.conn.fetchrow(
        """
        WITH ended AS (DELETE FROM sessions RETURNING true),
             revoked AS (UPDATE api_keys SET revoked_at = now()
                         WHERE revoked_at IS NULL AND expires_at > now() RETURNING true),
             codes AS (UPDATE enrollment_codes SET revoked_at = now()
                       WHERE revoked_at IS NULL AND used_at IS NULL AND expires_at > now() RETURNING true),
             links AS (UPDATE invitations SET expires_at = now()
                       WHERE used_at IS NULL AND expires_at > now() RETURNING true),
             answers AS (DELETE FROM idempotency_keys RETURNING true)
        SELECT (SELECT count(*) FROM ended) AS sessions, (SELECT count(*) FROM revoked) AS api_keys,
               (SELECT count(*) FROM codes) AS enrollment_codes, (SELECT count(*) FROM links) AS invitations
        """
    )
    assert row is not None  # noqa: S101  a select without a table
    return Voided(**row)
