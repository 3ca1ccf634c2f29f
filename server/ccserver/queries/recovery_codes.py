"""Recovery codes: hashes only, each good once."""

from ccserver.scope import PartnerScope


async def replace(scope: PartnerScope, user_id: str, code_hashes: list[str]) -> None:
    """Give a person new codes in place of all they had."""
    await scope.conn.execute(
        """
        WITH dropped AS (
            DELETE FROM recovery_codes WHERE partner_id = $1 AND user_id = $2
        )
        INSERT INTO recovery_codes (partner_id, user_id, code_hash) SELECT $1, $2, unnest($3::text[])
        """,
        scope.partner_id,
        user_id,
        code_hashes,
    )


async def use(scope: PartnerScope, user_id: str, code_hash: str) -> bool:
    """Return whether this is an unused code of the person, which it now no longer is."""
    found = await scope.conn.fetchval(
        """
        UPDATE recovery_codes SET used_at = now()
        WHERE partner_id = $1 AND user_id = $2 AND code_hash = $3 AND used_at IS NULL
        RETURNING true
        """,
        scope.partner_id,
        user_id,
        code_hash,
    )
    return found is True


async def count_unused(scope: PartnerScope, user_id: str) -> int:
    """Return how many codes a person has left."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM recovery_codes WHERE partner_id = $1 AND user_id = $2 AND used_at IS NULL",
        scope.partner_id,
        user_id,
    )
    return found
