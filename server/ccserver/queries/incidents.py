"""Incidents, as their appliances report them; the newest (epoch, revision) wins."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from ccserver.listing import Page
from ccserver.promotion import Past
from ccserver.scope import ApplianceScope, PartnerScope, SiteScope
from ccshared.messages import IncidentKept, IncidentReport

# jsonb cannot hold NUL: an escape that is not itself escaped.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True)
class Incident:
    """An incident as lists show it."""

    site_id: str
    id: str
    appliance_id: str
    host_id: str
    incident_type: str
    severity: str
    reason: str
    occurrences: int
    created_at: datetime
    last_seen_at: datetime
    escalated_at: datetime | None


@dataclass(frozen=True)
class IncidentDetail:
    """An incident as the API shows it: what its appliance says, then what people did; `hand_revision` counts that."""

    site_id: str
    id: str
    appliance_id: str
    host_id: str
    incident_type: str
    severity: str
    pattern_signature: str
    reason: str
    occurrences: int
    created_at: datetime
    last_seen_at: datetime
    escalated_at: datetime | None
    resolved_at: datetime | None
    resolution_level: str | None
    resolution_action: str | None
    outcome: str | None
    resolution_time_ms: int | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    closed_by_hand_at: datetime | None
    closed_by_hand_by: str | None
    hand_revision: int


@dataclass(frozen=True)
class Filter:
    """Which incidents a list shows; None is any. `since` is in the list, `until` is not."""

    severity: str | None
    level: str | None
    is_open: bool | None
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Statistics:
    """A site's incidents that began in a window, and how they were settled."""

    total: int
    success_count: int
    l1_count: int
    l2_count: int
    l3_count: int


async def upsert(scope: ApplianceScope, reports: Sequence[IncidentReport]) -> dict[str, IncidentKept]:
    """Write each report that is newer than what is there; return what was written, by id.

    Ids are each there once, and in order, so that two batches of the same do not wait for each other.
    """
    rows = await scope.conn.fetch(
        """
        WITH report AS (
            SELECT *
            FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                        $11::float8[], $12::float8[], $13::float8[], $14::float8[], $15::text[], $16::text[],
                        $17::text[], $18::bigint[], $19::bigint[], $20::bigint[])
                 AS r (id, host_id, incident_type, severity, raw_data, pattern_signature, occurrences, created_ms,
                       last_seen_ms, escalated_ms, resolved_ms, resolution_level, resolution_action, outcome,
                       resolution_time_ms, epoch_number, revision)
        ), written AS (
            INSERT INTO incidents AS i (
                site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data, pattern_signature,
                occurrences, created_at, last_seen_at, escalated_at, resolved_at, resolution_level, resolution_action,
                outcome, resolution_time_ms, epoch_number, revision)
            SELECT $1, $2, $3, id, host_id, incident_type, severity, raw_data::jsonb, pattern_signature, occurrences,
                   to_timestamp(created_ms / 1000), to_timestamp(last_seen_ms / 1000),
                   to_timestamp(escalated_ms / 1000), to_timestamp(resolved_ms / 1000), resolution_level,
                   resolution_action, outcome, resolution_time_ms, epoch_number, revision
            FROM report
            ON CONFLICT (site_id, id) DO UPDATE
            SET severity = excluded.severity, raw_data = excluded.raw_data, occurrences = excluded.occurrences,
                last_seen_at = excluded.last_seen_at, escalated_at = excluded.escalated_at,
                resolved_at = excluded.resolved_at, resolution_level = excluded.resolution_level,
                resolution_action = excluded.resolution_action, outcome = excluded.outcome,
                resolution_time_ms = excluded.resolution_time_ms, epoch_number = excluded.epoch_number,
                revision = excluded.revision, received_at = now()
            WHERE i.appliance_id = excluded.appliance_id
              AND (i.epoch_number, i.revision) < (excluded.epoch_number, excluded.revision)
            RETURNING i.id, i.epoch_number, i.revision
        )
        SELECT id, epoch_number, revision FROM written
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        *_columns(reports),
    )
    return {row["id"]: IncidentKept(id=row["id"], epoch=row["epoch_number"], revision=row["revision"]) for row in rows}


async def revisions(scope: ApplianceScope, ids: Sequence[str]) -> dict[str, IncidentKept]:
    """Return which revision of each of the appliance's own incidents is there now, by id."""
    rows = await scope.conn.fetch(
        """
        SELECT id, epoch_number, revision
        FROM incidents
        WHERE site_id = $1 AND appliance_id = $2 AND id = ANY ($3)
        """,
        scope.site_id,
        scope.appliance_id,
        ids,
    )
    return {row["id"]: IncidentKept(id=row["id"], epoch=row["epoch_number"], revision=row["revision"]) for row in rows}


async def newest(scope: PartnerScope, wanted: Filter, page: Page) -> list[IncidentDetail]:
    """Return a page of the partner's incidents, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
               coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
               resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
               acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        FROM incidents
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3) AND created_at >= $4 AND created_at < $5
          AND ($6::text IS NULL OR severity = $6) AND ($7::text IS NULL OR resolution_level = $7)
          AND ($8::boolean IS NULL OR (resolved_at IS NULL AND closed_by_hand_at IS NULL) = $8)
        ORDER BY created_at DESC, id DESC
        LIMIT $9 OFFSET $10
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        *_wanted(wanted),
        page.fetched,
        page.offset,
    )
    return [IncidentDetail(**row) for row in rows]


async def newest_open(scope: PartnerScope, wanted: Filter, page: Page) -> list[IncidentDetail]:
    """Return a page of the partner's open incidents, newest first, from the small index over what is not resolved."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
               coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
               resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
               acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        FROM incidents
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3) AND created_at >= $4 AND created_at < $5
          AND resolved_at IS NULL
          AND ($6::text IS NULL OR severity = $6) AND ($7::text IS NULL OR resolution_level = $7)
          AND ($8::boolean IS NULL OR (resolved_at IS NULL AND closed_by_hand_at IS NULL) = $8)
        ORDER BY created_at DESC, id DESC
        LIMIT $9 OFFSET $10
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        *_wanted(wanted),
        page.fetched,
        page.offset,
    )
    return [IncidentDetail(**row) for row in rows]


