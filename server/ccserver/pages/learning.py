"""What repairs taught, on pages: candidates with their reasons, rules with how they fare, and what people decide."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, listing, promoting
from ccserver.errors import ChangedMeanwhileError, RuleStateError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.promoting import Decision
from ccserver.queries import pattern_stats, planner, rule_trials, rules
from ccserver.queries.rules import Rule
from ccserver.scope import PartnerScope
from ccshared.messages import Id, Message, Prose
from ccshared.vocabulary import RuleStatus

_RULES = 20  # a page; each is summed over all the appliances that it runs on
_PATTERNS = ListQuery(limit=20)
_CHANGED = "Somebody decided, or the numbers changed, since you opened this page. Nothing was done: look, then decide."
_Decide = Callable[[PartnerScope, Decision, str | None], Awaitable[Rule]]


class LearningQuery(Message):
    """Which rules are listed, where the page begins, and of which site the patterns are: of all, unless said."""

    status: RuleStatus | None = None
    site: Id | None = None
    cursor: Cursor | None = None


class Judgement(Message):
    """Why somebody decides so, and on which appliance a rule is tried first."""

    comment: Annotated[Prose, StringConstraints(min_length=1, max_length=2000)]
    appliance: Id | None = None


async def show_list(request: Request) -> Response:
    """List the partner's rules, candidates too, newest first, each with how it fared, and the patterns met last."""
    asked, key = read_query(request, LearningQuery, of_form=True), context.of(request).cursor_key
    async with auth.partner_scope(request) as scope:
        name = f"rules:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor, limit=_RULES), key, name)
        rows = await rules.newest(scope, asked.status, page)
        await planner.join_by_hash(scope)
        fates = await rule_trials.fates(scope, [row.id for row in rows])
        patterns = await pattern_stats.newest(scope, asked.site, listing.page_of(_PATTERNS, key, f"patterns:{name}"))
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {
        "rules": found.items,
        "next": found.next,
        "fates": fates,
        "patterns": patterns[: _PATTERNS.limit],
        "asked": asked,
        "statuses": list(RuleStatus),
        "catalogue": context.of(request).catalogue,
    }
    return render.page(request, "learning.html", values)


async def show(request: Request) -> Response:
    """Show a rule: why it was proposed, what it would have done, and how it fares."""
    return await _page(request)


async def approve(request: Request) -> Response:
    """Let a rule be tried on one appliance; one that was tried well runs on all from now on."""
    return await _decide(request, promoting.approve)


async def reject(request: Request) -> Response:
    """Say no to a candidate: it is not proposed again."""
    return await _decide(request, lambda scope, decision, _: promoting.reject(scope, decision))


async def demote(request: Request) -> Response:
    """Take a rule back that runs."""
    return await _decide(request, lambda scope, decision, _: promoting.demote(scope, decision))


async def _decide(request: Request, decide: _Decide) -> Response:
    fields, rule_id = await forms.read_form(request, forms.LONG_BYTES), path_id(request, "rule")
    asked = forms.message_of(fields, Judgement)
    decision = Decision(rule_id, forms.revision_of(fields), request.state.principal.actor, asked.comment)
    try:
        async with auth.partner_scope(request) as scope:
            await decide(scope, decision, asked.appliance)
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    except RuleStateError as error:
        return await _page(request, refused=f"Nothing was decided. {error}", status=409)
    return render.redirect(render.addresses(request)(f"/learning/{rule_id}"))


async def _page(request: Request, refused: str | None = None, status: int = 412) -> Response:
    async with auth.partner_scope(request) as scope:
        found = await promoting.explain(scope, path_id(request, "rule"))
    values = {
        "found": found,
        "rule": found.rule,
        "conditions": _conditions(found.rule.conditions),
        "runbook": context.of(request).catalogue.get(found.rule.runbook_id),
        "most_past": promoting.MAX_PAST,
        "refused": refused,
    }
    return render.page(request, "rule.html", values, status if refused else 200)


def _conditions(said: Any) -> list[str]:
    """Return what a rule asks for, a line each; what is no rule of ours as it stands."""
    if not isinstance(said, list):
        return [str(said)]
    names = ("field", "operator", "value")
    return [" ".join(str(each.get(name)) for name in names) if isinstance(each, dict) else str(each) for each in said]


_ONE = "/learning/{rule}"
ENDPOINTS = [
    Endpoint("GET", "/learning", show_list, Caller.READ),
    Endpoint("GET", _ONE, show, Caller.READ),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE),
    Endpoint("POST", _ONE + "/reject", reject, Caller.OPERATE),
    Endpoint("POST", _ONE + "/demote", demote, Caller.OPERATE),
]
