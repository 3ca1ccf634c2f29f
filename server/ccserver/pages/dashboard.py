"""A partner's sites on one page: what stands how, since when, and what proves it."""

import re
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context
from ccserver.auth import Principal
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint
from ccserver.pages import render, site_view
from ccserver.pages.site_view import Rows
from ccserver.queries import (
    appliances,
    check_states,
    equivocations,
    evidence_bundles,
    evidence_logs,
    incidents,
    log_verifications,
    partners,
    sites,
    waivers,
)
from ccserver.queries.partners import Partner
from ccserver.scope import PartnerScope, PlatformScope
from ccshared.vocabulary import Role

SITES_PER_PAGE = 50
_PARTNERS = 200
_CHECKS_PER_SITE = 1000
_INCIDENTS_PER_SITE = 20
_EVIDENCE_PER_SITE = 10
_FLAGGED = 200
_ID = re.compile(r"[0-9a-z-]{1,64}")
_PAGE = re.compile(r"[1-9][0-9]{0,2}")


async def show(request: Request) -> Response:
    """Show the person's partner; a platform admin chooses one, unless there is only one."""
    person: Principal = request.state.principal
    try:
        return await (_show_to_admin if person.is_platform_admin else _show_to_partner)(request, person)
    except NotFoundError:
        text = "There is no such partner or page, or it is not yours to see."
        return render.message(request, "Not found", text, 404)


async def read(scope: PartnerScope, now: datetime, page: int, auditor_id: str | None = None) -> Rows:
    """Read what the page shows of the sites (page 1 is the first): ten queries, however many sites."""
    listed = await sites.page_by_name(scope, SITES_PER_PAGE + 1, (page - 1) * SITES_PER_PAGE, auditor_id)
    shown = listed[:SITES_PER_PAGE]
    ids = [site.id for site in shown]
    logs = await evidence_logs.newest_of_sites(scope, ids, _EVIDENCE_PER_SITE)
    return Rows(
        sites=shown,
        more=len(listed) > SITES_PER_PAGE,
        check_limit=_CHECKS_PER_SITE,
        appliances=await appliances.list_of_sites(scope, ids),
        states=await check_states.list_of_sites(scope, ids, now, _CHECKS_PER_SITE),
        incidents=await incidents.list_open_of_sites(scope, ids, _INCIDENTS_PER_SITE),
        bundles=await evidence_bundles.newest_of_logs(scope, logs, _EVIDENCE_PER_SITE),
        logs=logs,
        waivers=await waivers.in_force(scope, ids, now),
        flagged=await evidence_bundles.flagged_of_sites(scope, ids, _FLAGGED),
        forks=await equivocations.count_of_sites(scope, ids),
        faults=await log_verifications.faults_of_sites(scope, ids, _FLAGGED),
    )


async def _show_to_admin(request: Request, _person: Principal) -> Response:
    asked = request.query_params.get("partner")
    async with context.of(request).db.platform() as scope:
        if asked is None:
            found = await partners.list_all(scope, _PARTNERS + 1)
        else:
            found = [await _find(scope, asked)]
    if len(found) == 1:
        return await _show(request, found[0].id)
    return render.page(request, "partners.html", {"partners": found[:_PARTNERS], "more": len(found) > _PARTNERS})


async def _show_to_partner(request: Request, person: Principal) -> Response:
    own = person.partner_id
    if request.query_params.get("partner", own) != own:
        raise NotFoundError
    return await _show(request, own)


async def _show(request: Request, partner_id: str) -> Response:
    """Show a partner whom this person may see."""
    ctx, now, page = context.of(request), datetime.now(UTC), _page_number(request)
    auditor = _auditor(request.state.principal)
    async with ctx.db.partner(partner_id) as scope:
        partner = await partners.find(scope)
        rows = await read(scope, now, page, auditor)
    if auditor is not None and page == 1 and not rows.sites:
        text = "This account is an auditor's, and no site is assigned to it yet. Ask the partner who made it."
        return render.message(request, "No site is assigned to you", text, 403)
    if partner is None or (page > 1 and not rows.sites):
        raise NotFoundError
    values = {
        "partner": partner,
        "sites": site_view.build(ctx, rows, now),
        "page": page,
        "first": (page - 1) * SITES_PER_PAGE + 1,
        "more": rows.more,
        "now": now,
        "public_url": ctx.config.public_url,
    }
    return render.page(request, "dashboard.html", values)


async def _find(scope: PlatformScope, partner_id: str) -> Partner:
    found = await partners.find_anywhere(scope, partner_id) if _ID.fullmatch(partner_id) else None
    if found is None:
        raise NotFoundError
    return found


def _auditor(person: Principal) -> str | None:
    """Return the id of an auditor, who is bound to sites; an API key of that role has none, and sees no site."""
    if person.role is not Role.AUDITOR:
        return None
    return person.user.id if person.user else ""


def _page_number(request: Request) -> int:
    text = request.query_params.get("page", "1")
    if not _PAGE.fullmatch(text):
        raise NotFoundError
    return int(text)


ENDPOINTS = [Endpoint("GET", "/", show, Caller.AUDIT)]
