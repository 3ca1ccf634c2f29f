"""Redactions: a payload that two persons agreed to erase. Its place, leaf and kind stay."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.scope import PlatformScope, SiteScope


@dataclass(frozen=True)
class Redaction:
    """A redaction; it waits for another person until it is approved, and for its appliance until that erased too."""

    id: str
    site_id: str
    origin: str
    seq: int
    leaf: str
    reason: str
    requested_by: str
    requested_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    appliance_erased_at: datetime | None


@dataclass(frozen=True)
class Target:
    """A stored entry that has a payload: its log, place, leaf and kind."""

    log_id: int
    seq: int
    leaf: bytes
    kind: str | None


@dataclass(frozen=True)
class Copy:
    """Another place that holds the same entry: it was carried into a later log."""

    origin: str
    seq: int


@dataclass(frozen=True)
class Waiting:
    """An approved redaction that waits for its appliance."""

    partner_id: str
    site_id: str
    id: str


@dataclass(frozen=True)
class ToErase:
    """What an order erases on an appliance: the epoch, the place and the leaf (hex); and the two persons."""

    appliance_id: str
    epoch: str
    seq: int
    leaf: str
    requested_by: str
    approved_by: str


async def find_target(scope: SiteScope, origin: str, seq: int) -> Target | None:
    """Return an entry of the site that has a payload; None when there is none, or it has none any more."""
    row = await scope.conn.fetchrow(
        """
        SELECT b.log_id, b.seq, b.bundle_hash AS leaf, b.bundle_type AS kind
        FROM evidence_logs l JOIN evidence_bundles b ON b.site_id = l.site_id AND b.log_id = l.id
        WHERE l.site_id = $1 AND l.partner_id = $2 AND l.origin = $3 AND b.seq = $4 AND b.payload IS NOT NULL
        """,
        scope.site_id,
        scope.partner_id,
        origin,
        seq,
    )
    return Target(**row) if row else None


async def copies(scope: SiteScope, leaf: bytes) -> list[Copy]:
    """Return where else an entry lies whole, carried into a later log: at most 100."""
    rows = await scope.conn.fetch(
        """
        SELECT l.origin, b.seq
        FROM evidence_bundles b JOIN evidence_logs l ON l.site_id = b.site_id AND l.id = b.log_id
        WHERE b.site_id = $1 AND b.partner_id = $2 AND b.bundle_type = 'recovered' AND b.carried_hash = $3
          AND b.payload IS NOT NULL
        ORDER BY b.log_id, b.seq
        LIMIT 100
        """,
        scope.site_id,
        scope.partner_id,
        leaf,
    )
    return [Copy(**row) for row in rows]


async def insert(scope: SiteScope, redaction_id: str, target: Target, reason: str, requested_by: str) -> bool:
    """Ask for a redaction; False when it was asked for already."""
    done = await scope.conn.execute(
        """
        INSERT INTO redactions (site_id, partner_id, id, log_id, seq, leaf, reason, requested_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (site_id, log_id, seq) DO NOTHING
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
        target.log_id,
        target.seq,
        target.leaf,
        reason,
        requested_by,
    )
    return done == "INSERT 0 1"


async def find(scope: SiteScope, redaction_id: str) -> Redaction | None:
    """Return a redaction of the site."""
    row = await scope.conn.fetchrow(
        """
        SELECT r.id, r.site_id, l.origin, r.seq, encode(r.leaf, 'hex') AS leaf, r.reason, r.requested_by,
               r.requested_at, r.approved_by, r.approved_at, r.appliance_erased_at
        FROM redactions r JOIN evidence_logs l ON l.site_id = r.site_id AND l.id = r.log_id
        WHERE r.site_id = $1 AND r.partner_id = $2 AND r.id = $3
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
    )
    return Redaction(**row) if row else None


async def newest(scope: SiteScope, limit: int) -> list[Redaction]:
    """Return the site's redactions, those that still wait too, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT r.id, r.site_id, l.origin, r.seq, encode(r.leaf, 'hex') AS leaf, r.reason, r.requested_by,
               r.requested_at, r.approved_by, r.approved_at, r.appliance_erased_at
        FROM redactions r JOIN evidence_logs l ON l.site_id = r.site_id AND l.id = r.log_id
        WHERE r.site_id = $1 AND r.partner_id = $2
        ORDER BY r.requested_at DESC, r.id DESC
        LIMIT $3
        """,
        scope.site_id,
        scope.partner_id,
        limit,
    )
    return [Redaction(**row) for row in rows]


async def approve(scope: SiteScope, redaction_id: str, approved_by: str) -> bool:
    """Let a redaction be done; False when it does not wait for that."""
    done = await scope.conn.execute(
        """
        UPDATE redactions SET approved_by = $4, approved_at = now()
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND approved_by IS NULL
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
        approved_by,
    )
    return done == "UPDATE 1"


