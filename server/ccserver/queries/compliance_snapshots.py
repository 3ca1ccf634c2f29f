"""Compliance snapshots: a site's families, once a day and at each change."""

from ccserver.scope import SiteScope


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
