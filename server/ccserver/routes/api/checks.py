"""What a site's checks say now, its score with the numbers behind it, and its snapshots over time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, compliance
from ccserver.compliance import CheckState
from ccserver.http import Caller, Endpoint, read_query, reply_value
from ccserver.listing import MAX_LIMIT, Listing, ListQuery
from ccserver.queries import appliances, check_states, compliance_snapshots, planner
from ccserver.queries.compliance_snapshots import Snapshot
from ccserver.routes.api import lists
from ccshared.messages import Message

MAX_STATES = 10_000  # read of a site at once


class ChecksQuery(Message):
    """Which states are shown; the score is over all of them."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = MAX_LIMIT
    offset: Annotated[int, Field(ge=0, le=MAX_STATES)] = 0


@dataclass(frozen=True)
class Score:
    """Passing checks among those known, 0 … 1, None where none is; `as_of` is the oldest fresh run that counts."""

    value: float | None
    passed: int
    failed: int
    unknown: int
    waived: int
    as_of: datetime | None


@dataclass(frozen=True)
class Checks:
    """A site's score and the states behind it, worst first; `total` counts the states."""

    score: Score
    items: list[CheckState]
    total: int


async def show_checks(request: Request) -> Response:
    """Show a site's check states, worst first, and its score."""
    asked = read_query(request, ChecksQuery)
    async with auth.site_scope(request) as scope:
        found = await check_states.list_of_sites(scope, [scope.site_id], datetime.now(UTC), MAX_STATES)
        own = await appliances.list_of_sites(scope, [scope.site_id])
    states = found.get(scope.site_id, [])
    shown = states[asked.offset : asked.offset + asked.limit]
    return reply_value(
        Checks, Checks(_score(states, [each.id for each in own.get(scope.site_id, [])]), shown, len(states))
    )


def _score(states: list[CheckState], own: list[str]) -> Score:
    score = compliance.score(states, own)
    as_of = min((state.seen_at for state in states if state.counts), default=None)
    return Score(score.value, score.passed, score.failed, score.unknown, score.waived, as_of)


async def list_snapshots(request: Request) -> Response:
    """List a site's compliance snapshots, newest first: one a day and one at each change."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:
        await planner.read_in_order(scope)
        source = lists.Source(
            name=f"snapshots:{scope.partner_id}:{scope.site_id}",
            kind=Snapshot,
            fetch=lambda page: compliance_snapshots.newest(scope, page),
            count=lambda: compliance_snapshots.count(scope),
            place=lambda snapshot: (snapshot.snapshot_at, str(snapshot.id)),
        )
        return await lists.answer(request, asked, source)


_SITE = "/api/v1/sites/{site}"
ENDPOINTS = [
    Endpoint("GET", _SITE + "/checks", show_checks, Caller.AUDIT, None, {200: Checks}, ChecksQuery),
    Endpoint("GET", _SITE + "/snapshots", list_snapshots, Caller.AUDIT, None, {200: Listing[Snapshot]}, ListQuery),
]