async def newest_of_site(scope: SiteScope, wanted: Filter, page: Page) -> list[IncidentDetail]:
    """Return a page of the site's incidents, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
               coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
               resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
               acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        FROM incidents
        WHERE site_id = $1 AND partner_id = $11 AND (created_at, id) < ($2, $3)
          AND created_at >= $4 AND created_at < $5
          AND ($6::text IS NULL OR severity = $6) AND ($7::text IS NULL OR resolution_level = $7)
          AND ($8::boolean IS NULL OR (resolved_at IS NULL AND closed_by_hand_at IS NULL) = $8)
        ORDER BY created_at DESC, id DESC
        LIMIT $9 OFFSET $10
        """,
        scope.site_id,
        page.before,
        page.before_id,
        *_wanted(wanted),
        page.fetched,
        page.offset,
        scope.partner_id,
    )
    return [IncidentDetail(**row) for row in rows]


async def count(scope: PartnerScope | SiteScope, site_id: str | None, wanted: Filter) -> int:
    """Return how many of the partner's or the site's incidents are wanted, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM incidents
              WHERE partner_id = $1 AND ($2::text IS NULL OR site_id = $2) AND created_at >= $3 AND created_at < $4
                AND ($5::text IS NULL OR severity = $5) AND ($6::text IS NULL OR resolution_level = $6)
                AND ($7::boolean IS NULL OR (resolved_at IS NULL AND closed_by_hand_at IS NULL) = $7)
              LIMIT 10001) AS counted
        """,
        scope.partner_id,
        site_id,
        *_wanted(wanted),
    )
    return found


