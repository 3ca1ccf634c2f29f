"""Evidence bundles: payload bytes as they came, every other column derived from them.

Rows are only ever added; a payload that was withheld may still take its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver import compliance
from ccserver.deriving import Row
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope
from ccshared.entries import Entry


@dataclass(frozen=True)
class Naming:
    """An entry of an appliance's log that names an incident or an order: what was done, who was asked, how it ended."""

    kind: str
    log_id: int
    origin: str
    seq: int
    leaf: bytes
    received_at: datetime


@dataclass(frozen=True)
class Bundle:
    """A bundle as lists show it; `bundle_hash` is the 32-byte leaf, `generated_at` None where only a leaf is kept."""

    site_id: str
    appliance_id: str
    log_id: int
    seq: int
    bundle_type: str | None
    bundle_hash: bytes
    host_id: str | None
    check_id: str | None
    hipaa_controls: list[str]
    clock: str | None
    generated_at: datetime | None
    received_at: datetime
    flag: str | None
    missing_reason: str | None


@dataclass(frozen=True)
class Flagged:
    """An entry that is stored but not understood, or that another of the same id came before; `id` orders them.

    `bundle_hash` is the leaf as 64 hex.
    """

    id: int
    site_id: str
    appliance_id: str
    epoch: str
    seq: int
    bundle_id: str | None
    bundle_type: str | None
    bundle_hash: str
    flag: str
    received_at: datetime


@dataclass(frozen=True)
class Stored:
    """What is stored at a place of a log: its 32-byte leaf, and the payload or the reason why there is none."""

    seq: int
    leaf: bytes
    payload: bytes | None
    missing_reason: str | None


@dataclass(frozen=True)
class BundleDetail:
    """An entry of a log as the API shows it; `bundle_hash` is the leaf as 64 hex, `missing_reason` why no payload."""

    appliance_id: str
    log_id: int
    seq: int
    bundle_id: str | None
    bundle_type: str | None
    bundle_hash: str
    host_id: str | None
    check_id: str | None
    hipaa_controls: list[str]
    clock: str | None
    generated_at: datetime | None
    received_at: datetime
    flag: str | None
    missing_reason: str | None


async def leaves(scope: ApplianceScope, log_id: int, first: int, end: int) -> list[bytes]:
    """Return the stored leaves of places `first` up to `end`, which is not among them."""
    rows = await scope.conn.fetch(
        """
        SELECT bundle_hash
        FROM evidence_bundles
        WHERE site_id = $1 AND log_id = $2 AND seq >= $3 AND seq < $4
        ORDER BY seq
        """,
        scope.site_id,
        log_id,
        first,
        end,
    )
    return [row["bundle_hash"] for row in rows]


async def counted(scope: ApplianceScope, bundle_ids: Sequence[str]) -> dict[str, bytes]:
    """Return, of entries that were carried over with these bundle ids, the leaf that the first of each counts as."""
    rows = await scope.conn.fetch(
        """
        SELECT DISTINCT ON (bundle_id) bundle_id, carried_hash
        FROM evidence_bundles
        WHERE site_id = $1 AND bundle_type = 'recovered' AND bundle_id = ANY ($2) AND carried_hash IS NOT NULL
        ORDER BY bundle_id, id
        """,
        scope.site_id,
        bundle_ids,
    )
    return {row["bundle_id"]: row["carried_hash"] for row in rows}


async def at_places(scope: ApplianceScope, carried: Sequence[Entry]) -> dict[str, bytes]:
    """Return, by bundle id, the leaves of those entries that arrived at their own place, in their own log, before."""
    rows = await scope.conn.fetch(
        """
        SELECT b.bundle_id, b.bundle_hash
        FROM unnest($3::text[], $4::bigint[], $5::text[]) AS old (origin, seq, bundle_id)
        JOIN evidence_logs l ON l.site_id = $1 AND l.appliance_id = $2 AND l.origin = old.origin
        JOIN evidence_bundles b ON b.site_id = $1 AND b.log_id = l.id AND b.seq = old.seq
        WHERE b.bundle_id = old.bundle_id
        """,
        scope.site_id,
        scope.appliance_id,
        [entry.log for entry in carried],
        [entry.seq for entry in carried],
        [entry.bundle_id for entry in carried],
    )
    return {row["bundle_id"]: row["bundle_hash"] for row in rows}


