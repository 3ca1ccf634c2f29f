"""Settings: what counts at a level and where it comes from, made and unmade at the platform's, a partner's, a site's
or an appliance's level. The nearest level to an appliance wins.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, setting_levels
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, if_match, path_id, read, reply_value
from ccserver.queries import appliances, settings
from ccserver.queries.settings import Change, Place
from ccserver.scope import PLATFORM, PartnerScope, SiteScope
from ccserver.setting_levels import Effective
from ccshared.messages import Message


class NewValue(Message):
    """A setting's value at a level."""

    value: Annotated[int, Field(strict=True)] | Annotated[str, Field(strict=True, max_length=128)]


@dataclass(frozen=True)
class _At:
    """Where a request is about: the scope to write in, and the places from far to near, its own the last."""

    scope: PartnerScope | SiteScope
    places: tuple[Place, ...]

    @property
    def own(self) -> Place:
        return self.places[-1]


async def list_settings(request: Request) -> Response:
    """List every setting there is as it counts at this level, with where it comes from and what was made here."""
    return reply_value(list[Effective], await _effective(request))


async def show(request: Request) -> Response:
    """Show a setting as it counts at this level; its ETag is 0 while nothing is made here."""
    setting = setting_levels.known(str(request.path_params["name"]))
    (found,) = [each for each in await _effective(request) if each.setting == setting]
    return reply_value(Effective, found, revision=found.revision)


async def put(request: Request) -> Response:
    """Make a setting at this level; If-Match names the ETag read before, 0 where nothing was made."""
    revision, asked = if_match(request), await read(request, NewValue)
    setting = setting_levels.known(str(request.path_params["name"]))
    value, actor = setting_levels.checked(setting, asked.value), request.state.principal.actor
    async with _at(request) as at:
        await setting_levels.make(at.scope, at.own, Change(setting.name, value, revision, actor))
    return await show(request)


async def delete(request: Request) -> Response:
    """Unmake a setting at this level, so that the next one counts."""
    revision, setting = if_match(request), setting_levels.known(str(request.path_params["name"]))
    async with _at(request) as at:
        await setting_levels.unmake(at.scope, at.own, setting, revision, request.state.principal.actor)
    return await show(request)


async def _effective(request: Request) -> list[Effective]:
    """Read the platform's settings, then those of the tenant, each in its own scope."""
    async with context.of(request).db.partner(PLATFORM) as scope:
        far = await settings.list_of(scope, [setting_levels.OF_PLATFORM])
    async with _at(request) as at:
        near = await settings.list_of(at.scope, at.places)
    return setting_levels.effective(at.places, [*far, *near])


@asynccontextmanager
async def _at(request: Request) -> AsyncIterator[_At]:
    if request.url.path.startswith(_PLATFORM):
        async with context.of(request).db.partner(PLATFORM) as scope:
            yield _At(scope, (setting_levels.OF_PLATFORM,))
    elif "site" in request.path_params:
        async with auth.site_scope(request) as site:
            yield _At(site, await _places(request, site))
    else:
        async with auth.partner_scope(request) as partner:
            yield _At(partner, setting_levels.places(partner.partner_id))


async def _places(request: Request, scope: SiteScope) -> tuple[Place, ...]:
    if "appliance" not in request.path_params:
        return setting_levels.places(scope.partner_id, scope.site_id)
    appliance_id = path_id(request, "appliance")
    if await appliances.find(scope, appliance_id) is None:
        raise NotFoundError
    return setting_levels.places(scope.partner_id, scope.site_id, appliance_id)


_PLATFORM = "/api/v1/platform/settings"
_LEVELS = {
    _PLATFORM: (Caller.PLATFORM, Caller.PLATFORM),
    "/api/v1/settings": (Caller.READ, Caller.OWN),
    "/api/v1/sites/{site}/settings": (Caller.READ, Caller.OPERATE),
    "/api/v1/sites/{site}/appliances/{appliance}/settings": (Caller.READ, Caller.OPERATE),
}
_EDITED = ("If-Match",)


def _endpoints(path: str, reads: Caller, writes: Caller) -> list[Endpoint]:
    one = path + "/{name}"
    return [
        Endpoint("GET", path, list_settings, reads, None, {200: list[Effective]}),
        Endpoint("GET", one, show, reads, None, {200: Effective}),
        Endpoint("PUT", one, put, writes, NewValue, {200: Effective}, headers=_EDITED),
        Endpoint("DELETE", one, delete, writes, None, {200: Effective}, headers=_EDITED),
    ]


ENDPOINTS = [row for path, callers in _LEVELS.items() for row in _endpoints(path, *callers)]
