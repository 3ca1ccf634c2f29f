"""Appliances: the boxes that run the agent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from ccserver.listing import Page
from ccserver.scope import ApplianceScope, CredentialScope, PartnerScope, PlatformScope, SiteScope
from ccserver.tokens import Device
from ccshared.messages import Checkin

if TYPE_CHECKING:
    from ccserver.scope import PooledConnection


@dataclass(frozen=True)
class Known:
    """What is known of an appliance before its scope is open: whose it is and the 32-byte key it is registered with."""

    site_id: str
    partner_id: str
    public_key: bytes


@dataclass(frozen=True)
class Appliance:
    """An appliance as lists show it; times are None until it first checked in."""

    site_id: str
    id: str
    hostname: str
    version: str | None
    last_checkin: datetime | None
    clock: str | None
    clock_offset_ms: int | None
    epoch: str | None
    waiting: int | None
    oldest_at: datetime | None


@dataclass(frozen=True)
class Silent:
    """An appliance that checks in but whose evidence gets no receipts; None where it never got one."""

    site_id: str
    id: str
    hostname: str
    waiting: int | None
    last_receipt_at: datetime | None


@dataclass(frozen=True)
class ApplianceDetail:
    """An appliance as the API reads it; `revoked_at` is None while it may call.

    `name` is what a person called it, `alarms` what it is alarmed by itself, a word each; `revision` counts renamings.
    """

    site_id: str
    id: str
    name: str | None
    hostname: str
    enrolled_at: datetime
    revoked_at: datetime | None
    ip_address: IPv4Address | IPv6Address | None
    version: str | None
    last_checkin: datetime | None
    clock: str | None
    clock_offset_ms: int | None
    epoch: str | None
    log_size: int | None
    waiting: int | None
    waiting_bytes: int | None
    oldest_at: datetime | None
    alarms: list[str]
    revision: int


@dataclass(frozen=True)
class CheckedIn:
    """What a check-in learns: entries the server holds of the epoch named, and whether orders wait.

    `policy` is the version of the appliance's policy, None before it has one; `policy_due`: it may be another by now.
    """

    head_size: int
    orders_waiting: bool
    policy: int | None
    policy_due: bool


@dataclass(frozen=True)
class HeldPolicy:
    """Which policy an appliance has: its version, 0 before the first; `basis` is None when it may be another now."""

    version: int
    basis: str | None


@dataclass(frozen=True)
class Reporting:
    """What a check-in says of its request: where from, how far the clock is off, what policies are made from here."""

    address: IPv4Address | IPv6Address | None
    offset_ms: int
    basis: str


async def find_by_credential(scope: CredentialScope, appliance_id: str) -> Known | None:
    """Return the appliance that presented its id, unless it was revoked."""
    row = await scope.conn.fetchrow(
        "SELECT site_id, partner_id, public_key FROM appliances WHERE id = $1 AND revoked_at IS NULL", appliance_id
    )
    return Known(**row) if row else None


async def insert(scope: SiteScope, appliance_id: str, hostname: str, public_key: bytes, version: str) -> None:
    """Add an appliance that has just proved its key."""
    await scope.conn.execute(
        """
        INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, version)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        hostname,
        public_key,
        version,
    )


async def call(scope: SiteScope, appliance_id: str, name: str) -> None:
    """Give an appliance that has just enrolled the name that its code brings."""
    await scope.conn.execute(
        "UPDATE appliances SET name = $3 WHERE site_id = $1 AND id = $2", scope.site_id, appliance_id, name
    )


async def is_in_service(scope: SiteScope, appliance_id: str) -> bool:
    """Return whether the site has such an appliance and it is not revoked."""
    found: bool = await scope.conn.fetchval(
        "SELECT EXISTS (SELECT FROM appliances WHERE site_id = $1 AND id = $2 AND revoked_at IS NULL)",
        scope.site_id,
        appliance_id,
    )
    return found


async def reinstall(scope: SiteScope, appliance_id: str, hostname: str, public_key: bytes, version: str) -> bool:
    """Give an appliance the key of the device that takes its place; return False when it is not in service any more."""
    done = await scope.conn.execute(
        """
        UPDATE appliances SET public_key = $3, key_since = now(), hostname = $4, version = $5
        WHERE site_id = $1 AND id = $2 AND revoked_at IS NULL
        """,
        scope.site_id,
        appliance_id,
        public_key,
        hostname,
        version,
    )
    return done == "UPDATE 1"


