"""People of a partner: listed, invited, disabled, and given a link when they lost a credential."""

import secrets
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, invitations, ownership, revoking
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, read_query, reply_value
from ccserver.invitations import Login, PartnerRole
from ccserver.listing import COUNTED_TO, Listing, ListQuery, listing, page_of
from ccserver.ownership import NewRole
from ccserver.queries import users
from ccserver.queries.users import Account, User
from ccserver.routes.api import creating
from ccshared import ids
from ccshared.messages import Id, Message

# JSON Schema for what _sites_are_an_auditors refuses.
_SITES_GO_WITH_THE_ROLE: JsonDict = {
    "if": {"properties": {"role": {"const": "auditor"}}},
    "then": {"required": ["sites"], "properties": {"sites": {"minItems": 1}}},
    "else": {"properties": {"sites": {"maxItems": 0}}},
}


class RoleChange(Message):
    """What a person is from now on; `sites` are for an auditor, who reads those and nothing else."""

    model_config = ConfigDict(json_schema_extra=_SITES_GO_WITH_THE_ROLE)

    role: PartnerRole
    sites: Annotated[tuple[Id, ...], Field(max_length=1000, json_schema_extra={"uniqueItems": True})] = ()

    @model_validator(mode="after")
    def _sites_are_an_auditors(self) -> Self:
        if (self.role is PartnerRole.AUDITOR) != bool(self.sites) or len(set(self.sites)) != len(self.sites):
            raise ValueError("an auditor has sites, each named once; nobody else has any")
        return self


class InviteRequest(RoleChange):
    """A person to be invited."""

    login: Login


class ResetRequest(Message):
    """A person who lost a credential; `second_factor` voids the authenticator and recovery codes too."""

    second_factor: Annotated[bool, Field(strict=True)] = False


class Link(Message):
    """A person and the one-time link to choose a password by, shown this once and good for 72 hours."""

    user_id: str
    link: str


class Invited(Message):
    """Who was invited: all that is kept for the same request again."""

    user_id: str


class Disabled(Message):
    """The person who can no longer sign in."""

    user_id: str


async def list_users(request: Request) -> Response:
    """List the partner's people, newest first."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        key, name = context.of(request).cursor_key, f"users:{scope.partner_id}"
        page = page_of(asked, key, name)
        rows = await users.newest(scope, page)
        total = await users.count(scope, COUNTED_TO) if asked.total else None
    found = listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    return reply_value(Listing[Account], found.model_copy(update={"total": total}))


async def show(request: Request) -> Response:
    """Show a person."""
    async with auth.partner_scope(request) as scope:
        found = await users.account(scope, path_id(request, "user"))
    if found is None:
        raise NotFoundError
    return reply_value(Account, found, revision=found.revision)


async def change_role(request: Request) -> Response:
    """Give a person another role; If-Match says what was read. The last owner stays one."""
    revision, asked, user_id = if_match(request), await read(request, RoleChange), path_id(request, "user")
    async with auth.partner_scope(request) as scope:
        new = NewRole(str(asked.role), [*asked.sites], revision)
        found = await ownership.give_role(scope, request.state.principal.actor, user_id, new)
    return reply_value(Account, found, revision=found.revision)


async def invite(request: Request) -> Response:
    """Invite a person, who chooses a password by the link in the answer."""
    asked = await read(request, InviteRequest)
    async with auth.partner_scope(request) as scope:
        creation = creating.Creation(request, asked, Invited, None)
        token = creating.repeatable(context.of(request).keys, creation, scope.partner_id) or secrets.token_urlsafe(32)

        async def insert() -> tuple[str, Invited]:
            user = User(scope.partner_id, ids.new_id(), asked.login, str(asked.role))
            await invitations.invite(scope, request.state.principal.actor, user, [*asked.sites], token)
            return user.id, Invited(user_id=user.id)

        invited = await creating.once(scope, creation, insert)
    return reply_value(Link, _link(request, invited.user_id, token), 201)


async def disable(request: Request) -> Response:
    """Keep a person from signing in; their sessions end at once. Nobody disables themselves."""
    user_id = path_id(request, "user")
    async with auth.partner_scope(request) as scope:
        user = await revoking.disable_person(scope, request.state.principal, user_id)
    return reply_value(Disabled, Disabled(user_id=user.id))


async def reset(request: Request) -> Response:
    """Make a link by which a person chooses another password."""
    asked, user_id = await read(request, ResetRequest), path_id(request, "user")
    async with auth.partner_scope(request) as scope:
        user = await users.find(scope, user_id)
        if user is None:
            raise NotFoundError
        token = await invitations.reset(scope, request.state.principal.actor, user, second_factor=asked.second_factor)
    return reply_value(Link, _link(request, user.id, token))


def _link(request: Request, user_id: str, token: str) -> Link:
    return Link(user_id=user_id, link=f"{context.of(request).config.public_url}/welcome/{token}")


ENDPOINTS = [
    Endpoint("GET", "/api/v1/users", list_users, Caller.OWN, None, {200: Listing[Account]}, ListQuery),
    Endpoint("POST", "/api/v1/users", invite, Caller.OWN, InviteRequest, {201: Link}, headers=("Idempotency-Key",)),
    Endpoint("GET", "/api/v1/users/{user}", show, Caller.OWN, None, {200: Account}),
    Endpoint(
        "PATCH", "/api/v1/users/{user}", change_role, Caller.OWN, RoleChange, {200: Account}, headers=("If-Match",)
    ),
    Endpoint("POST", "/api/v1/users/{user}/disable", disable, Caller.OWN, None, {200: Disabled}),
    Endpoint("POST", "/api/v1/users/{user}/reset", reset, Caller.OWN, ResetRequest, {200: Link}),
]
