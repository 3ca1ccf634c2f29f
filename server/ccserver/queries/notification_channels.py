"""Channels by which a partner's people are told; where they lead, and with what secret, is sealed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ccserver.errors import NotFoundError
from ccserver.listing import Page
from ccserver.scope import PartnerScope


@dataclass(frozen=True)
class Channel:
    """A channel as the API shows it. `target` is the host that it leads to; no address and no secret is ever shown.

    It tells of problems from `min_severity` on, of `site_ids` or of every site (None), once they lasted `grace_s`; then
    each `resend_s` (0: never), at most `resend_max` times, until somebody acknowledges.
    """

    id: str
    kind: str
    name: str
    target: str
    min_severity: str
    site_ids: list[str] | None
    grace_s: int
    resend_s: int
    resend_max: int
    created_at: datetime
    snoozed_until: datetime | None
    disabled_at: datetime | None
    revision: int


@dataclass(frozen=True)
class Draft:
    """What of a channel people choose, with its sealed target."""

    kind: str
    name: str
    target: str
    target_sealed: bytes
    min_severity: str
    site_ids: list[str] | None
    grace_s: int
    resend_s: int
    resend_max: int
    is_disabled: bool = False


def draft_of(channel: Channel, target: str, target_sealed: bytes, **changes: Any) -> Draft:
    """Return a channel as it is, with these changes, to be written again."""
    names = ("kind", "name", "min_severity", "site_ids", "grace_s", "resend_s", "resend_max")
    kept = {name: getattr(channel, name) for name in names} | {"is_disabled": channel.disabled_at is not None}
    return Draft(target=target, target_sealed=target_sealed, **kept | changes)


async def insert(scope: PartnerScope, channel_id: str, draft: Draft) -> Channel:
    """Add a channel of the partner; NotFoundError without the partner."""
    if not await scope.conn.fetchval("SELECT true FROM partners WHERE id = $1", scope.partner_id):
        raise NotFoundError(f"There is no partner {scope.partner_id}.")
    row = await scope.conn.fetchrow(
        """
        INSERT INTO notification_channels (partner_id, id, kind, name, target_hint, target_sealed, min_severity,
                                           site_ids, grace_s, resend_s, resend_max)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        RETURNING id, kind, name, target_hint AS target, min_severity, site_ids, grace_s, resend_s, resend_max,
                  created_at, snoozed_until, disabled_at, revision
        """,
        scope.partner_id,
        channel_id,
        draft.kind,
        draft.name,
        draft.target,
        draft.target_sealed,
        draft.min_severity,
        draft.site_ids,
        draft.grace_s,
        draft.resend_s,
        draft.resend_max,
    )
    assert row is not None  # noqa: S101  an insert returns its row
    return Channel(**row)


async def update(scope: PartnerScope, channel_id: str, revision: int, draft: Draft) -> Channel | None:
    """Change a channel; enabled again, it tells of what is noticed from now on. None when not at this revision."""
    row = await scope.conn.fetchrow(
        """
        UPDATE notification_channels
        SET name = $4, target_hint = $5, target_sealed = $6, min_severity = $7, site_ids = $8, grace_s = $9,
            resend_s = $10, resend_max = $11,
            tells_from = CASE WHEN disabled_at IS NOT NULL AND NOT $12 THEN now() ELSE tells_from END,
            disabled_at = CASE WHEN $12 THEN coalesce(disabled_at, now()) END, revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND revision = $3
        RETURNING id, kind, name, target_hint AS target, min_severity, site_ids, grace_s, resend_s, resend_max,
                  created_at, snoozed_until, disabled_at, revision
        """,
        scope.partner_id,
        channel_id,
        revision,
        draft.name,
        draft.target,
        draft.target_sealed,
        draft.min_severity,
        draft.site_ids,
        draft.grace_s,
        draft.resend_s,
        draft.resend_max,
        draft.is_disabled,
    )
    return Channel(**row) if row else None


async def snooze(scope: PartnerScope, channel_id: str, until: datetime | None) -> Channel | None:
    """Tell nothing by a channel until then, or from now on again; None without such a channel."""
    row = await scope.conn.fetchrow(
        """
        UPDATE notification_channels SET snoozed_until = $3, revision = revision + 1
        WHERE partner_id = $1 AND id = $2
        RETURNING id, kind, name, target_hint AS target, min_severity, site_ids, grace_s, resend_s, resend_max,
                  created_at, snoozed_until, disabled_at, revision
        """,
        scope.partner_id,
        channel_id,
        until,
    )
    return Channel(**row) if row else None


async def newest(scope: PartnerScope, page: Page) -> list[Channel]:
    """Return a page of the partner's channels, newest first, those that are disabled too."""
    rows = await scope.conn.fetch(
        """
        SELECT id, kind, name, target_hint AS target, min_severity, site_ids, grace_s, resend_s, resend_max,
               created_at, snoozed_until, disabled_at, revision
        FROM notification_channels
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC
        LIMIT $4 OFFSET $5
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Channel(**row) for row in rows]


async def count(scope: PartnerScope) -> int:
    """Return how many channels the partner has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        "SELECT count(*) FROM (SELECT FROM notification_channels WHERE partner_id = $1 LIMIT 10001) AS counted",
        scope.partner_id,
    )
    return found


async def find(scope: PartnerScope, channel_id: str) -> Channel | None:
    """Return a channel of the partner."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, kind, name, target_hint AS target, min_severity, site_ids, grace_s, resend_s, resend_max,
               created_at, snoozed_until, disabled_at, revision
        FROM notification_channels
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        channel_id,
    )
    return Channel(**row) if row else None


async def sealed_target(scope: PartnerScope, channel_id: str) -> bytes:
    """Return where a channel of the partner leads, sealed; the caller found it before."""
    found: bytes = await scope.conn.fetchval(
        "SELECT target_sealed FROM notification_channels WHERE partner_id = $1 AND id = $2",
        scope.partner_id,
        channel_id,
    )
    return found


async def foreign_sites(scope: PartnerScope, site_ids: Sequence[str]) -> list[str]:
    """Return which of these are no sites of the partner."""
    rows = await scope.conn.fetch(
        """
        SELECT given.id FROM unnest($2::text[]) AS given (id)
        WHERE NOT EXISTS (SELECT FROM sites s WHERE s.partner_id = $1 AND s.id = given.id)
        ORDER BY given.id
        """,
        scope.partner_id,
        site_ids,
    )
    return [row["id"] for row in rows]
