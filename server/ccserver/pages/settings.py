"""Settings on pages, at the platform's, a partner's, a site's or an appliance's level, and the switches of healing.

Each form says which revision its page showed; one that is late changes nothing and says so.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, setting_levels
from ccserver.errors import BadBodyError, ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id
from ccserver.pages import forms, render
from ccserver.queries import appliances, settings, sites
from ccserver.queries.settings import Change, Made, Place
from ccserver.scope import PLATFORM, PartnerScope, SiteScope
from ccserver.setting_levels import Effective
from ccshared.settings import Setting, Value

_CHANGED = "Somebody changed it since you opened this page. What stands here is new: look, then go on."
_WINDOW = ("healing.window_days", "healing.window_from_minute", "healing.window_minutes")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_FORM_FIELDS = 20
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class At:
    """Where a page is about: the scope to write in, the places from far to near, its own address and its name."""

    scope: PartnerScope | SiteScope
    places: tuple[Place, ...]
    address: str
    name: str

    @property
    def own(self) -> Place:
        """The place that the page changes."""
        return self.places[-1]


async def show(request: Request) -> Response:
    """Show every setting as it counts here, where it comes from, and the switches of healing."""
    return await _page(request)


async def put(request: Request) -> Response:
    """Make a setting at this level."""
    fields = await forms.read_form(request)
    setting = setting_levels.known(fields.get("name", ""))
    value = setting_levels.typed(setting, fields.get("value", ""))
    return await _make(request, [(setting, value, forms.revision_of(fields))])


async def unmake(request: Request) -> Response:
    """Unmake a setting at this level, so that the next one counts."""
    fields = await forms.read_form(request)
    setting, revision = setting_levels.known(fields.get("name", "")), forms.revision_of(fields)
    try:
        async with _at(request) as at:
            actor = request.state.principal.actor
            await setting_levels.unmake(at.scope, at.own, setting, revision, actor)
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    return render.redirect(render.addresses(request)(request.url.path.removesuffix("/unmake")))


async def put_window(request: Request) -> Response:
    """Make the window in which repairs that disrupt may run, at this level."""
    fields = await forms.read_form(request, fields=_FORM_FIELDS)
    values = _window(fields)
    changes = []
    for name, value in zip(_WINDOW, values, strict=True):
        setting = setting_levels.known(name)
        revision = forms.revision_of({"revision": fields.get(f"revision.{name}", "")})
        changes.append((setting, setting_levels.checked(setting, value), revision))
    return await _make(request, changes)


def _window(fields: Mapping[str, str]) -> tuple[str, int, int]:
    """Return the days, the minute after midnight and the length that a form says; BadBodyError."""
    days = "".join(str(day) for day in range(7) if fields.get(f"day{day}") == "yes")
    clock = _CLOCK.fullmatch(fields.get("from", ""))
    if clock is None:
        raise BadBodyError("from: a time of the day in UTC, as 02:30.")
    length = fields.get("minutes", "")
    if not length.isascii() or not length.isdecimal() or len(length) > 4:
        raise BadBodyError("minutes: how long the window is open, from 0 to 1440.")
    return days, int(clock[1]) * 60 + int(clock[2]), int(length)


async def _make(request: Request, changes: Sequence[tuple[Setting, Value, int]]) -> Response:
    try:
        async with _at(request) as at:
            actor = request.state.principal.actor
            for setting, value, revision in changes:
                await setting_levels.make(at.scope, at.own, Change(setting.name, value, revision, actor))
            address = at.address
    except ChangedMeanwhileError:
        return await _page(request, refused=_CHANGED)
    return render.redirect(render.addresses(request)(address))


async def _page(request: Request, refused: str | None = None) -> Response:
    async with _at(request) as at:
        made = await _counting(at)
    far = [] if isinstance(at.scope, SiteScope) or at.scope.partner_id == PLATFORM else await _far(request)
    found = {each.setting.name: each for each in setting_levels.effective(at.places, [*far, *made])}
    values = {
        "at_place": at,
        "level": str(at.own.level),
        "settings": [each for name, each in found.items() if not name.startswith("healing.")],
        "mode": found["healing.mode"],
        "window": {name: found[name] for name in _WINDOW},
        "opens": _opens(found),
        "days": list(enumerate(DAYS)),
        "links": _links(request),
        "writes": _writes(request, str(at.own.level)),
        "refused": refused,
    }
    return render.page(request, "settings.html", values, 412 if refused else 200)


def _opens(found: Mapping[str, Effective]) -> str:
    minute = int(found["healing.window_from_minute"].value)
    return f"{minute // 60:02}:{minute % 60:02}"


def _writes(request: Request, level: str) -> bool:
    needed = {"platform": Caller.PLATFORM, "partner": Caller.OWN}.get(level, Caller.OPERATE)
    return auth.may(request.state.principal, needed)


def _links(request: Request) -> list[tuple[str, str]]:
    """Return the pages of the levels above, from far to near."""
    site, appliance = request.path_params.get("site"), request.path_params.get("appliance")
    if site is None:
        return []
    found = [("/settings", "The partner's settings")]
    return [*found, (f"/sites/{site}/settings", "The site's settings")] if appliance else found


async def _counting(at: At) -> list[Made]:
    if isinstance(at.scope, SiteScope):
        return await settings.counting(at.scope, at.places)
    return await settings.list_of(at.scope, at.places)


async def _far(request: Request) -> list[Made]:
    async with context.of(request).db.partner(PLATFORM) as scope:
        return await settings.list_of(scope, [setting_levels.OF_PLATFORM])


@asynccontextmanager
async def _at(request: Request) -> AsyncIterator[At]:
    if request.url.path.startswith(_PLATFORM):
        async with context.of(request).db.partner(PLATFORM) as scope:
            yield At(scope, (setting_levels.OF_PLATFORM,), _PLATFORM, "the platform")
    elif "site" in request.path_params:
        async with auth.site_scope(request) as site:
            yield await _at_site(request, site)
    else:
        async with auth.partner_scope(request) as partner:
            yield At(partner, setting_levels.places(partner.partner_id), "/settings", partner.partner_id)


async def _at_site(request: Request, scope: SiteScope) -> At:
    place = f"/sites/{scope.site_id}"
    if "appliance" not in request.path_params:
        names = await sites.names(scope, [scope.site_id])
        places = setting_levels.places(scope.partner_id, scope.site_id)
        return At(scope, places, f"{place}/settings", names.get(scope.site_id, scope.site_id))
    appliance_id = path_id(request, "appliance")
    found = await appliances.find(scope, appliance_id)
    if found is None:
        raise NotFoundError
    places = setting_levels.places(scope.partner_id, scope.site_id, appliance_id)
    return At(scope, places, f"{place}/appliances/{appliance_id}/settings", found.hostname)


_PLATFORM = "/platform/settings"
_LEVELS: dict[str, tuple[Caller, Caller]] = {
    _PLATFORM: (Caller.PLATFORM, Caller.PLATFORM),
    "/settings": (Caller.READ, Caller.OWN),
    "/sites/{site}/settings": (Caller.READ, Caller.OPERATE),
    "/sites/{site}/appliances/{appliance}/settings": (Caller.READ, Caller.OPERATE),
}


def _endpoints(path: str, reads: Caller, writes: Caller) -> list[Endpoint]:
    handlers: dict[str, Any] = {path: put, path + "/unmake": unmake, path + "/window": put_window}
    acts = [Endpoint("POST", each, handler, writes) for each, handler in handlers.items()]
    return [Endpoint("GET", path, show, reads), *acts]


ENDPOINTS = [row for path, callers in _LEVELS.items() for row in _endpoints(path, *callers)]
