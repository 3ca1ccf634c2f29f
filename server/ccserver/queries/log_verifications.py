"""How far the server verified each log by itself: read and written in platform scope, shown to the tenant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ccserver.scope import PlatformScope

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True)
class Pass:
    """A log that is being verified: its row's size, range and checkpoint, and the tree over what was verified."""

    site_id: str
    partner_id: str
    log_id: int
    origin: str
    public_key: bytes
    log_size: int
    log_range: bytes
    checkpoint: str
    size: int
    compact_range: bytes


@dataclass(frozen=True)
class Place:
    """A stored place: its leaf, and whether the payload that is stored there (if one is) hashes to it."""

    seq: int
    leaf: bytes
    is_hashed: bool


@dataclass(frozen=True)
class Fault:
    """A log whose stored entries are not what its receipt covers."""

    site_id: str
    origin: str
    fault: str


async def due(scope: PlatformScope) -> Pass | None:
    """Return the receipted log to go on with: a pass under way, one never begun, or the one that ended longest ago.

    A pass begins anew a day after the last one ended; None when nothing is due.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT l.site_id, l.partner_id, l.id AS log_id, l.origin, l.public_key, l.size AS log_size,
               l.compact_range AS log_range, l.checkpoint,
               CASE WHEN v.done_at IS NULL THEN coalesce(v.size, 0) ELSE 0 END AS size,
               CASE WHEN v.done_at IS NULL THEN coalesce(v.compact_range, '') ELSE '' END AS compact_range
        FROM evidence_logs l LEFT JOIN log_verifications v ON v.site_id = l.site_id AND v.log_id = l.id
        WHERE l.cosigned_at IS NOT NULL AND l.checkpoint IS NOT NULL AND l.size > 0
          AND (v.done_at IS NULL OR v.done_at < now() - interval '1 day')
        ORDER BY v.log_id IS NOT NULL AND v.done_at IS NULL DESC, v.done_at NULLS FIRST, l.site_id, l.id
        LIMIT 1
        """
    )
    return Pass(**row) if row else None


async def find(scope: PlatformScope, site_id: str, log_id: int) -> Pass | None:
    """Return a log with a checkpoint, to be verified from its start; None when there is none."""
    row = await scope.conn.fetchrow(
        """
        SELECT site_id, partner_id, id AS log_id, origin, public_key, size AS log_size, compact_range AS log_range,
               checkpoint, 0::bigint AS size, ''::bytea AS compact_range
        FROM evidence_logs
        WHERE site_id = $1 AND id = $2 AND checkpoint IS NOT NULL
        """,
        site_id,
        log_id,
    )
    return Pass(**row) if row else None


async def places(scope: PlatformScope, of: Pass, end: int) -> list[Place]:
    """Return what is stored from where the pass stands up to `end`; payloads are hashed where they lie."""
    rows = await scope.conn.fetch(
        """
        SELECT seq, bundle_hash AS leaf,
               payload IS NULL OR sha256('\\x00'::bytea || payload) = bundle_hash AS is_hashed
        FROM evidence_bundles
        WHERE site_id = $1 AND log_id = $2 AND seq >= $3 AND seq < $4
        ORDER BY seq
        """,
        of.site_id,
        of.log_id,
        of.size,
        end,
    )
    return [Place(**row) for row in rows]


async def store(scope: PlatformScope, of: Pass, size: int, compact: Sequence[bytes]) -> None:
    """Write how far a pass came; its fault, if the last pass found one, stays until this one ends."""
    await scope.conn.execute(
        """
        INSERT INTO log_verifications (site_id, partner_id, log_id, size, compact_range)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (site_id, log_id) DO UPDATE
        SET size = excluded.size, compact_range = excluded.compact_range, done_at = NULL
        """,
        of.site_id,
        of.partner_id,
        of.log_id,
        size,
        b"".join(compact),
    )


async def conclude(scope: PlatformScope, of: Pass, fault: str | None) -> None:
    """Write how a pass ended."""
    await scope.conn.execute(
        "UPDATE log_verifications SET done_at = now(), fault = $3 WHERE site_id = $1 AND log_id = $2",
        of.site_id,
        of.log_id,
        fault,
    )


async def faults(scope: PlatformScope, limit: int) -> list[Fault]:
    """Return the logs of all tenants whose last pass found a fault."""
    rows = await scope.conn.fetch(
        """
        SELECT v.site_id, l.origin, v.fault
        FROM log_verifications v JOIN evidence_logs l ON l.site_id = v.site_id AND l.id = v.log_id
        WHERE v.fault IS NOT NULL
        ORDER BY l.origin
        LIMIT $1
        """,
        limit,
    )
    return _faults(rows)


def _faults(rows: "list[asyncpg.Record]") -> list[Fault]:
    return [Fault(**row) for row in rows]