async def erase(scope: SiteScope, redaction_id: str) -> bool:
    """Let the payload of an approved redaction go, with what was derived from it; False when it is gone already."""
    done = await scope.conn.execute(
        """
        UPDATE evidence_bundles b
        SET payload = NULL, missing_reason = 'erased', host_id = NULL, check_id = NULL, hipaa_controls = NULL
        FROM redactions r
        WHERE r.site_id = $1 AND r.partner_id = $2 AND r.id = $3 AND r.approved_by IS NOT NULL
          AND b.site_id = r.site_id AND b.log_id = r.log_id AND b.seq = r.seq AND b.payload IS NOT NULL
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
    )
    return done == "UPDATE 1"


async def forget_state(scope: SiteScope, redaction_id: str) -> None:
    """Erase the words of the check's latest state where it came from the erased entry; the status stays."""
    await scope.conn.execute(
        """
        UPDATE check_states s SET reason = 'erased'
        FROM redactions r JOIN evidence_logs l ON l.site_id = r.site_id AND l.id = r.log_id
        WHERE r.site_id = $1 AND r.partner_id = $2 AND r.id = $3
          AND s.site_id = l.site_id AND s.appliance_id = l.appliance_id AND s.seq = r.seq
          AND s.epoch_number = split_part(l.epoch, '-', 1)::bigint
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
    )


async def to_follow(scope: PlatformScope, runbook_id: str, limit: int) -> list[Waiting]:
    """Return the redactions whose appliance said that it erased, or has no order to erase that is not over."""
    rows = await scope.conn.fetch(
        """
        SELECT r.partner_id, r.site_id, r.id
        FROM redactions r
        JOIN evidence_logs l ON l.site_id = r.site_id AND l.id = r.log_id
        JOIN appliances a ON a.site_id = l.site_id AND a.id = l.appliance_id AND a.revoked_at IS NULL
        WHERE r.approved_at IS NOT NULL AND r.appliance_erased_at IS NULL
          AND NOT EXISTS (
            SELECT FROM orders o
            WHERE o.site_id = r.site_id AND o.appliance_id = l.appliance_id AND o.runbook_id = $1
              AND o.parameters ->> 'redaction' = r.id AND o.status <> 'succeeded' AND o.expires_at > now())
        ORDER BY r.approved_at, r.id
        LIMIT $2
        """,
        runbook_id,
        limit,
    )
    return [Waiting(**row) for row in rows]


async def settle(scope: SiteScope, redaction_id: str, runbook_id: str) -> bool:
    """Write that the appliance erased its payload too, once its order says so; False when it does not yet."""
    done = await scope.conn.execute(
        """
        UPDATE redactions r SET appliance_erased_at = o.finished_at
        FROM evidence_logs l, orders o
        WHERE r.site_id = $1 AND r.partner_id = $2 AND r.id = $3
          AND r.approved_at IS NOT NULL AND r.appliance_erased_at IS NULL
          AND l.site_id = r.site_id AND l.id = r.log_id
          AND o.site_id = r.site_id AND o.appliance_id = l.appliance_id AND o.runbook_id = $4
          AND o.parameters ->> 'redaction' = r.id AND o.status = 'succeeded'
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
        runbook_id,
    )
    return done == "UPDATE 1"


async def lock_to_erase(scope: SiteScope, redaction_id: str, runbook_id: str) -> ToErase | None:
    """Return what the next order erases, the redaction held until the transaction ends; None while none is due."""
    row = await scope.conn.fetchrow(
        """
        SELECT l.appliance_id, l.epoch, r.seq, encode(r.leaf, 'hex') AS leaf, r.requested_by, r.approved_by
        FROM redactions r
        JOIN evidence_logs l ON l.site_id = r.site_id AND l.id = r.log_id
        WHERE r.site_id = $1 AND r.partner_id = $2 AND r.id = $3
          AND r.approved_at IS NOT NULL AND r.appliance_erased_at IS NULL
        FOR UPDATE OF r
        """,
        scope.site_id,
        scope.partner_id,
        redaction_id,
    )
    if row is None or await _is_ordered(scope, redaction_id, runbook_id):
        return None
    return ToErase(**row)


async def _is_ordered(scope: SiteScope, redaction_id: str, runbook_id: str) -> bool:
    found: bool = await scope.conn.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM orders
            WHERE site_id = $1 AND partner_id = $2 AND runbook_id = $3 AND parameters ->> 'redaction' = $4
              AND (status = 'succeeded' OR expires_at > now()))
        """,
        scope.site_id,
        scope.partner_id,
        runbook_id,
        redaction_id,
    )
    return found
