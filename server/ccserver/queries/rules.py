"""Rules that a partner's sites have taught: candidates, and what became of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from ccserver.listing import Page
from ccserver.scope import PartnerScope, SiteScope


@dataclass(frozen=True)
class Rule:
    """A rule; `decided_by` and `comment` are of the person who decided last."""

    id: str
    pattern_signature: str
    runbook_id: str
    conditions: Any
    status: str
    comment: str | None
    decided_by: str | None
    created_at: datetime
    decided_at: datetime | None
    revision: int


async def newest(scope: PartnerScope, status: str | None, page: Page) -> list[Rule]:
    """Return a page of the partner's rules, newest first; `status` None is any."""
    rows = await scope.conn.fetch(
        """
        SELECT id, pattern_signature, runbook_id, conditions, status, comment, decided_by, created_at, decided_at,
               revision
        FROM rules
        WHERE partner_id = $1 AND (created_at, id) < ($2, $3) AND ($4::text IS NULL OR status = $4)
        ORDER BY created_at DESC, id DESC
        LIMIT $5 OFFSET $6
        """,
        scope.partner_id,
        page.before,
        page.before_id,
        status,
        page.fetched,
        page.offset,
    )
    return [Rule(**{**row, "conditions": orjson.loads(row["conditions"])}) for row in rows]


async def count(scope: PartnerScope, status: str | None) -> int:
    """Return how many rules the partner has, at most 10,001."""
    found: int = await scope.conn.fetchval(
        """
        SELECT count(*)
        FROM (SELECT FROM rules
              WHERE partner_id = $1 AND ($2::text IS NULL OR status = $2) LIMIT 10001) AS counted
        """,
        scope.partner_id,
        status,
    )
    return found


async def find(scope: PartnerScope, rule_id: str) -> Rule | None:
    """Return a rule of the partner."""
    row = await scope.conn.fetchrow(
        """
        SELECT id, pattern_signature, runbook_id, conditions, status, comment, decided_by, created_at, decided_at,
               revision
        FROM rules
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        rule_id,
    )
    return Rule(**{**row, "conditions": orjson.loads(row["conditions"])}) if row else None


@dataclass(frozen=True)
class Learned:
    """A rule that runs: for all appliances of its partner, or on trial for one."""

    id: str
    pattern_signature: str
    runbook_id: str
    conditions: Any
    status: str


async def in_force(scope: SiteScope, appliance_id: str) -> list[Learned]:
    """Return the partner's rules that an appliance runs: the active ones, and those on trial with it, by id."""
    rows = await scope.conn.fetch(
        """
        SELECT id, pattern_signature, runbook_id, conditions, status
        FROM rules
        WHERE partner_id = $1 AND (status = 'active' OR status = 'canary' AND canary_appliance_id = $2)
        ORDER BY id
        """,
        scope.partner_id,
        appliance_id,
    )
    return [Learned(**{**row, "conditions": orjson.loads(row["conditions"])}) for row in rows]
