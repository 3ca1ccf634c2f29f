"""Rules, and the patterns that they come from."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import click

from ccserver import promoting
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Partner
from ccserver.errors import NotFoundError
from ccserver.promoting import Decision, Explained
from ccserver.queries import pattern_stats, rules
from ccserver.queries.pattern_stats import Pattern
from ccserver.queries.rules import Rule
from ccserver.scope import Database, PartnerScope
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


@command.command("explain")
@click.argument("rule_id")
@Partner
@AsJson
def explain(rule_id: str, partner_id: str, as_json: bool) -> None:
    """Say why there is a rule, by the numbers of now, what it would have done in the past, and how it fares."""

    async def act(db: Database) -> Explained:
        async with db.partner(partner_id) as scope:
            return await promoting.explain(scope, rule_id)

    found: Explained = with_database(act)
    show(asdict(found), as_json, "\n".join(_lines(found)))


def _lines(found: Explained) -> list[str]:
    rule, said, replayed = found.rule, found.evidence, found.replay
    sure = f"at least {said.lower_bound_permille / 10:.1f} %, 95 % sure, {said.mean_ms / 1000:.1f} s each"
    sure = f"at least {said.lower_bound_permille / 10:.1f} %, 95 % sure, {said.mean_ms / 1000:.1f} s each"
    lines = [
        f"{rule.id}  {rule.status}  {rule.pattern_signature} -> {rule.runbook_id}",
        f"{said.successes} of {said.count} succeeded ({sure}), on {said.appliances} appliances at {said.sites} sites",
        "the numbers speak for it" if said.eligible else f"the numbers do not speak for it: {said.why_not}",
        f"on trial: {found.trial.successes} of {found.trial.count}",
        f"everywhere: {found.everywhere.successes} of {found.everywhere.count}",
    ]
    if replayed is None:
        return [*lines, "its conditions cannot be read, so no appliance gets it"]
    ended = ", ".join(f"{number} {name}" for name, number in replayed.ended.items())
    return [
        *lines,
        f"of the past it would have answered {replayed.matched} of {replayed.looked_at} ({ended or 'none'})",
    ]


def _deciding(command_of: Callable[..., None]) -> Callable[..., None]:
    """Give a command what every decision takes: the rule, its partner, a comment, consent, output for programs."""
    command_of = click.option("--comment", required=True, help="Why: it stands in the audit log.")(AsJson(command_of))
    return click.argument("rule_id")(Partner(reaching.destroys(command_of)))


@command.command("approve")
@click.option("--appliance", "appliance_id", help="Where it is tried first; by default where its pattern is met.")
@_deciding
def approve(appliance_id: str | None, **given: Any) -> None:
    """Let a rule be tried on one appliance; one that was tried well runs on all from now on."""
    _decide("approve", given, lambda scope, decision: promoting.approve(scope, decision, appliance_id))


@command.command("reject")
@_deciding
def reject(**given: Any) -> None:
    """Say no to a candidate: it is not proposed again."""
    _decide("reject", given, promoting.reject)


@command.command("demote")
@_deciding
def demote(**given: Any) -> None:
    """Take a rule back that runs."""
    _decide("demote", given, promoting.demote)


def _decide(verb: str, given: dict[str, Any], decide: Callable[[PartnerScope, Decision], Awaitable[Rule]]) -> None:
    rule_id, consent = given["rule_id"], Consent(given["yes"], given["dry_run"])
    consent.ask(f"{verb} rule {rule_id}")
    done: list[Rule] = []

    async def act(db: Database) -> None:
        async with reaching.keeping(db.partner(given["partner_id"]), consent) as scope:
            rule = await rules.find(scope, rule_id)
            if rule is None:
                raise NotFoundError(f"There is no rule {rule_id}: `ccserver rule list` shows them.")
            done.append(await decide(scope, Decision(rule_id, rule.revision, actor(), given["comment"])))

    with_database(act)
    (rule,) = done
    tried = f", tried on {rule.canary_appliance_id}" if rule.status == RuleStatus.CANARY else ""
    show(asdict(rule), given["as_json"], consent.say(f"{rule_id} is {rule.status}{tried}"))
