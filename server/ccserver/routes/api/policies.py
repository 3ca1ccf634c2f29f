"""The versions of an appliance's policy: list, show, compare two, and make the settings of an old one again."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, policy_versions
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.policy_versions import Difference, Restored
from ccserver.queries import appliances, policies
from ccserver.queries.policies import Version
from ccserver.routes.api import lists
from ccshared.messages import Message


@dataclass(frozen=True)
class PolicyContent:
    """What a version of a policy says, as it was signed."""

    version: int
    policy: dict[str, Any]


class DifferenceQuery(Message):
    """The version that another one is compared with: the one before it, unless said."""

    against: Annotated[int, Field(ge=0, lt=2**53)] | None = None


async def list_versions(request: Request) -> Response:
    """List the versions of an appliance's policy, the newest first; each says something else than the one before."""
    asked, appliance_id = read_query(request, ListQuery), path_id(request, "appliance")
    async with auth.site_scope(request) as scope:
        if await appliances.find(scope, appliance_id) is None:
            raise NotFoundError
        source = lists.Source(
            name=f"policies:{scope.partner_id}:{scope.site_id}:{appliance_id}",
            kind=Version,
            fetch=lambda page: policies.newest(scope, appliance_id, page),
            count=lambda: policies.count(scope, appliance_id),
            place=lambda version: (version.created_at, str(version.version)),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show what a version says: mode, window, settings, rules, runbooks."""
    appliance_id, version = path_id(request, "appliance"), _version(request)
    async with auth.site_scope(request) as scope:
        said = await policy_versions.content(scope, appliance_id, version)
    return reply_value(PolicyContent, PolicyContent(version, said))


async def compare(request: Request) -> Response:
    """List the parts in which a version differs from another, or from the one before it."""
    appliance_id, version = path_id(request, "appliance"), _version(request)
    asked = read_query(request, DifferenceQuery)
    async with auth.site_scope(request) as scope:
        found = await policy_versions.compare(scope, appliance_id, version, asked.against)
    return reply_value(list[Difference], found)


async def restore(request: Request) -> Response:
    """Make the settings of a version again, at the appliance's level, where others count now; the answer says which."""
    appliance_id, version = path_id(request, "appliance"), _version(request)
    async with auth.site_scope(request) as scope:
        made = await policy_versions.restore(scope, appliance_id, version, request.state.principal.actor)
    return reply_value(list[Restored], made)


def _version(request: Request) -> int:
    given = str(request.path_params["version"])
    if not given.isascii() or not given.isdecimal() or len(given) > 18:
        raise NotFoundError
    return int(given)


_ALL = "/api/v1/sites/{site}/appliances/{appliance}/policies"
_ONE = _ALL + "/{version}"
_DIFFERENCES = {200: list[Difference]}
ENDPOINTS = [
    Endpoint("GET", _ALL, list_versions, Caller.READ, None, {200: Listing[Version]}, ListQuery),
    Endpoint("GET", _ONE, show, Caller.READ, None, {200: PolicyContent}),
    Endpoint("GET", _ONE + "/differences", compare, Caller.READ, None, _DIFFERENCES, DifferenceQuery),
    Endpoint("POST", _ONE + "/restore", restore, Caller.OPERATE, None, {200: list[Restored]}),
]
