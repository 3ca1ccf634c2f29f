"""Settings, as they are made at each level; the nearest to an appliance wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import orjson

from ccserver.errors import NotFoundError
from ccserver.scope import PartnerScope, SiteScope
from ccshared.settings import Value
from ccshared.vocabulary import SettingLevel


@dataclass(frozen=True)
class Place:
    """A level, and the id of what it names there; of the platform `platform`."""

    level: SettingLevel
    target_id: str


@dataclass(frozen=True)
class Made:
    """A setting as somebody made it; `revision` never comes twice, though it is unmade and made again."""

    level: str
    target_id: str
    name: str
    value: Value
    revision: int
    updated_by: str
    updated_at: datetime


async def list_of(scope: PartnerScope | SiteScope, places: Sequence[Place]) -> list[Made]:
    """Return what is made at some places of the scope's partner, by place and name."""
    rows = await scope.conn.fetch(
        """
        SELECT level, target_id, name, value, revision, updated_by, updated_at
        FROM settings s
        WHERE partner_id = $1
          AND (level, target_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))
        ORDER BY level, target_id, name
        """,
        scope.partner_id,
        [str(place.level) for place in places],
        [place.target_id for place in places],
    )
    return [Made(**{**row, "value": orjson.loads(row["value"])}) for row in rows]


@dataclass(frozen=True)
class Change:
    """A value to be made, by whom, on top of the revision that was read: 0 where none was made."""

    name: str
    value: Value
    revision: int
    actor: str


async def make(scope: PartnerScope | SiteScope, place: Place, change: Change) -> Made | None:
    """Make a setting; None when it is not at the change's revision, NotFoundError without the partner."""
    try:
        row = await scope.conn.fetchrow(
            """
            INSERT INTO settings AS s (partner_id, level, target_id, name, value, revision, updated_by)
            SELECT $1, $2, $3, $4, $5::jsonb, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, $6
            WHERE $7::bigint = 0
               OR EXISTS (SELECT FROM settings WHERE partner_id = $1 AND level = $2 AND target_id = $3 AND name = $4)
            ON CONFLICT (partner_id, level, target_id, name) DO UPDATE
            SET value = excluded.value, revision = greatest(excluded.revision, s.revision + 1),
                updated_by = excluded.updated_by, updated_at = now()
            WHERE s.revision = $7
            RETURNING level, target_id, name, value, revision, updated_by, updated_at
            """,
            scope.partner_id,
            str(place.level),
            place.target_id,
            change.name,
            orjson.dumps(change.value).decode(),
            change.actor,
            change.revision,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError(f"There is no partner {scope.partner_id}.") from error
    return Made(**{**row, "value": orjson.loads(row["value"])}) if row else None


async def unmake(scope: PartnerScope | SiteScope, place: Place, name: str, revision: int) -> bool:
    """Unmake a setting, so that the next level counts; False when it is not there at this revision."""
    done = await scope.conn.fetchval(
        """
        DELETE FROM settings
        WHERE partner_id = $1 AND level = $2 AND target_id = $3 AND name = $4 AND revision = $5
        RETURNING true
        """,
        scope.partner_id,
        str(place.level),
        place.target_id,
        name,
        revision,
    )
    return bool(done)


async def counting(scope: SiteScope, places: Sequence[Place]) -> list[Made]:
    """Return what is made at some places of the scope's partner, and what the platform made, which counts for all."""
    rows = await scope.conn.fetch(
        """
        SELECT level, target_id, name, value, revision, updated_by, updated_at
        FROM settings
        WHERE partner_id = $1
          AND (level, target_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))
        UNION ALL
        SELECT level, target_id, name, value, revision, updated_by, updated_at FROM cc_platform_settings()
        """,
        scope.partner_id,
        [str(place.level) for place in places],
        [place.target_id for place in places],
    )
    return [Made(**{**row, "value": orjson.loads(row["value"])}) for row in rows]


async def counting_of(scope: SiteScope, places: Sequence[Place], appliance_id: str) -> tuple[str, list[Made]] | None:
    """Return an appliance's hostname with what `counting` returns; None without it."""
    rows = await scope.conn.fetch(
        """
        SELECT a.hostname, m.level, m.target_id, m.name, m.value, m.revision, m.updated_by, m.updated_at
        FROM appliances a LEFT JOIN (
            SELECT level, target_id, name, value, revision, updated_by, updated_at
            FROM settings
            WHERE partner_id = $1
              AND (level, target_id) IN (SELECT * FROM unnest($2::text[], $3::text[]))
            UNION ALL
            SELECT level, target_id, name, value, revision, updated_by, updated_at FROM cc_platform_settings()
        ) m ON true
        WHERE a.partner_id = $1 AND a.site_id = $4 AND a.id = $5
        """,
        scope.partner_id,
        [str(place.level) for place in places],
        [place.target_id for place in places],
        scope.site_id,
        appliance_id,
    )
    if not rows:
        return None
    made = [{name: value for name, value in row.items() if name != "hostname"} for row in rows if row["name"]]
    return rows[0]["hostname"], [Made(**{**each, "value": orjson.loads(each["value"])}) for each in made]


async def stops(scope: PartnerScope | SiteScope) -> list[Place]:
    """Return where the switch is set that stops all healing: of the scope's partner, its sites, and the platform."""
    rows = await scope.conn.fetch(
        """
        SELECT level, target_id
        FROM (SELECT level, target_id, name, value FROM settings WHERE partner_id = $1
              UNION ALL
              SELECT level, target_id, name, value FROM cc_platform_settings()) made
        WHERE name = 'healing.mode' AND value = '"stop"'::jsonb
        """,
        scope.partner_id,
    )
    return [Place(SettingLevel(row["level"]), row["target_id"]) for row in rows]
