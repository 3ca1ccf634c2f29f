"""The sites that an auditor may read."""

import asyncpg

from ccserver.errors import NotFoundError
from ccserver.scope import PartnerScope


async def assign(scope: PartnerScope, user_id: str, site_ids: list[str]) -> None:
    """Let an auditor read these sites of the scope's partner; NotFoundError when one is not the partner's."""
    try:
        await scope.conn.execute(
            "INSERT INTO user_sites (partner_id, user_id, site_id) SELECT $1, $2, unnest($3::text[])",
            scope.partner_id,
            user_id,
            site_ids,
        )
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFoundError("One of these sites is not there.") from error


async def readable_by(scope: PartnerScope, user_id: str) -> list[str]:
    """Return the ids of the sites that an auditor may read."""
    rows = await scope.conn.fetch(
        "SELECT site_id FROM user_sites WHERE partner_id = $1 AND user_id = $2", scope.partner_id, user_id
    )
    return [row["site_id"] for row in rows]
