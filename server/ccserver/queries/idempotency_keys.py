"""What a create answered, by its Idempotency-Key, for a day; written with the create: both are kept, or neither."""

from dataclasses import dataclass

from ccserver.scope import PartnerScope, PlatformScope, SiteScope


@dataclass(frozen=True)
class Answer:
    """What was answered, and the hash of the request that it answered."""

    request_hash: str
    status: int
    answer: bytes


async def claim(
    scope: PartnerScope | SiteScope | PlatformScope, partner_id: str, key_hash: str, request_hash: str
) -> Answer | None:
    """Return the answer given before, or None after taking the key; a second request at once waits for the first."""
    row = await scope.conn.fetchrow(
        """
        INSERT INTO idempotency_keys AS k (partner_id, key_hash, request_hash, status, answer)
        VALUES ($1, $2, $3, 0, '')
        ON CONFLICT (partner_id, key_hash) DO UPDATE SET status = k.status
        RETURNING request_hash, status, answer, (xmax = 0) AS taken
        """,
        partner_id,
        key_hash,
        request_hash,
    )
    assert row is not None  # noqa: S101  an upsert returns its row
    return None if row["taken"] else Answer(row["request_hash"], row["status"], row["answer"])


async def keep(
    scope: PartnerScope | SiteScope | PlatformScope, partner_id: str, key_hash: str, status: int, answer: bytes
) -> None:
    """Write what the claimed key's request was answered."""
    await scope.conn.execute(
        "UPDATE idempotency_keys SET status = $3, answer = $4 WHERE partner_id = $1 AND key_hash = $2",
        partner_id,
        key_hash,
        status,
        answer,
    )
