"""Compliance snapshots: a site's families, once a day and at each change."""

from dataclasses import dataclass
from datetime import date, datetime

from ccserver.listing import Page
from ccserver.scope import SiteScope


@dataclass(frozen=True)
class Snapshot:
    """A site's families at a moment: true where all pass, false where any fails, None where it is not known."""

    id: int
    snapshot_at: datetime
    flake_hash: str | None
    patching_status: bool | None
    antivirus_status: bool | None
    backup_status: bool | None
    logging_status: bool | None
    firewall_status: bool | None
    encryption_status: bool | None


async def record(scope: SiteScope, flake_hash: str | None) -> None:
    """Add a snapshot of the site's fresh check states, unless it says what today's newest says.

    A family is false if any appliance fails it, unknown if none fails and one is unknown, stale or absent.
    """
    await scope.conn.execute(
        """
        WITH family AS (
            SELECT f.name, CASE
                WHEN bool_or(s.status = 'fail' AND s.seen_at > now() - interval '2 hours') THEN false
                WHEN bool_and(s.status = 'pass' AND s.seen_at > now() - interval '2 hours') THEN true
            END AS status
            FROM unnest(ARRAY['patching', 'antivirus', 'backup', 'logging', 'firewall', 'encryption']) AS f (name)
            LEFT JOIN check_states s ON s.site_id = $1 AND s.check_id = f.name
            GROUP BY f.name
        ), present AS (
            SELECT bool_or(status) FILTER (WHERE name = 'patching') AS patching,
                   bool_or(status) FILTER (WHERE name = 'antivirus') AS antivirus,
                   bool_or(status) FILTER (WHERE name = 'backup') AS backup,
                   bool_or(status) FILTER (WHERE name = 'logging') AS logging,
                   bool_or(status) FILTER (WHERE name = 'firewall') AS firewall,
                   bool_or(status) FILTER (WHERE name = 'encryption') AS encryption
            FROM family
        ), latest AS (
            SELECT snapshot_at, flake_hash, patching_status, antivirus_status, backup_status, logging_status,
                   firewall_status, encryption_status
            FROM compliance_snapshots
            WHERE site_id = $1
            ORDER BY snapshot_at DESC, id DESC
            LIMIT 1
        )
        INSERT INTO compliance_snapshots (
            site_id, partner_id, flake_hash, patching_status, antivirus_status, backup_status, logging_status,
            firewall_status, encryption_status)
        SELECT $1, $2, coalesce($3, (SELECT flake_hash FROM latest)), patching, antivirus, backup, logging, firewall,
               encryption
        FROM present
        WHERE NOT EXISTS (
            SELECT FROM latest
            WHERE snapshot_at >= date_trunc('day', now())
              AND (patching_status, antivirus_status, backup_status, logging_status, firewall_status, encryption_status)
                  IS NOT DISTINCT FROM (patching, antivirus, backup, logging, firewall, encryption)
              AND ($3::text IS NULL OR flake_hash IS NOT DISTINCT FROM $3))
        """,
        scope.site_id,
        scope.partner_id,
        flake_hash,
    )


async def is_due(scope: SiteScope) -> bool:
    """Return whether the site has no snapshot of today."""
    newest = await scope.conn.fetchval(
        "SELECT max(snapshot_at) >= date_trunc('day', now()) FROM compliance_snapshots WHERE site_id = $1",
        scope.site_id,
    )
    return not newest


async def newest(scope: SiteScope, page: Page) -> list[Snapshot]:
    """Return a page of the site's snapshots, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT id, snapshot_at, flake_hash, patching_status, antivirus_status, backup_status, logging_status,
               firewall_status, encryption_status
        FROM compliance_snapshots
        WHERE site_id = $1 AND partner_id = $2 AND (snapshot_at, id) < ($3, $4)
        ORDER BY snapshot_at DESC, id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.site_id,
        scope.partner_id,
        page.before,
        int(page.before_id) if page.before_id.isdecimal() else 2**62,
        page.fetched,
        page.offset,
    )
    return [Snapshot(**row) for row in rows]


async def count(scope: SiteScope) -> int:
    """Return how many snapshots the site has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM compliance_snapshots WHERE site_id = $1 AND partner_id = $2 LIMIT 10001) AS counted
        """,
        scope.site_id,
        scope.partner_id,
    )
    return found


@dataclass(frozen=True)
class Day:
    """A day (UTC) of a site: of each family the worst that was seen, true, false, or None where it was not known."""

    day: date
    patching: bool | None
    antivirus: bool | None
    backup: bool | None
    logging: bool | None
    firewall: bool | None
    encryption: bool | None
