"""A partner's people on a page: listed, invited, given a new link, disabled."""

from typing import Self

from pydantic import model_validator
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, invitations, listing, revoking
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.invitations import LINK_HOURS, Login, PartnerRole
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import ids
from ccshared.messages import Message, Prose


class PeopleQuery(Message):
    """Where the page of the list begins."""

    cursor: Cursor | None = None


class Invitation(Message):
    """A person to be invited; `sites` are an auditor's, by their ids with spaces in between."""

    login: Login
    role: PartnerRole
    sites: Prose = ""

    @property
    def site_ids(self) -> list[str]:
        """The sites, each once."""
        return [*dict.fromkeys(self.sites.split())]

    @model_validator(mode="after")
    def _sites_are_an_auditors(self) -> Self:
        if (self.role is PartnerRole.AUDITOR) != bool(self.site_ids) or len(self.site_ids) > 1000:
            raise ValueError("an auditor has sites, and nobody else has any")
        if not all(map(ids.is_id, self.site_ids)):
            raise ValueError("sites: their ids, with spaces in between")
        return self


async def show(request: Request) -> Response:
    """List the partner's people, and show the form that invites one."""
    asked = read_query(request, PeopleQuery)
    key = context.of(request).cursor_key
    async with auth.partner_scope(request) as scope:
        name = f"users:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await users.newest(scope, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {"people": found.items, "next": found.next, "roles": list(PartnerRole), "hours": LINK_HOURS}
    return render.page(request, "people.html", values)


async def invite(request: Request) -> Response:
    """Invite a person, and show the link this once by which they choose a password."""
    asked = forms.message_of(await forms.read_form(request, 64 * 1024), Invitation)
    async with auth.partner_scope(request) as scope:
        user = User(scope.partner_id, ids.new_id(), asked.login, str(asked.role))
        token = await invitations.invite(scope, request.state.principal.actor, user, asked.site_ids)
    return _link(request, user, token)


async def reset(request: Request) -> Response:
    """Show a link this once by which somebody chooses another password, and gives up the authenticator if asked."""
    fields, user_id = await forms.read_form(request), path_id(request, "user")
    async with auth.partner_scope(request) as scope:
        user = await users.find(scope, user_id)
        if user is None:
            raise NotFoundError
        lost = fields.get("second_factor") == "yes"
        token = await invitations.reset(scope, request.state.principal.actor, user, second_factor=lost)
    return _link(request, user, token)


async def disable(request: Request) -> Response:
    """Keep a person from signing in."""
    async with auth.partner_scope(request) as scope:
        await revoking.disable_person(scope, request.state.principal, path_id(request, "user"))
    return render.redirect(render.addresses(request)("/people"))


def _link(request: Request, user: User, token: str) -> Response:
    link = f"{context.of(request).config.public_url}/welcome/{token}"
    return render.page(request, "link_made.html", {"link": link, "login": user.login, "hours": LINK_HOURS})


_ONE = "/people/{user}"
ENDPOINTS = [
    Endpoint("GET", "/people", show, Caller.OWN),
    Endpoint("POST", "/people", invite, Caller.OWN),
    Endpoint("POST", _ONE + "/reset", reset, Caller.OWN),
    Endpoint("POST", _ONE + "/disable", disable, Caller.OWN),
]
