"""Problems: what people are told of, whether anybody is told or not; acknowledged and snoozed by hand."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import problem_handling
from ccserver.channel_handling import snoozed_until
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.queries import problems
from ccserver.queries.problems import Trouble
from ccserver.routes.api import lists
from ccserver.routes.api.channels import Snooze, told_scope


class ProblemQuery(ListQuery):
    """A page of problems: those that stand, those that ended, or all."""

    open: bool | None = None


async def list_problems(request: Request) -> Response:
    """List problems, newest first."""
    asked = read_query(request, ProblemQuery)
    async with told_scope(request) as scope:
        source = lists.Source(
            name=f"problems:{scope.partner_id}:{asked.open}",
            kind=Trouble,
            fetch=lambda page: problems.newest(scope, asked.open, page),
            count=lambda: problems.count(scope, asked.open),
            place=lambda row: (row.noticed_at, row.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a problem."""
    async with told_scope(request) as scope:
        found = await problem_handling.find(scope, path_id(request, "problem"))
    return reply_value(Trouble, found, revision=found.revision)


async def acknowledge(request: Request) -> Response:
    """Say that somebody looks after a problem: nobody is reminded of it any more."""
    revision, problem_id = if_match(request), path_id(request, "problem")
    async with told_scope(request) as scope:
        found = await problem_handling.acknowledge(scope, request.state.principal.actor, problem_id, revision)
    return reply_value(Trouble, found, revision=found.revision)


async def snooze(request: Request) -> Response:
    """Tell nobody of a problem until then; what still stands then is told."""
    revision, problem_id = if_match(request), path_id(request, "problem")
    until = snoozed_until((await read(request, Snooze)).until)
    async with told_scope(request) as scope:
        found = await problem_handling.snooze(scope, request.state.principal.actor, problem_id, revision, until)
    return reply_value(Trouble, found, revision=found.revision)


_IF_MATCH = ("If-Match",)


def _endpoints(every: str, reads: Caller, operates: Caller) -> list[Endpoint]:
    one = every + "/{problem}"
    return [
        Endpoint("GET", every, list_problems, reads, None, {200: Listing[Trouble]}, ProblemQuery),
        Endpoint("GET", one, show, reads, None, {200: Trouble}),
        Endpoint("POST", one + "/acknowledge", acknowledge, operates, None, {200: Trouble}, headers=_IF_MATCH),
        Endpoint("POST", one + "/snooze", snooze, operates, Snooze, {200: Trouble}, headers=_IF_MATCH),
    ]


ENDPOINTS = [
    *_endpoints("/api/v1/problems", Caller.READ, Caller.OPERATE),
    *_endpoints("/api/v1/platform/problems", Caller.PLATFORM, Caller.PLATFORM),
]
