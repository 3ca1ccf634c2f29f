"""Evidence bundles: payload bytes as they came, every other column derived from them. Rows are only ever added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from ccserver import compliance
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope
from ccserver.witness import Line, Log


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


async def insert(scope: ApplianceScope, log_id: int, lines: Sequence[Line]) -> None:
    """Add a log's new lines in one statement."""
    entries = [line.entry for line in lines]
    await scope.conn.execute(
        """
        INSERT INTO evidence_bundles (
            site_id, partner_id, appliance_id, log_id, seq, bundle_id, bundle_type, bundle_hash, payload,
            missing_reason, flag, host_id, check_id, hipaa_controls, clock, generated_at)
        SELECT $1, $2, $3, $4, line.seq, line.bundle_id, line.bundle_type, line.bundle_hash, line.payload,
               line.missing_reason, line.flag, line.host_id, line.check_id, line.hipaa_controls::jsonb, line.clock,
               to_timestamp(line.at_ms / 1000.0)
        FROM unnest($5::bigint[], $6::text[], $7::text[], $8::bytea[], $9::bytea[], $10::text[], $11::text[],
                    $12::text[], $13::text[], $14::text[], $15::text[], $16::float8[])
             AS line (seq, bundle_id, bundle_type, bundle_hash, payload, missing_reason, flag, host_id, check_id,
                      hipaa_controls, clock, at_ms)
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        log_id,
        [line.seq for line in lines],
        [entry.bundle_id if entry else None for entry in entries],
        [entry.kind if entry else None for entry in entries],
        [line.leaf for line in lines],
        [entry.payload if entry else None for entry in entries],
        [line.missing_reason for line in lines],
        [compliance.flag_of(entry) if entry else None for entry in entries],
        [compliance.host_of(entry) if entry else None for entry in entries],
        [compliance.check_of(entry) if entry else None for entry in entries],
        [_json(compliance.controls_of(entry)) if entry else None for entry in entries],
        [entry.clock if entry else None for entry in entries],
        [min(entry.at, 4_102_444_800_000) if entry else None for entry in entries],
    )


async def newest_of_logs(
    scope: PartnerScope, logs: Mapping[tuple[str, int], Log], limit: int
) -> dict[str, list[Bundle]]:
    """Return the newest `limit` bundles of each site among the last of these logs (by site and log id), newest first.

    Each log is entered by its last places: asked for the newest of a site, the planner reads the whole history, as it
    expects row security to leave one row. The first place is computed here, because below row security an index takes
    comparisons only (subtraction is not leakproof).
    """
    rows = await scope.conn.fetch(
        """
        SELECT n.site_id, n.appliance_id, n.log_id, n.seq, n.bundle_type, n.bundle_hash, n.host_id, n.check_id,
               n.hipaa_controls, n.clock, n.generated_at, n.received_at, n.flag, n.missing_reason
        FROM (
            SELECT b.*, row_number() OVER (PARTITION BY b.site_id ORDER BY b.id DESC) AS place
            FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS log (site_id, id, first, size)
            CROSS JOIN LATERAL (
                SELECT site_id, id, appliance_id, log_id, seq, bundle_type, bundle_hash, host_id, check_id,
                       hipaa_controls, clock, generated_at, received_at, flag, missing_reason
                FROM evidence_bundles
                WHERE partner_id = $1 AND site_id = log.site_id AND log_id = log.id
                  AND seq >= log.first AND seq < log.size
            ) b
        ) n
        WHERE n.place <= $6
        ORDER BY n.site_id, n.place
        """,
        scope.partner_id,
        [site_id for site_id, _ in logs],
        [log_id for _, log_id in logs],
        [log.size - limit for log in logs.values()],
        [log.size for log in logs.values()],
        limit,
    )
    found: dict[str, list[Bundle]] = {}
    for row in rows:
        bundle = Bundle(**{**row, "hipaa_controls": orjson.loads(row["hipaa_controls"] or "[]")})
        found.setdefault(bundle.site_id, []).append(bundle)
    return found


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
