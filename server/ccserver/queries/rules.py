"""Rules that a partner's sites have taught: candidates, and what became of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from ccserver.listing import Page
from ccserver.promotion import Evidence, Fate
from ccserver.scope import PartnerScope, PlatformScope, SiteScope
from ccshared.vocabulary import RuleStatus

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True)
class Rule:
    """A rule; `decided_by` and `comment` are of whoever decided last.

    `evidence` are the numbers that it was proposed with, `canary_…` the appliance that it is, or was, tried on.
    """

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
    evidence: dict[str, Any] | None
    canary_site_id: str | None
    canary_appliance_id: str | None


async def newest(scope: PartnerScope, status: str | None, page: Page) -> list[Rule]:
    """Return a page of the partner's rules, newest first; `status` None is any."""
    rows = await scope.conn.fetch(
        """
        SELECT id, pattern_signature, runbook_id, conditions, status, comment, decided_by, created_at, decided_at,
               revision, evidence, canary_site_id, canary_appliance_id
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
    return [_rule(row) for row in rows]


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
               revision, evidence, canary_site_id, canary_appliance_id
        FROM rules
        WHERE partner_id = $1 AND id = $2
        """,
        scope.partner_id,
        rule_id,
    )
    return _rule(row) if row else None


async def find_with_fates(scope: PartnerScope, rule_id: str) -> tuple[Rule, Fate, Fate] | None:
    """Return a rule of the partner, and how it fared since its approval: on its canary, and on all appliances."""
    row = await scope.conn.fetchrow(
        """
        SELECT r.id, r.pattern_signature, r.runbook_id, r.conditions, r.status, r.comment, r.decided_by, r.created_at,
               r.decided_at, r.revision, r.evidence, r.canary_site_id, r.canary_appliance_id,
               t.count, t.successes, t.canary_count, t.canary_successes
        FROM rules r CROSS JOIN LATERAL (
            SELECT coalesce(sum(n.count), 0)::bigint AS count, coalesce(sum(n.successes), 0)::bigint AS successes,
                   coalesce(sum(n.count) FILTER (WHERE n.is_canary), 0)::bigint AS canary_count,
                   coalesce(sum(n.successes) FILTER (WHERE n.is_canary), 0)::bigint AS canary_successes
            FROM (SELECT greatest(total_count - base_count, 0) AS count,
                         greatest(success_count - base_successes, 0) AS successes,
                         appliance_id = r.canary_appliance_id AS is_canary
                  FROM rule_trials
                  WHERE partner_id = $1 AND rule_id = r.id) n
        ) t
        WHERE r.partner_id = $1 AND r.id = $2
        """,
        scope.partner_id,
        rule_id,
    )
    if row is None:
        return None
    names = ("count", "successes", "canary_count", "canary_successes")
    count, successes, canary_count, canary_successes = (row[name] for name in names)
    rule = _rule({name: value for name, value in row.items() if name not in names})
    return rule, Fate(canary_count, canary_successes), Fate(count, successes)


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


@dataclass(frozen=True)
class Draft:
    """A rule to be proposed to a partner, with the numbers that speak for it."""

    partner_id: str
    id: str
    pattern_signature: str
    runbook_id: str
    conditions: list[dict[str, Any]]
    evidence: Evidence


async def propose(scope: PlatformScope, drafts: Sequence[Draft]) -> list[tuple[str, str]]:
    """Make candidates, or bring the numbers of what does not run up to date; return (partner, id) of the new ones.

    What somebody rejected or demoted stays so.
    """
    rows = await scope.conn.fetch(
        """
        INSERT INTO rules AS r (partner_id, id, pattern_signature, runbook_id, conditions, evidence, status)
        SELECT d.partner_id, d.id, d.signature, d.runbook, d.conditions::jsonb, d.evidence::jsonb, 'candidate'
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
            AS d (partner_id, id, signature, runbook, conditions, evidence)
        ON CONFLICT (partner_id, id) DO UPDATE SET evidence = excluded.evidence
        WHERE r.status IN ('candidate', 'rejected', 'demoted')
        RETURNING r.partner_id, r.id, r.xmax = 0 AS made
        """,
        [draft.partner_id for draft in drafts],
        [draft.id for draft in drafts],
        [draft.pattern_signature for draft in drafts],
        [draft.runbook_id for draft in drafts],
        [orjson.dumps(draft.conditions).decode() for draft in drafts],
        [orjson.dumps(asdict(draft.evidence)).decode() for draft in drafts],
    )
    return [(row["partner_id"], row["id"]) for row in rows if row["made"]]


async def withdraw(scope: PlatformScope, those: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Take back candidates for which the numbers no longer speak; return (partner, id) of those that were there."""
    rows = await scope.conn.fetch(
        """
        DELETE FROM rules r
        USING unnest($1::text[], $2::text[]) AS d (partner_id, id)
        WHERE r.partner_id = d.partner_id AND r.id = d.id AND r.status = 'candidate'
        RETURNING r.partner_id, r.id
        """,
        [partner_id for partner_id, _ in those],
        [rule_id for _, rule_id in those],
    )
    return [(row["partner_id"], row["id"]) for row in rows]


@dataclass(frozen=True)
class Verdict:
    """What is decided of a rule, by whom and why; `canary` is site and appliance where it goes on trial."""

    status: RuleStatus
    actor: str
    comment: str
    canary: tuple[str, str] | None = None


async def decide(scope: PartnerScope, rule_id: str, revision: int, verdict: Verdict) -> Rule | None:
    """Decide of a rule; None when it is not at this revision."""
    site_id, appliance_id = verdict.canary or (None, None)
    row = await scope.conn.fetchrow(
        """
        UPDATE rules
        SET status = $4, decided_by = $5, comment = $6, decided_at = now(), revision = revision + 1,
            canary_site_id = coalesce($7, canary_site_id), canary_appliance_id = coalesce($8, canary_appliance_id)
        WHERE partner_id = $1 AND id = $2 AND revision = $3
        RETURNING id, pattern_signature, runbook_id, conditions, status, comment, decided_by, created_at, decided_at,
                  revision, evidence, canary_site_id, canary_appliance_id
        """,
        scope.partner_id,
        rule_id,
        revision,
        str(verdict.status),
        verdict.actor,
        verdict.comment,
        site_id,
        appliance_id,
    )
    return _rule(row) if row else None


async def settle(scope: PlatformScope, which: tuple[str, str], before: str, verdict: Verdict) -> bool:
    """Decide of a rule (its partner and id) that runs, by its numbers; False when it is another status by now."""
    done = await scope.conn.fetchval(
        """
        UPDATE rules
        SET status = $4, decided_by = $5, comment = $6, decided_at = now(), revision = revision + 1
        WHERE partner_id = $1 AND id = $2 AND status = $3
        RETURNING true
        """,
        *which,
        before,
        str(verdict.status),
        verdict.actor,
        verdict.comment,
    )
    return bool(done)


def _rule(row: "asyncpg.Record | dict[str, Any]") -> Rule:
    evidence = orjson.loads(row["evidence"]) if row["evidence"] else None
    return Rule(**{**row, "conditions": orjson.loads(row["conditions"]), "evidence": evidence})
