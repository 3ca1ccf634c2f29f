"""What people say about an incident; only ever added to."""

from dataclasses import dataclass
from datetime import datetime

from ccserver.listing import Page
from ccserver.scope import SiteScope


@dataclass(frozen=True)
class Comment:
    """A comment; `author` is user:LOGIN or key:ID."""

    incident_id: str
    id: str
    author: str
    body: str
    created_at: datetime


async def insert(scope: SiteScope, incident_id: str, comment_id: str, author: str, body: str) -> Comment:
    """Add a comment to an incident that is there."""
    row = await scope.conn.fetchrow(
        """
        INSERT INTO incident_comments (site_id, partner_id, incident_id, id, author, body)
        VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING incident_id, id, author, body, created_at
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
        comment_id,
        author,
        body,
    )
    assert row is not None  # noqa: S101  an insert returns its row
    return Comment(**row)


async def newest(scope: SiteScope, incident_id: str, page: Page) -> list[Comment]:
    """Return a page of an incident's comments, newest first."""
    rows = await scope.conn.fetch(
        """
        SELECT incident_id, id, author, body, created_at
        FROM incident_comments
        WHERE site_id = $1 AND partner_id = $2 AND incident_id = $3 AND (created_at, id) < ($4, $5)
        ORDER BY created_at DESC, id DESC
        LIMIT $6 OFFSET $7
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
        page.before,
        page.before_id,
        page.fetched,
        page.offset,
    )
    return [Comment(**row) for row in rows]


async def count(scope: SiteScope, incident_id: str) -> int:
    """Return how many comments an incident has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM incident_comments
              WHERE site_id = $1 AND partner_id = $2 AND incident_id = $3 LIMIT 10001) AS counted
        """,
        scope.site_id,
        scope.partner_id,
        incident_id,
    )
    return found
