"""Evidence logs: one row an epoch, locked while it grows. A receipt is made again from its row, byte for byte."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ccserver.listing import Page
from ccserver.scope import ApplianceScope, PlatformScope, SiteScope
from ccserver.witness import Log, Step

if TYPE_CHECKING:
    import asyncpg

COLUMNS = (
    "id", "epoch", "origin", "public_key", "size", "last_leaf", "compact_range", "checkpoint", "cosigned_at",
    "witness_name", "held_size", "held_root",
)  # fmt: skip


@dataclass(frozen=True)
class LogDetail:
    """A log as the API lists it: one epoch of an appliance, and how many entries of it are here.

    `verified_at` is when the server last held all of it against its receipt, `fault` what it found then.
    """

    id: int
    appliance_id: str
    epoch: str
    origin: str
    opened_at: datetime
    updated_at: datetime
    size: int
    cosigned_at: int | None
    verified_at: datetime | None
    fault: str | None


async def lock(scope: ApplianceScope, epoch: str, origin: str, public_key: bytes) -> tuple[Log, int]:
    """Return the epoch's row, made by that key if it is new and locked until the scope ends, and the witness's mark."""
    row = await _locked(scope, epoch)
    if row is None:
        await _begin(scope, epoch, origin, public_key)
        row = await _locked(scope, epoch)
    assert row is not None  # noqa: S101  inserted just above, and never deleted
    return _log(row), row["mark"]


async def _locked(scope: ApplianceScope, epoch: str) -> "asyncpg.Record | None":
    return await scope.conn.fetchrow(
        """
        SELECT l.id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
               held_size, held_root, l.generation >= m.generation AS is_proved, m.mark
        FROM evidence_logs l, witness_marks m
        WHERE site_id = $1 AND appliance_id = $2 AND epoch = $3
        FOR UPDATE OF l
        """,
        scope.site_id,
        scope.appliance_id,
        epoch,
    )


async def _begin(scope: ApplianceScope, epoch: str, origin: str, public_key: bytes) -> None:
    await scope.conn.execute(
        """
        INSERT INTO evidence_logs (site_id, partner_id, appliance_id, epoch, origin, public_key, generation)
        SELECT $1, $2, $3, $4, $5, $6, generation FROM witness_marks
        ON CONFLICT (site_id, appliance_id, epoch) DO NOTHING
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        epoch,
        origin,
        public_key,
    )


async def witnesses(scope: PlatformScope) -> list[str]:
    """Return the names of the keys by which stored receipts are."""
    rows = await scope.conn.fetch(
        "SELECT DISTINCT witness_name FROM evidence_logs WHERE witness_name IS NOT NULL ORDER BY witness_name"
    )
    return [row["witness_name"] for row in rows]


async def opened(scope: ApplianceScope) -> tuple[int, int]:
    """Return how many logs the appliance began within the last day, and ever."""
    row = await scope.conn.fetchrow(
        """
        SELECT count(*) FILTER (WHERE opened_at > now() - interval '1 day') AS today, count(*) AS ever
        FROM evidence_logs
        WHERE site_id = $1 AND appliance_id = $2
        """,
        scope.site_id,
        scope.appliance_id,
    )
    assert row is not None  # noqa: S101  an aggregate
    return row["today"], row["ever"]


async def find(scope: ApplianceScope, epoch: str) -> Log | None:
    """Return the epoch's row as it stands."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
               held_size, held_root
        FROM evidence_logs
        WHERE site_id = $1 AND appliance_id = $2 AND epoch = $3
        """,
        scope.site_id,
        scope.appliance_id,
        epoch,
    )
    return _log(row) if row else None


async def find_by_id(scope: SiteScope, log_id: int) -> Log | None:
    """Return a log of the site as it stands."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
               held_size, held_root
        FROM evidence_logs
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
    )
    return _log(row) if row else None


async def newest(scope: SiteScope, page: Page) -> list[LogDetail]:
    """Return a page of the site's logs, the last opened first."""
    rows = await scope.conn.fetch(
        """
        SELECT l.id, l.appliance_id, l.epoch, l.origin, l.opened_at, l.updated_at, l.size, l.cosigned_at,
               v.done_at AS verified_at, v.fault
        FROM evidence_logs l LEFT JOIN log_verifications v ON v.site_id = l.site_id AND v.log_id = l.id
        WHERE l.site_id = $1 AND l.partner_id = $2 AND (l.opened_at, l.id) < ($3, $4)
        ORDER BY l.opened_at DESC, l.id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.site_id,
        scope.partner_id,
        page.before,
        int(page.before_id) if page.before_id.isdecimal() else 2**62,
        page.fetched,
        page.offset,
    )
    return [LogDetail(**row) for row in rows]


async def count(scope: SiteScope) -> int:
    """Return how many logs the site has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM evidence_logs WHERE site_id = $1 AND partner_id = $2 LIMIT 10001) AS counted
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


async def list_of_appliance(scope: ApplianceScope) -> list[Log]:
    """Return the appliance's epochs, oldest first; the newest 200 of them."""
    rows = await scope.conn.fetch(
        """
        SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
               held_size, held_root
        FROM evidence_logs
        WHERE site_id = $1 AND appliance_id = $2
        ORDER BY id DESC
        LIMIT 200
        """,
        scope.site_id,
        scope.appliance_id,
    )
    return [_log(row) for row in reversed(rows)]


async def all_of_site(scope: SiteScope) -> list[Log]:
    """Return every log of the site, by appliance and epoch as text."""
    rows = await scope.conn.fetch(
        """
        SELECT id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
               held_size, held_root
        FROM evidence_logs
        WHERE site_id = $1 AND partner_id = $2
        ORDER BY appliance_id COLLATE "C", epoch COLLATE "C"
        """,
        scope.site_id,
        scope.partner_id,
    )
    return [_log(row) for row in rows]


async def advance(scope: ApplianceScope, epoch: str, step: Step, cosigned_at: int | None, witness: str | None) -> Log:
    """Store what a step makes of the log and return its row; the last two are None while nothing may be cosigned."""
    row = await scope.conn.fetchrow(
        """
        UPDATE evidence_logs
        SET size = $4, last_leaf = $5, compact_range = $6, checkpoint = $7, cosigned_at = $8, witness_name = $9,
            held_size = $10, held_root = $11, updated_at = now(),
            generation = (SELECT m.generation FROM witness_marks m)
        WHERE site_id = $1 AND appliance_id = $2 AND epoch = $3
        RETURNING id, epoch, origin, public_key, size, last_leaf, compact_range, checkpoint, cosigned_at, witness_name,
                  held_size, held_root
        """,
        scope.site_id,
        scope.appliance_id,
        epoch,
        step.size,
        step.lines[-1].leaf,
        b"".join(step.compact),
        step.checkpoint,
        cosigned_at,
        witness,
        step.held.size if step.held else None,
        step.held.root if step.held else None,
    )
    assert row is not None  # noqa: S101  the row is locked by this transaction
    return _log(row)


def log_of(found: Sequence[Any]) -> Log:
    """Return the log of a row whose columns stand in the order of `COLUMNS`."""
    values = dict(zip(COLUMNS, found, strict=True))
    compact = values.pop("compact_range")
    return Log(**values, compact=[compact[start : start + 32] for start in range(0, len(compact), 32)])


def _log(row: "asyncpg.Record") -> Log:
    return replace(log_of([row[name] for name in COLUMNS]), is_proved=row.get("is_proved", True))
