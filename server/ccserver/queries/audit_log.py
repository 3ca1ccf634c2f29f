"""The audit log: one hash chain per partner. Append last in a transaction, because it locks the chain's head."""

from dataclasses import dataclass
from datetime import UTC, datetime

from ccserver.audit_chain import Head, Link
from ccserver.listing import Page
from ccserver.scope import PartnerScope, PlatformScope, SiteScope
from ccshared import canonical
from ccshared.canonical import Json


@dataclass(frozen=True)
class Act:
    """Who did what to what; `detail` holds no secret and no personal health data."""

    actor: str
    action: str
    target: str
    detail: dict[str, Json]


@dataclass(frozen=True)
class AuditEntry:
    """An entry as lists show it; `entry` is the canonical JSON that was hashed, `hash` its 64 hex."""

    seq: int
    at: datetime
    actor: str
    action: str
    target: str
    entry: str
    hash: str


async def append(scope: PartnerScope | SiteScope | PlatformScope, act: Act, partner_id: str | None = None) -> None:
    """Append to the chain of the scope's partner, or of `partner_id` in platform scope (`platform` by default)."""
    at = datetime.now(UTC)
    owner = scope.partner_id if not isinstance(scope, PlatformScope) else partner_id or "platform"
    members: dict[str, Json] = {
        "action": act.action,
        "actor": act.actor[:300],
        "at": int(at.timestamp() * 1000),
        "detail": act.detail,
        "target": act.target[:300],
    }
    await scope.conn.execute(
        "SELECT cc_audit($1, $2, $3, $4, $5, $6)",
        owner,
        at,
        act.actor[:300],
        act.action,
        act.target[:300],
        canonical.write(members, 65536),
    )


@dataclass(frozen=True)
class Filter:
    """Which entries a list shows; None is any. `since` is in the list, `until` is not."""

    since: datetime
    until: datetime
    actor: str | None = None
    action: str | None = None
    target: str | None = None


async def newest(scope: PartnerScope | PlatformScope, partner_id: str, wanted: Filter, page: Page) -> list[AuditEntry]:
    """Return a page of the partner's entries, newest first."""
    before = int(page.before_id) if page.before_id.isdecimal() else 2**62
    rows = await scope.conn.fetch(
        """
        SELECT seq, at, actor, action, target, convert_from(entry, 'UTF8') AS entry, encode(hash, 'hex') AS hash
        FROM audit_log
        WHERE partner_id = $1 AND seq < $2 AND at >= $3 AND at < $4
          AND ($5::text IS NULL OR actor = $5) AND ($6::text IS NULL OR action = $6)
          AND ($7::text IS NULL OR target = $7)
        ORDER BY seq DESC
        LIMIT $8 OFFSET $9
        """,
        partner_id,
        before,
        wanted.since,
        wanted.until,
        wanted.actor,
        wanted.action,
        wanted.target,
        page.fetched,
        page.offset,
    )
    return [AuditEntry(**row) for row in rows]


async def head_at(scope: SiteScope | PartnerScope, until: datetime | None) -> tuple[int, bytes]:
    """Return how long the partner's chain is and its last entry's hash; as it was before `until`, if that is set."""
    row = await scope.conn.fetchrow(
        """
        SELECT seq, hash
        FROM audit_log
        WHERE partner_id = $1 AND ($2::timestamptz IS NULL OR at < $2)
        ORDER BY seq DESC
        LIMIT 1
        """,
        scope.partner_id,
        until,
    )
    return (row["seq"] + 1, row["hash"]) if row else (0, bytes(32))


async def count(scope: PartnerScope | PlatformScope, partner_id: str, wanted: Filter) -> int:
    """Return how many of the partner's entries are wanted, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM audit_log
              WHERE partner_id = $1 AND at >= $2 AND at < $3 AND ($4::text IS NULL OR actor = $4)
                AND ($5::text IS NULL OR action = $5) AND ($6::text IS NULL OR target = $6)
              LIMIT 10001) AS counted
        """,
        partner_id,
        wanted.since,
        wanted.until,
        wanted.actor,
        wanted.action,
        wanted.target,
    )
    return found


async def find(scope: PartnerScope | PlatformScope, partner_id: str, seq: int) -> AuditEntry | None:
    """Return an entry of the partner's chain."""
    row = await scope.conn.fetchrow(
        """
        SELECT seq, at, actor, action, target, convert_from(entry, 'UTF8') AS entry, encode(hash, 'hex') AS hash
        FROM audit_log
        WHERE partner_id = $1 AND seq = $2
        """,
        partner_id,
        seq,
    )
    return AuditEntry(**row) if row else None


async def heads(scope: PartnerScope | PlatformScope, partner_id: str | None) -> list[Head]:
    """Return every chain's head, or one partner's, as one snapshot; entries without a head get an empty one."""
    rows = await scope.conn.fetch(
        """
        SELECT p.id AS partner_id, coalesce(h.size, 0) AS size,
               coalesce(h.hash, decode(repeat('00', 32), 'hex')) AS hash,
               (SELECT max(a.seq) FROM audit_log a WHERE a.partner_id = p.id) AS last_seq
        FROM partners p
        LEFT JOIN audit_heads h ON h.partner_id = p.id
        WHERE $1::text IS NULL OR p.id = $1
        ORDER BY p.id
        """,
        partner_id,
    )
    return [Head(**row) for row in rows]


async def links(scope: PartnerScope | PlatformScope, head: Head, first: int, limit: int) -> list[Link]:
    """Return entries of a chain below its head's size, in order from `first` on."""
    rows = await scope.conn.fetch(
        """
        SELECT seq, at, actor, action, target, entry, hash
        FROM audit_log
        WHERE partner_id = $1 AND seq >= $2 AND seq < $3
        ORDER BY seq
        LIMIT $4
        """,
        head.partner_id,
        first,
        head.size,
        limit,
    )
    return [Link(**row) for row in rows]