async def change_key(scope: ApplianceScope, public_key: bytes) -> None:
    """Register the key that the appliance's own key named."""
    await scope.conn.execute(
        "UPDATE appliances SET public_key = $3, key_since = now() WHERE site_id = $1 AND id = $2",
        scope.site_id,
        scope.appliance_id,
        public_key,
    )


async def list_silent(scope: PartnerScope, now: datetime, limit: int) -> list[Silent]:
    """Return appliances that check in while no receipt was given for 48 h, longest first.

    An entry is due every 24 h at the latest, so either their evidence does not arrive or it cannot be receipted.
    """
    rows = await scope.conn.fetch(
        """
        SELECT a.site_id, a.id, a.hostname, a.waiting, l.last_receipt_at
        FROM appliances a
        LEFT JOIN LATERAL (
            SELECT max(to_timestamp(cosigned_at)) AS last_receipt_at
            FROM evidence_logs
            WHERE partner_id = $1 AND site_id = a.site_id AND appliance_id = a.id
        ) l ON true
        WHERE a.partner_id = $1 AND a.revoked_at IS NULL AND a.last_checkin > $2::timestamptz - interval '15 minutes'
          AND coalesce(l.last_receipt_at, a.enrolled_at) < $2::timestamptz - interval '48 hours'
        ORDER BY coalesce(l.last_receipt_at, a.enrolled_at), a.id
        LIMIT $3
        """,
        scope.partner_id,
        now,
        limit,
    )
    return [Silent(**row) for row in rows]


async def public_key(scope: SiteScope, appliance_id: str) -> bytes | None:
    """Return the 32-byte key that an appliance of this site is registered with."""
    key: bytes | None = await scope.conn.fetchval(
        "SELECT public_key FROM appliances WHERE site_id = $1 AND id = $2", scope.site_id, appliance_id
    )
    return key


async def check_in(conn: "PooledConnection", device: Device, said: Checkin, reporting: Reporting) -> CheckedIn | None:
    """Write an appliance's liveness in one round trip; None when it is unknown or revoked.

    The function sets its own scope, so this query takes a bare connection.
    """
    row = await conn.fetchrow(
        """
        SELECT head_size, orders_waiting, policy, policy_due
        FROM cc_checkin($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, to_timestamp($12::float8 / 1000), $13::text[],
                        $14)
        """,
        device.site_id,
        device.appliance_id,
        said.version,
        said.hostname,
        reporting.address,
        str(said.clock),
        reporting.offset_ms,
        said.epoch,
        said.size,
        said.waiting,
        said.waiting_bytes,
        said.oldest_at_ms,
        said.alarms,
        reporting.basis,
    )
    return CheckedIn(**row) if row else None


async def list_of_sites(scope: PartnerScope | SiteScope, site_ids: Sequence[str]) -> dict[str, list[Appliance]]:
    """Return the appliances of some of the partner's sites, by site and hostname; a person enrolled each, so all."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, hostname, version, last_checkin, clock, clock_offset_ms, epoch, waiting, oldest_at
        FROM appliances
        WHERE partner_id = $1 AND site_id = ANY ($2) AND revoked_at IS NULL
        ORDER BY site_id, hostname, id
        """,
        scope.partner_id,
        site_ids,
    )
    found: dict[str, list[Appliance]] = {}
    for row in rows:
        found.setdefault(row["site_id"], []).append(Appliance(**row))
    return found


async def newest(scope: PartnerScope, page: Page) -> list[ApplianceDetail]:
    """Return a page of the partner's appliances, revoked ones too, the newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, name, hostname, enrolled_at, revoked_at, ip_address, version, last_checkin, clock,
               clock_offset_ms, epoch, log_size, waiting, waiting_bytes, oldest_at, alarms, revision
        FROM appliances
        WHERE partner_id = $1 AND (enrolled_at, id) < ($2, $3)
        ORDER BY enrolled_at DESC, id DESC
        LIMIT $4 OFFSET $5
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [ApplianceDetail(**row) for row in rows]


async def newest_of_site(scope: SiteScope, page: Page) -> list[ApplianceDetail]:
    """Return a page of the site's appliances, revoked ones too, the newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, name, hostname, enrolled_at, revoked_at, ip_address, version, last_checkin, clock,
               clock_offset_ms, epoch, log_size, waiting, waiting_bytes, oldest_at, alarms, revision
        FROM appliances
        WHERE site_id = $1 AND partner_id = $2 AND (enrolled_at, id) < ($3, $4)
        ORDER BY enrolled_at DESC, id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.site_id,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [ApplianceDetail(**row) for row in rows]


