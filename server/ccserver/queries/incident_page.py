"""An incident's page: one statement. Each part is an array of rows in its dataclass's order."""

from collections.abc import Sequence
from dataclasses import dataclass

from ccserver.queries.evidence_bundles import Naming
from ccserver.queries.incident_comments import Comment
from ccserver.queries.incidents import IncidentDetail
from ccserver.scope import SiteScope


@dataclass(frozen=True)
class Story:
    """An incident with its site's name, its appliance's, what was seen as indented JSON, and the newest comments."""

    incident: IncidentDetail
    site_name: str
    hostname: str
    seen: str
    comments: Sequence[Comment]
    evidence: Sequence[Naming]


async def read(scope: SiteScope, incident_id: str, letters: int, comments: int) -> Story | None:
    """Return an incident of the scope's site; of what was seen at most so many letters, and the newest comments."""
    row = await scope.conn.fetchrow(
        """
        SELECT ROW(i.site_id, i.id, i.appliance_id, i.host_id, i.incident_type, i.severity, i.pattern_signature,
                   coalesce(i.raw_data->>'reason', ''), i.occurrences, i.created_at, i.last_seen_at, i.escalated_at,
                   i.resolved_at, i.resolution_level, i.resolution_action, i.outcome, i.resolution_time_ms,
                   i.acknowledged_at, i.acknowledged_by, i.closed_by_hand_at, i.closed_by_hand_by,
                   i.hand_revision) AS incident,
               (SELECT name FROM sites WHERE partner_id = $2 AND id = $1) AS site_name,
               (SELECT hostname FROM appliances
                WHERE partner_id = $2 AND site_id = $1 AND id = i.appliance_id) AS hostname,
               left(jsonb_pretty(i.raw_data), $4) AS seen,
               ARRAY(SELECT ROW(incident_id, id, author, body, created_at)
                     FROM incident_comments
                     WHERE site_id = $1 AND partner_id = $2 AND incident_id = $3
                     ORDER BY created_at DESC, id DESC
                     LIMIT $5) AS comments,
               ARRAY(SELECT ROW(a.bundle_type, a.log_id, a.origin, a.seq, a.bundle_hash, a.received_at)
                     FROM (SELECT b.bundle_type, b.log_id, l.origin, b.seq, b.bundle_hash, b.received_at, b.payload
                           FROM evidence_bundles b JOIN evidence_logs l ON l.site_id = b.site_id AND l.id = b.log_id
                           WHERE b.site_id = $1 AND b.partner_id = $2 AND b.appliance_id = i.appliance_id
                             AND b.bundle_type IN ('remediation', 'escalation')
                             AND b.received_at >= least(i.created_at, now()) - interval '1 day'
                           ORDER BY b.received_at
                           LIMIT 1000) a
                     WHERE position(convert_to('"incident":"' || i.id || '"', 'UTF8') IN a.payload) > 0
                     LIMIT 50) AS evidence
        FROM incidents i
        WHERE i.site_id = $1 AND i.partner_id = $2 AND i.id = $3
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
        letters,
        comments,
    )
    if row is None:
        return None
    said = [Comment(*each) for each in row["comments"]]
    evidence = [Naming(*each) for each in row["evidence"]]
    return Story(IncidentDetail(*row["incident"]), row["site_name"], row["hostname"], row["seen"], said, evidence)
