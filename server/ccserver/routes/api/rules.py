"""What a partner's sites have taught: patterns with their totals, and the rules that came of them."""

import functools
from typing import Annotated, TypeVar

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, promoting
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.promoting import Decision, Explained
from ccserver.queries import pattern_stats, planner, rules
from ccserver.queries.pattern_stats import Pattern
from ccserver.queries.rules import Rule
from ccserver.routes.api import lists
from ccshared.messages import Id, Message, Prose
from ccshared.vocabulary import RuleStatus


class PatternQuery(ListQuery):
    """Which patterns: those of one site."""

    site: Id | None = None


class RuleQuery(ListQuery):
    """Which rules: of one status."""

    status: RuleStatus | None = None


class Judgement(Message):
    """Why somebody decides so."""

    comment: Annotated[Prose, StringConstraints(min_length=1, max_length=2000)]


class Approval(Judgement):
    """Why, and the appliance that the rule is tried on first; by default one that meets its pattern."""

    appliance_id: Id | None = None


AnyJudgement = TypeVar("AnyJudgement", bound=Judgement)


async def list_patterns(request: Request) -> Response:
    """List the patterns that the partner's appliances, or one site's, have met, with their totals, last told first."""
    asked = read_query(request, PatternQuery)
    async with auth.scope_asked(request, asked.site) as scope:
        await planner.join_by_hash(scope)
        source = lists.Source(
            name=f"patterns:{scope.partner_id}:{asked.site or ''}",
            kind=Pattern,
            fetch=functools.partial(pattern_stats.newest, scope, asked.site),
            count=functools.partial(pattern_stats.count, scope, asked.site),
            place=lambda pattern: (pattern.received_at, pattern.pattern_signature),
        )
        return await lists.answer(request, asked, source)


async def list_rules(request: Request) -> Response:
    """List the partner's rules, candidates too, newest first."""
    asked = read_query(request, RuleQuery)
    async with auth.partner_scope(request) as scope:
        source = lists.Source(
            name=f"rules:{scope.partner_id}",
            kind=Rule,
            fetch=functools.partial(rules.newest, scope, asked.status),
            count=functools.partial(rules.count, scope, asked.status),
            place=lambda rule: (rule.created_at, rule.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a rule."""
    async with auth.partner_scope(request) as scope:
        found = await rules.find(scope, path_id(request, "rule"))
    if found is None:
        raise NotFoundError
    return reply_value(Rule, found, revision=found.revision)


async def explain(request: Request) -> Response:
    """Show the numbers behind a rule as they are now, what it would have done in the past, and how it fares."""
    async with auth.partner_scope(request) as scope:
        found = await promoting.explain(scope, path_id(request, "rule"))
    return reply_value(Explained, found, revision=found.rule.revision)


async def approve(request: Request) -> Response:
    """Let a rule be tried on one appliance; one that was tried well runs on all from now on."""
    decision, asked = await _decision(request, Approval)
    async with auth.partner_scope(request) as scope:
        rule = await promoting.approve(scope, decision, asked.appliance_id)
    return reply_value(Rule, rule, revision=rule.revision)


async def reject(request: Request) -> Response:
    """Say no to a candidate: it is not proposed again."""
    decision, _ = await _decision(request, Judgement)
    async with auth.partner_scope(request) as scope:
        rule = await promoting.reject(scope, decision)
    return reply_value(Rule, rule, revision=rule.revision)


async def demote(request: Request) -> Response:
    """Take a rule back that runs."""
    decision, _ = await _decision(request, Judgement)
    async with auth.partner_scope(request) as scope:
        rule = await promoting.demote(scope, decision)
    return reply_value(Rule, rule, revision=rule.revision)


async def _decision(request: Request, kind: type[AnyJudgement]) -> tuple[Decision, AnyJudgement]:
    revision, asked = if_match(request), await read(request, kind)
    actor = request.state.principal.actor
    return Decision(path_id(request, "rule"), revision, actor, asked.comment), asked


_ONE = "/api/v1/rules/{rule}"
_EDITED = ("If-Match",)
ENDPOINTS = [
    Endpoint("GET", "/api/v1/patterns", list_patterns, Caller.READ, None, {200: Listing[Pattern]}, PatternQuery),
    Endpoint("GET", "/api/v1/rules", list_rules, Caller.READ, None, {200: Listing[Rule]}, RuleQuery),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: Rule}),
    Endpoint("GET", _ONE + "/explain", explain, Caller.READ, None, {200: Explained}),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE, Approval, {200: Rule}, headers=_EDITED),
    Endpoint("POST", _ONE + "/reject", reject, Caller.OPERATE, Judgement, {200: Rule}, headers=_EDITED),
    Endpoint("POST", _ONE + "/demote", demote, Caller.OPERATE, Judgement, {200: Rule}, headers=_EDITED),
]
