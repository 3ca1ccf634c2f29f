"""A partner's sites in rows, worst first: what needs somebody, and where to go. Search, filter and order in the URL."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.auth import Principal
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, read_query
from ccserver.pages import render
from ccserver.queries import overview, partners, planner
from ccserver.queries.overview import Asked, Overview, Show, Sort
from ccserver.queries.partners import Partner
from ccserver.scope import PartnerScope, PlatformScope
from ccshared import ids
from ccshared.messages import Message

_PARTNERS = 200
_PER_PAGE = 50


class OverviewQuery(Message):
    """Which sites are listed: those whose name or id has `q` in it, of a kind, in an order, fifty to a page."""

    q: Annotated[str, StringConstraints(max_length=200)] = ""
    show: Show = Show.ALL
    sort: Sort = Sort.WORST
    page: Annotated[int, Field(le=10_000)] = 1


async def show(request: Request) -> Response:
    """Show the person's partner; a platform admin chooses one, unless there is only one."""
    person: Principal = request.state.principal
    try:
        return await (_show_to_admin if person.is_platform_admin else _show_to_partner)(request, person)
    except NotFoundError:
        text = "There is no such partner or page, or it is not yours to see."
        return render.message(request, "Not found", text, 404)


async def read(scope: PartnerScope, now: datetime, asked: Asked) -> tuple[Partner, Overview]:
    """Read the partner, its sums and a page of its sites: three statements, however many sites."""
    partner = await partners.find(scope)
    if partner is None:
        raise NotFoundError
    await planner.join_by_hash(scope)
    return partner, await overview.read(scope, now, asked)


async def _show_to_admin(request: Request, _person: Principal) -> Response:
    asked = request.query_params.get("partner")
    async with context.of(request).db.platform() as scope:
        if asked is None:
            found = await partners.list_all(scope, _PARTNERS + 1)
        else:
            found = [await _find(scope, asked)]
    if len(found) == 1:
        render.choose(request, found[0].id)
        return await _show(request, found[0].id)
    return render.page(request, "partners.html", {"partners": found[:_PARTNERS], "more": len(found) > _PARTNERS})


async def _show_to_partner(request: Request, person: Principal) -> Response:
    own = person.partner_id
    if request.query_params.get("partner", own) != own:
        raise NotFoundError
    return await _show(request, own)


async def _show(request: Request, partner_id: str) -> Response:
    """Show a partner whom this person may see."""
    asked, now, auditor = read_query(request, OverviewQuery, of_form=True), datetime.now(UTC), auth.auditor_id(request)
    if asked.page < 1:
        raise NotFoundError
    first = (asked.page - 1) * _PER_PAGE
    async with context.of(request).db.partner(partner_id) as scope:
        partner, found = await read(scope, now, Asked(asked.show, asked.sort, asked.q, first, _PER_PAGE, auditor))
    if auditor is not None and not found.summary.sites + found.summary.closed:
        text = "This account is an auditor's, and no site is assigned to it yet. Ask the partner who made it."
        return render.message(request, "No site is assigned to you", text, 403)
    if first and not found.sites:
        raise NotFoundError
    values = {
        "partner": partner,
        "asked": asked,
        "query": {"q": asked.q, "show": asked.show, "sort": asked.sort},
        "summary": found.summary,
        "sites": found.sites,
        "page": asked.page,
        "first": first + 1,
        "total": found.total,
        "more": first + _PER_PAGE < found.total,
        "shows": list(Show),
        "sorts": list(Sort),
        "now": now,
    }
    return render.page(request, "overview.html", values)


async def _find(scope: PlatformScope, partner_id: str) -> Partner:
    found = await partners.find_anywhere(scope, partner_id) if ids.is_id(partner_id) else None
    if found is None:
        raise NotFoundError
    return found


ENDPOINTS = [Endpoint("GET", "/", show, Caller.AUDIT)]