async def find(scope: SiteScope, incident_id: str) -> IncidentDetail | None:
    """Return an incident of the site."""
    row = await scope.conn.fetchrow(
        """
        SELECT site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
               coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
               resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
               acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        FROM incidents
        WHERE site_id = $1 AND partner_id = $2 AND id = $3
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
    )
    return IncidentDetail(**row) if row else None


async def acknowledge(scope: SiteScope, incident_id: str, revision: int, actor: str) -> IncidentDetail | None:
    """Say that somebody looks after an incident, the first who did; None when it is not there at this hand revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE incidents
        SET acknowledged_at = coalesce(acknowledged_at, now()), acknowledged_by = coalesce(acknowledged_by, $5),
            hand_revision = hand_revision + 1
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND hand_revision = $4
        RETURNING site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
                  coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
                  resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
                  acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
        revision,
        actor,
    )
    return IncidentDetail(**row) if row else None


async def close_by_hand(scope: SiteScope, incident_id: str, revision: int, actor: str) -> IncidentDetail | None:
    """Close an incident by hand, the first who did; None when it is not there at this hand revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE incidents
        SET closed_by_hand_at = coalesce(closed_by_hand_at, now()),
            closed_by_hand_by = coalesce(closed_by_hand_by, $5), hand_revision = hand_revision + 1
        WHERE site_id = $1 AND partner_id = $2 AND id = $3 AND hand_revision = $4
        RETURNING site_id, id, appliance_id, host_id, incident_type, severity, pattern_signature,
                  coalesce(raw_data->>'reason', '') AS reason, occurrences, created_at, last_seen_at, escalated_at,
                  resolved_at, resolution_level, resolution_action, outcome, resolution_time_ms, acknowledged_at,
                  acknowledged_by, closed_by_hand_at, closed_by_hand_by, hand_revision
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
        revision,
        actor,
    )
    return IncidentDetail(**row) if row else None


def _wanted(wanted: Filter) -> tuple[datetime, datetime, str | None, str | None, bool | None]:
    return wanted.since, wanted.until, wanted.severity, wanted.level, wanted.is_open


async def statistics(scope: SiteScope, since: datetime, until: datetime) -> Statistics:
    """Return the counts of the site's incidents that began from `since` up to `until`."""
    row = await scope.conn.fetchrow(
        """
        SELECT count(*) AS total,
               count(*) FILTER (WHERE outcome = 'success') AS success_count,
               count(*) FILTER (WHERE resolution_level = 'L1') AS l1_count,
               count(*) FILTER (WHERE resolution_level = 'L2') AS l2_count,
               count(*) FILTER (WHERE resolution_level = 'L3') AS l3_count
        FROM incidents
        WHERE site_id = $1 AND partner_id = $2 AND created_at >= $3 AND created_at < $4
        """,
        scope.site_id,
        scope.partner_id,
        since,
        until,
    )
    assert row is not None  # noqa: S101  an aggregate has one row
    return Statistics(**row)


def _columns(reports: Sequence[IncidentReport]) -> list[list[object]]:
    return [
        [report.id for report in reports],
        [report.host_id for report in reports],
        [report.incident_type for report in reports],
        [str(report.severity) for report in reports],
        [_NUL.sub(r"\1\\ufffd", orjson.dumps(report.raw_data).decode()) for report in reports],
        [report.pattern_signature for report in reports],
        [max(report.occurrences, 1) for report in reports],
        [report.created_at_ms for report in reports],
        [report.last_seen_at_ms for report in reports],
        [report.escalated_at_ms for report in reports],
        [report.resolved_at_ms for report in reports],
        [report.resolution_level for report in reports],
        [report.resolution_action for report in reports],
        [report.outcome for report in reports],
        [report.resolution_time_ms for report in reports],
        [report.epoch for report in reports],
        [report.revision for report in reports],
    ]


async def past(scope: PartnerScope, signature: str | None, limit: int) -> list[Past]:
    """Return the partner's newest incidents, of one pattern or (None) of any, with the findings, for a replay."""
    rows = await scope.conn.fetch(
        """
        SELECT site_id, host_id, incident_type, severity, pattern_signature, raw_data, resolution_level, outcome
        FROM incidents
        WHERE partner_id = $1 AND ($2::text IS NULL OR pattern_signature = $2)
        ORDER BY created_at DESC, id DESC
        LIMIT $3
        """,
        scope.partner_id,
        signature,
        limit,
    )
    return [Past(**{**row, "raw_data": orjson.loads(row["raw_data"])}) for row in rows]
