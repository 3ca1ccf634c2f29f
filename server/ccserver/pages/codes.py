"""Enrolment codes on a page: made for a site and shown this once, listed, and revoked while they are good."""

from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, enrolment, issuing, revoking
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.issuing import WantedCode
from ccserver.listing import START, Page
from ccserver.pages import forms, render
from ccserver.queries import appliances, enrollment_codes, sites
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.scope import SiteScope
from ccshared import purposes
from ccshared.messages import Id, Message

_SITES = 1000
_CODES = Page(50, 0, *START)


class CodesQuery(Message):
    """Whose codes are listed, and the appliance whose place the next one's device takes."""

    site: Id | None = None
    appliance: Id | None = None


class NewCode(CodesQuery):
    """A code to be made."""

    site: Id
    hours: Annotated[int, Field(ge=1, le=issuing.MAX_CODE_HOURS)] = enrolment.CODE_HOURS


async def show(request: Request) -> Response:
    """Show the form that makes a code, and the codes of a site."""
    asked = read_query(request, CodesQuery, of_form=True)
    async with auth.partner_scope(request) as scope:
        places = await sites.open_by_name(scope, _SITES)
    codes: list[CodeDetail] = []
    if asked.site is not None:
        async with auth.scope_asked(request, asked.site) as scope:
            codes = await enrollment_codes.newest(scope, _CODES) if isinstance(scope, SiteScope) else []
    values = {"sites": places, "codes": codes, "asked": asked, "hours": enrolment.CODE_HOURS}
    return render.page(request, "codes.html", values | {"max_hours": issuing.MAX_CODE_HOURS})


async def create(request: Request) -> Response:
    """Make a code and show it this once, with the line that uses it; the code is in no address and no argument."""
    asked = forms.message_of(await forms.read_form(request), NewCode)
    keys, actor = context.of(request).keys, request.state.principal.actor
    code = enrolment.code_of(keys, purposes.new_secret())
    async with auth.scope_asked(request, asked.site) as scope:
        assert isinstance(scope, SiteScope)  # noqa: S101  a site was named
        site = await sites.names(scope, [asked.site])
        detail = await issuing.keep_code(scope, actor, WantedCode(asked.hours, asked.appliance), code)
    values = {
        "code": str(code),
        "detail": detail,
        "site_id": asked.site,
        "site_name": site.get(asked.site, asked.site),
        "appliance": None,
        "install": f"sudo cc-agent enroll --server-url {context.of(request).config.public_url}",
    }
    return render.page(request, "code_made.html", values)


async def follow(request: Request) -> Response:
    """Show what became of a code: waiting, enrolled, and its appliance's first check-in."""
    async with auth.site_scope(request) as scope:
        detail = await enrollment_codes.find(scope, path_id(request, "code"))
        if detail is None:
            raise NotFoundError
        found = await appliances.find(scope, detail.used_by_id) if detail.used_by_id else None
    values = {"detail": detail, "appliance": found, "site_id": scope.site_id}
    return render.page(request, "code_state.html", values)


async def revoke(request: Request) -> Response:
    """Make a code useless that no device has used."""
    async with auth.site_scope(request) as scope:
        await revoking.revoke_code(scope, request.state.principal.actor, path_id(request, "code"))
    return render.redirect(render.addresses(request)("/codes", site=path_id(request, "site")))


ENDPOINTS = [
    Endpoint("GET", "/codes", show, Caller.OPERATE),
    Endpoint("POST", "/codes", create, Caller.OPERATE),
    Endpoint("GET", "/sites/{site}/codes/{code}", follow, Caller.OPERATE),
    Endpoint("POST", "/sites/{site}/codes/{code}/revoke", revoke, Caller.OPERATE),
]