async def insert(scope: ApplianceScope, log_id: int, rows: Sequence[Row]) -> None:
    """Add a log's new lines in one statement."""
    entries = [row.line.entry for row in rows]
    await scope.conn.execute(
        """
        INSERT INTO evidence_bundles (
            site_id, partner_id, appliance_id, log_id, seq, bundle_id, bundle_type, bundle_hash, payload,
            missing_reason, flag, host_id, check_id, hipaa_controls, clock, generated_at, carried_hash)
        SELECT $1, $2, $3, $4, line.seq, line.bundle_id, line.bundle_type, line.bundle_hash, line.payload,
               line.missing_reason, line.flag, line.host_id, line.check_id, line.hipaa_controls::jsonb, line.clock,
               to_timestamp(line.at_ms / 1000.0), line.carried_hash
        FROM unnest($5::bigint[], $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::text[], $11::text[],
                    $12::text[], $13::text[], $14::text[], $15::text[], $16::float8[], $17::bytea[])
             AS line (seq, bundle_id, bundle_type, bundle_hash, payload, missing_reason, flag, host_id, check_id,
                      hipaa_controls, clock, at_ms, carried_hash)
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        log_id,
        [row.line.seq for row in rows],
        [entry.bundle_id if entry else None for entry in entries],
        [entry.kind if entry else None for entry in entries],
        [row.line.leaf for row in rows],
        [entry.payload if entry else None for entry in entries],
        _or_none([row.line.missing_reason for row in rows]),
        _or_none([row.flag for row in rows]),
        [compliance.host_of(row.source) if row.source else None for row in rows],
        [compliance.check_of(row.source) if row.source else None for row in rows],
        [_json(compliance.controls_of(row.source)) if row.source else None for row in rows],
        [entry.clock if entry else None for entry in entries],
        [_at_ms(row) for row in rows],
        _or_none([row.carried_hash for row in rows]),
    )


def _or_none(column: list[Any]) -> list[Any]:
    """Return nothing for a column of nulls: unnest fills up what is shorter, and each element costs asyncpg 1 µs."""
    return [] if column.count(None) == len(column) else column


async def missing(scope: ApplianceScope, log_id: int, seq: int) -> str | None:
    """Return why there is no payload at a place of a log; None where there is one, or no such place."""
    reason: str | None = await scope.conn.fetchval(
        "SELECT missing_reason FROM evidence_bundles WHERE site_id = $1 AND log_id = $2 AND seq = $3",
        scope.site_id,
        log_id,
        seq,
    )
    return reason


async def count_payloads(scope: SiteScope) -> int:
    """Return how many of the site's entries have their payload here."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*) FROM evidence_bundles WHERE site_id = $1 AND partner_id = $2 AND payload IS NOT NULL
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


async def kind_at(scope: ApplianceScope, log_id: int, seq: int) -> str | None:
    """Return the kind of the entry at a place of a log; None where there is none, or only its leaf."""
    kind: str | None = await scope.conn.fetchval(
        "SELECT bundle_type FROM evidence_bundles WHERE site_id = $1 AND log_id = $2 AND seq = $3",
        scope.site_id,
        log_id,
        seq,
    )
    return kind


async def succession(scope: ApplianceScope, key: bytes, after: str) -> tuple[str, bytes] | None:
    """Return the receipted log by that key, begun after the epoch `after`, that ended by naming another key, and the
    payload that names it; None where there is none.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT l.epoch, b.payload
        FROM evidence_logs l JOIN evidence_bundles b ON b.site_id = l.site_id AND b.log_id = l.id AND b.seq = l.size - 1
        WHERE l.site_id = $1 AND l.appliance_id = $2 AND l.public_key = $3 AND l.held_size IS NULL
          AND split_part(l.epoch, '-', 1)::bigint > split_part($4, '-', 1)::bigint
          AND b.bundle_type = 'key_rotation' AND b.payload IS NOT NULL AND b.carried_hash IS NULL
        ORDER BY split_part(l.epoch, '-', 1)::bigint DESC
        LIMIT 1
        """,
        scope.site_id,
        scope.appliance_id,
        key,
        after,
    )
    return (row["epoch"], row["payload"]) if row else None


