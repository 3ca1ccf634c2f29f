"""A partner's people on a page: listed, invited, given a new link, disabled."""

from typing import Self

from pydantic import model_validator
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, invitations, listing, ownership, revoking
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.invitations import LINK_HOURS, Login, PartnerRole
from ccserver.listing import Cursor, ListQuery
from ccserver.ownership import NewRole
from ccserver.pages import forms, render
from ccserver.queries import users
from ccserver.queries.users import User
from ccshared import ids
from ccshared.messages import Message, Prose

_CHANGED = "Somebody changed this person since you opened this page. What stands here is new: look, then go on."


class PeopleQuery(Message):
    """Where the page of the list begins."""

    cursor: Cursor | None = None


class RoleChange(Message):
    """What a person is from now on; `sites` are an auditor's, by their ids with spaces in between."""

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


class Invitation(RoleChange):
    """A person to be invited."""

    login: Login


async def show(request: Request) -> Response:
    """List the partner's people, and show the form that invites one."""
    return await _page(request)


async def change_role(request: Request) -> Response:
    """Give a person another role, an auditor with the sites to read; the last owner stays one."""
    fields = await forms.read_form(request, 64 * 1024)
    asked, revision = forms.message_of(fields, RoleChange), forms.revision_of(fields)
    new = NewRole(str(asked.role), asked.site_ids, revision)
    try:
        async with auth.partner_scope(request) as scope:
            await ownership.give_role(scope, request.state.principal.actor, path_id(request, "user"), new)
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    return render.redirect(render.addresses(request)("/people"))


async def _page(request: Request, refused: str | None = None) -> Response:
    asked = read_query(request, PeopleQuery)
    key = context.of(request).cursor_key
    async with auth.partner_scope(request) as scope:
        name = f"users:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await users.newest(scope, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {"people": found.items, "next": found.next, "roles": list(PartnerRole), "hours": LINK_HOURS}
    return render.page(request, "people.html", values | {"refused": refused}, 412 if refused else 200)


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
    Endpoint("POST", _ONE + "/role", change_role, Caller.OWN),
    Endpoint("POST", _ONE + "/reset", reset, Caller.OWN),
    Endpoint("POST", _ONE + "/disable", disable, Caller.OWN),
]