async def count(scope: PartnerScope | SiteScope, site_id: str | None) -> int:
    """Return how many appliances the partner, or the site, has: at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM appliances
              WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2) LIMIT 10001) AS counted
        """,
        scope.partner_id,
        site_id,
    )
    return found


async def find(scope: SiteScope, appliance_id: str) -> ApplianceDetail | None:
    """Return an appliance of the site."""
    row = await scope.conn.fetchrow(
        """
        SELECT site_id, id, name, hostname, enrolled_at, revoked_at, ip_address, version, last_checkin, clock,
               clock_offset_ms, epoch, log_size, waiting, waiting_bytes, oldest_at, alarms, revision
        FROM appliances
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
    )
    return ApplianceDetail(**row) if row else None


async def revoke(scope: SiteScope, appliance_id: str) -> bool:
    """Refuse an appliance from now on; False when it is not there, or was revoked before."""
    done = await scope.conn.fetchval(
        """
        UPDATE appliances SET revoked_at = now(), is_online = false
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND revoked_at IS NULL
        RETURNING true
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
    )
    return bool(done)


async def rename(scope: SiteScope, appliance_id: str, name: str | None, revision: int) -> ApplianceDetail | None:
    """Give an appliance a name, or take it away; None when it is not there at this revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE appliances SET name = $5, revision = revision + 1
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND revision = $4
        RETURNING site_id, id, name, hostname, enrolled_at, revoked_at, ip_address, version, last_checkin, clock,
                  clock_offset_ms, epoch, log_size, waiting, waiting_bytes, oldest_at, alarms, revision
        """,
        scope.site_id,
        scope.partner_id,
        appliance_id,
        revision,
        name,
    )
    return ApplianceDetail(**row) if row else None


async def lock_policy(scope: ApplianceScope) -> HeldPolicy:
    """Hold the appliance's row, so that nothing its policy is made from changes unseen; return which policy it has."""
    row = await scope.conn.fetchrow(
        """
        SELECT coalesce(policy_version, 0) AS version, policy_basis AS basis
        FROM appliances
        WHERE site_id = $1 AND id = $2
        FOR UPDATE
        """,
        scope.site_id,
        scope.appliance_id,
    )
    return HeldPolicy(**row) if row else HeldPolicy(0, None)


async def keep_policy(scope: SiteScope, appliance_id: str, version: int, basis: str) -> None:
    """Write which policy the appliance has, and what it was made from."""
    await scope.conn.execute(
        "UPDATE appliances SET policy_version = $3, policy_basis = $4 WHERE site_id = $1 AND id = $2",
        scope.site_id,
        appliance_id,
        version,
        basis,
    )


async def forget_policies(scope: PlatformScope) -> None:
    """Have every appliance's policy made anew, as a version of its own: it may have later ones than are known here."""
    await scope.conn.execute(
        """
        UPDATE appliances a SET policy_version = NULL, policy_basis = NULL
        FROM (SELECT site_id, id FROM appliances
              WHERE policy_version IS NOT NULL ORDER BY site_id, id FOR UPDATE) chosen
        WHERE a.site_id = chosen.site_id AND a.id = chosen.id
        """
    )


async def count_waiting(scope: SiteScope) -> int:
    """Return how many entries the site's appliances in service said at their last check-in that they still hold."""
    found: int = await scope.conn.fetchval(
        """
        SELECT coalesce(sum(waiting), 0)::bigint FROM appliances
        WHERE site_id = $1 AND partner_id = $2 AND revoked_at IS NULL
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


async def count_in_service(scope: SiteScope) -> int:
    """Return how many appliances of the site are not revoked."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM appliances WHERE site_id = $1 AND partner_id = $2 AND revoked_at IS NULL",
        scope.site_id,
        scope.partner_id,
    )
    return found


async def revoke_all(scope: SiteScope) -> int:
    """Refuse every appliance of the site from now on; return how many were in service."""
    rows = await scope.conn.fetch(
        """
        UPDATE appliances SET revoked_at = now(), is_online = false
        WHERE site_id = $1 AND partner_id = $2 AND revoked_at IS NULL
        RETURNING id
        """,
        scope.site_id,
        scope.partner_id,
    )
    return len(rows)