async def fill(scope: ApplianceScope, log_id: int, row: Row) -> None:
    """Put a payload that was withheld in its place, with all that derives from it."""
    entry = row.line.entry
    assert entry is not None  # noqa: S101  it is the payload that arrived
    await scope.conn.execute(
        """
        UPDATE evidence_bundles
        SET payload = $4, missing_reason = NULL, bundle_id = $5, bundle_type = $6, flag = $7, host_id = $8,
            check_id = $9, hipaa_controls = $10::jsonb, clock = $11, generated_at = to_timestamp($12::float8 / 1000),
            carried_hash = $13
        WHERE site_id = $1 AND log_id = $2 AND seq = $3 AND missing_reason = 'withheld'
        """,
        scope.site_id,
        log_id,
        row.line.seq,
        entry.payload,
        entry.bundle_id,
        entry.kind,
        row.flag,
        compliance.host_of(row.source) if row.source else None,
        compliance.check_of(row.source) if row.source else None,
        _json(compliance.controls_of(row.source)) if row.source else None,
        entry.clock,
        _at_ms(row),
        row.carried_hash,
    )


async def list_flagged(scope: PartnerScope, limit: int, before: int | None = None) -> list[Flagged]:
    """Return the partner's entries that this server does not understand, and forks, newest first.

    `before` is the id of the last one of the page before.
    """
    rows = await scope.conn.fetch(
        """
        SELECT b.id, b.site_id, b.appliance_id, l.epoch, b.seq, b.bundle_id, b.bundle_type,
               encode(b.bundle_hash, 'hex') AS bundle_hash, b.flag, b.received_at
        FROM evidence_bundles b JOIN evidence_logs l ON l.site_id = b.site_id AND l.id = b.log_id
        WHERE b.partner_id = $1 AND b.flag IS NOT NULL AND b.id < coalesce($2, 9223372036854775807)
        ORDER BY b.id DESC
        LIMIT $3
        """,
        scope.partner_id,
        before,
        limit,
    )
    return [Flagged(**row) for row in rows]


def _at_ms(row: Row) -> int | None:
    """When it happened, by the entry that counts; the far future cut to what a timestamp can hold."""
    entry = row.source or row.line.entry
    return min(entry.at, 4_102_444_800_000) if entry else None


async def page_of_log(scope: SiteScope, log_id: int, first: int, end: int) -> list[BundleDetail]:
    """Return the entries of places `first` up to `end`, which is not among them, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT appliance_id, log_id, seq, bundle_id, bundle_type, encode(bundle_hash, 'hex') AS bundle_hash, host_id,
               check_id, hipaa_controls, clock, generated_at, received_at, flag, missing_reason
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq >= $4 AND seq < $5
        ORDER BY seq DESC
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        first,
        end,
    )
    return [BundleDetail(**{**row, "hipaa_controls": orjson.loads(row["hipaa_controls"] or "[]")}) for row in rows]


async def stored(scope: SiteScope, log_id: int, span: tuple[int, int], shown: tuple[int, int]) -> list[Stored]:
    """Return what is stored at the places of `span`, in order; payloads only of the places of `shown`.

    Both are (first, end), and the end is not among them.
    """
    rows = await scope.conn.fetch(
        """
        SELECT seq, bundle_hash AS leaf, CASE WHEN seq >= $6 AND seq < $7 THEN payload END AS payload, missing_reason
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq >= $4 AND seq < $5
        ORDER BY seq
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        *span,
        *shown,
    )
    return [Stored(**row) for row in rows]


