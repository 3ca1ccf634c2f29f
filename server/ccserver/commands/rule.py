"""Rules, and the patterns that they come from."""

import click

from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, show, with_database
from ccserver.commands.reaching import NEWEST, Partner
from ccserver.queries import pattern_stats, rules
from ccserver.queries.pattern_stats import Pattern
from ccserver.queries.rules import Rule
from ccserver.scope import Database
from ccshared.vocabulary import RuleStatus


@click.group("rule")
def command() -> None:
    """What a partner's sites have taught."""


@command.command("list")
@Partner
@click.option("--status", type=click.Choice([str(each) for each in RuleStatus]))
@AsJson
def list_rules(partner_id: str, status: str | None, as_json: bool) -> None:
    """List a partner's newest rules, candidates too."""

    async def act(db: Database) -> list[Rule]:
        async with db.partner(partner_id) as scope:
            return await rules.newest(scope, status, NEWEST)

    found: list[Rule] = with_database(act)
    lines = [f"{row.id}  {row.status}  {row.pattern_signature} -> {row.runbook_id}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no rules yet")


@command.command("patterns")
@Partner
@AsJson
def list_patterns(partner_id: str, as_json: bool) -> None:
    """List the patterns that a partner's appliances have met, with their totals."""

    async def act(db: Database) -> list[Pattern]:
        async with db.partner(partner_id) as scope:
            return await pattern_stats.newest(scope, None, NEWEST)

    found: list[Pattern] = with_database(act)
    lines = [f"{row.pattern_signature}  {row.incident_type}  {row.success_count}/{row.total_count}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no patterns yet")
