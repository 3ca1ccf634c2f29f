"""How learned rules fare: each appliance's own totals; the latest report replaces, and counts from the approval on."""

from collections.abc import Sequence
from dataclasses import dataclass

from ccserver.promotion import Fate
from ccserver.scope import ApplianceScope, PartnerScope, PlatformScope
from ccshared.messages import PatternReports


@dataclass(frozen=True)
class Told:
    """A rule that some appliance told anew of: its status (None: there is no such rule), and how it fares."""

    partner_id: str
    rule_id: str
    status: str | None
    fate: Fate


async def upsert(scope: ApplianceScope, said: PatternReports) -> None:
    """Write the totals that are newer than what is there, and have a sweep look at them."""
    await scope.conn.execute(
        """
        INSERT INTO rule_trials AS t (site_id, partner_id, appliance_id, epoch_number, revision, rule_id, total_count,
                                      success_count)
        SELECT $1, $2, $3, $4, $5, r.*
        FROM unnest($6::text[], $7::bigint[], $8::bigint[]) AS r
        ON CONFLICT (site_id, appliance_id, rule_id) DO UPDATE
        SET total_count = excluded.total_count, success_count = excluded.success_count,
            epoch_number = excluded.epoch_number, revision = excluded.revision, due = true, received_at = now()
        WHERE (t.epoch_number, t.revision) < (excluded.epoch_number, excluded.revision)
          AND (t.total_count, t.success_count) <> (excluded.total_count, excluded.success_count)
        """,
        scope.site_id,
        scope.partner_id,
        scope.appliance_id,
        said.epoch,
        said.rules_revision,
        [rule.rule for rule in said.rules],
        [rule.total_count for rule in said.rules],
        [rule.success_count for rule in said.rules],
    )


async def begin(scope: PartnerScope, rule_id: str) -> None:
    """Count a rule from now on: what it did before it was approved anew is another story."""
    await scope.conn.execute(
        """
        UPDATE rule_trials SET base_count = total_count, base_successes = success_count
        WHERE partner_id = $1 AND rule_id = $2
        """,
        scope.partner_id,
        rule_id,
    )


async def fate(scope: PartnerScope, rule_id: str, appliance_id: str | None) -> Fate:
    """Return how a rule fared since its approval: on one appliance, or (None) on all of the partner's."""
    row = await scope.conn.fetchrow(
        """
        SELECT coalesce(sum(greatest(total_count - base_count, 0)), 0)::bigint AS count,
               coalesce(sum(greatest(success_count - base_successes, 0)), 0)::bigint AS successes
        FROM rule_trials
        WHERE partner_id = $1 AND rule_id = $2 AND ($3::text IS NULL OR appliance_id = $3)
        """,
        scope.partner_id,
        rule_id,
        appliance_id,
    )
    return Fate(**row) if row else Fate(0, 0)


async def fates(scope: PartnerScope, rule_ids: Sequence[str]) -> dict[str, Fate]:
    """Return how some rules fared since their approval on all of the partner's appliances, if they ever ran."""
    rows = await scope.conn.fetch(
        """
        SELECT rule_id, sum(greatest(total_count - base_count, 0))::bigint AS count,
               sum(greatest(success_count - base_successes, 0))::bigint AS successes
        FROM rule_trials
        WHERE partner_id = $1 AND rule_id = ANY ($2)
        GROUP BY rule_id
        """,
        scope.partner_id,
        rule_ids,
    )
    return {row["rule_id"]: Fate(row["count"], row["successes"]) for row in rows}


async def take_due(scope: PlatformScope, limit: int) -> list[Told]:
    """Return the rules that some appliance told anew of, in order, and count that as seen.

    One on trial is judged by its canary alone.
    """
    rows = await scope.conn.fetch(
        """
        WITH chosen AS (
            SELECT DISTINCT partner_id, rule_id
            FROM rule_trials
            WHERE due
            ORDER BY partner_id, rule_id
            LIMIT $1
        ), seen AS (
            UPDATE rule_trials t SET due = false
            FROM chosen c
            WHERE t.due AND (t.partner_id, t.rule_id) = (c.partner_id, c.rule_id)
        )
        SELECT c.partner_id, c.rule_id, r.status,
               coalesce(sum(greatest(t.total_count - t.base_count, 0)), 0)::bigint AS count,
               coalesce(sum(greatest(t.success_count - t.base_successes, 0)), 0)::bigint AS successes
        FROM chosen c
        LEFT JOIN rules r ON r.partner_id = c.partner_id AND r.id = c.rule_id
        LEFT JOIN rule_trials t
          ON t.partner_id = c.partner_id AND t.rule_id = c.rule_id
             AND (r.status <> 'canary' OR t.appliance_id = r.canary_appliance_id)
        GROUP BY c.partner_id, c.rule_id, r.status
        ORDER BY c.partner_id, c.rule_id
        """,
        limit,
    )
    return [
        Told(row["partner_id"], row["rule_id"], row["status"], Fate(row["count"], row["successes"])) for row in rows
    ]
