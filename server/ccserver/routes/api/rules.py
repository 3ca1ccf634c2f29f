"""What a partner's sites have taught: patterns with their totals, and the rules that came of them."""

import functools

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.queries import pattern_stats, rules
from ccserver.queries.pattern_stats import Pattern
from ccserver.queries.rules import Rule
from ccserver.routes.api import lists
from ccshared.messages import Id
from ccshared.vocabulary import RuleStatus


class PatternQuery(ListQuery):
    """Which patterns: those of one site."""

    site: Id | None = None


class RuleQuery(ListQuery):
    """Which rules: of one status."""

    status: RuleStatus | None = None


async def list_patterns(request: Request) -> Response:
    """List the patterns that the partner's appliances, or one site's, have met, with their totals, last told first."""
    asked = read_query(request, PatternQuery)
    async with auth.scope_asked(request, asked.site) as scope:
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


ENDPOINTS = [
    Endpoint("GET", "/api/v1/patterns", list_patterns, Caller.READ, None, {200: Listing[Pattern]}, PatternQuery),
    Endpoint("GET", "/api/v1/rules", list_rules, Caller.READ, None, {200: Listing[Rule]}, RuleQuery),
    Endpoint("GET", "/api/v1/rules/{rule}", show, Caller.READ, None, {200: Rule}),
]