async def in_time(
    scope: SiteScope, log_id: int, span: tuple[int, int], since: datetime | None, until: datetime | None
) -> tuple[int | None, int | None]:
    """Return, of the places of `span` whose own time is known, the first from `since` on and the last before `until`.

    A carried entry is shown by the time of the old one, so it does not count, nor does a bare leaf.
    """
    row = await scope.conn.fetchrow(
        """
        SELECT min(seq) FILTER (WHERE $6::timestamptz IS NULL OR generated_at >= $6) AS first,
               max(seq) FILTER (WHERE $7::timestamptz IS NULL OR generated_at < $7) AS last
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq >= $4 AND seq < $5
          AND payload IS NOT NULL AND bundle_type <> 'recovered'
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        *span,
        since,
        until,
    )
    return (row["first"], row["last"]) if row else (None, None)


async def neighbour(scope: SiteScope, log_id: int, span: tuple[int, int], last: bool) -> int | None:
    """Return the last (or the first) place of `span` that has a payload with a time of its own."""
    found: int | None = await scope.conn.fetchval(
        """
        SELECT CASE WHEN $6 THEN max(seq) ELSE min(seq) END
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq >= $4 AND seq < $5
          AND payload IS NOT NULL AND bundle_type <> 'recovered'
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        *span,
        last,
    )
    return found


async def payload(scope: SiteScope, log_id: int, seq: int) -> bytes | None:
    """Return an entry's bytes as they came; None when only its leaf is kept, or there is no such entry."""
    found: bytes | None = await scope.conn.fetchval(
        """
        SELECT payload
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq = $4
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        seq,
    )
    return found


async def leaves_of_log(scope: SiteScope, log_id: int, size: int) -> list[bytes]:
    """Return a log's first `size` leaves, each 32 bytes; they come as one value, which costs a tenth of rows."""
    joined: bytes | None = await scope.conn.fetchval(
        """
        SELECT string_agg(bundle_hash, ''::bytea ORDER BY seq)
        FROM evidence_bundles
        WHERE site_id = $1 AND partner_id = $2 AND log_id = $3 AND seq >= 0 AND seq < $4
        """,
        scope.site_id,
        scope.partner_id,
        log_id,
        size,
    )
    text = joined or b""
    return [text[start : start + 32] for start in range(0, len(text), 32)]


def _json(value: list[str] | None) -> str | None:
    return orjson.dumps(value).decode() if value is not None else None


@dataclass(frozen=True)
class LatestRun:
    """The entry that the newest state of a check comes from, as it came."""

    check_id: str
    host_id: str
    received_at: datetime
    payload: bytes


async def latest_runs(scope: SiteScope, appliance_id: str, check_ids: Sequence[str]) -> list[LatestRun]:
    """Return the newest receipted run of some checks of an appliance, one of each, found by its place."""
    rows = await scope.conn.fetch(
        """
        SELECT DISTINCT ON (c.check_id) c.check_id, c.host_id, b.received_at, b.payload
        FROM check_states c
        JOIN evidence_logs l ON l.site_id = c.site_id AND l.appliance_id = c.appliance_id
                            AND split_part(l.epoch, '-', 1) = c.epoch_number::text
        JOIN evidence_bundles b ON b.site_id = c.site_id AND b.log_id = l.id AND b.seq = c.seq
                               AND b.check_id = c.check_id AND b.host_id = c.host_id
        WHERE c.site_id = $1 AND c.partner_id = $2 AND c.appliance_id = $3 AND c.check_id = ANY ($4)
          AND b.payload IS NOT NULL AND b.bundle_type = 'check_run'
        ORDER BY c.check_id, b.received_at DESC, b.id DESC
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        check_ids,
    )
    return [LatestRun(**row) for row in rows]
