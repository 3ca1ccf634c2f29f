"""The versions of an appliance's policy, two compared, an old one's settings made again; and its baselines."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, baselines, context, listing, policy_versions
from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import appliances, policies
from ccserver.queries.appliances import ApplianceDetail
from ccserver.scope import SiteScope
from ccshared.messages import Hex32, Message

_VERSION = re.compile(r"[0-9]{1,18}")
_CHANGED = "The appliance proposes something else by now. Nothing was approved or rejected: look at what stands here."
_SETTINGS_CHANGED = "Settings changed since you looked. Nothing was made again: look at what would change now."
_Judge = Callable[[SiteScope, str, str, str, str], Awaitable[None]]


class VersionsQuery(Message):
    """Where the page of the list begins."""

    cursor: Cursor | None = None


class DifferenceQuery(Message):
    """The version that another one is compared with: the one before it, unless said."""

    against: Annotated[int, Field(ge=0, lt=2**53)] | None = None


class Confirmed(Message):
    """By what a form says what its page showed."""

    shown: Hex32


class Judgement(Message):
    """A baseline by the name of its setting, and what was seen as proposed."""

    name: Annotated[str, StringConstraints(pattern=r"^checks\.(?:firewall\.baseline_sha256|antivirus\.binary_sha256)$")]
    sha256: Hex32


async def show_list(request: Request) -> Response:
    """List the versions of an appliance's policy, the newest first."""
    asked, key = read_query(request, VersionsQuery), context.of(request).cursor_key
    async with auth.site_scope(request) as scope:
        box = await _appliance(request, scope)
        name = f"policies:{scope.partner_id}:{scope.site_id}:{box.id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await policies.newest(scope, box.id, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, str(row.version)), key, name)
    values = {"appliance": box, "site_id": scope.site_id, "versions": found.items, "next": found.next, "asked": asked}
    return render.page(request, "policies.html", values)


async def show(request: Request) -> Response:
    """Show what a version says, and in what it differs from another one, or from the one before it."""
    asked, version = read_query(request, DifferenceQuery, of_form=True), _version(request)
    async with auth.site_scope(request) as scope:
        appliance_id = path_id(request, "appliance")
        found = await policy_versions.read_beside(scope, appliance_id, version, asked.against)
    values = {
        "appliance": {"id": appliance_id, "hostname": found.hostname},
        "site_id": scope.site_id,
        "version": version,
        "against": asked.against,
        "said": _text(found.said),
        "differences": [(each.part, _text(each.before), _text(each.after)) for each in found.differences],
    }
    return render.page(request, "policy.html", values)


async def foresee(request: Request) -> Response:
    """Show which settings going back to a version would change; nothing is changed yet."""
    return await _foresee(request)


async def _foresee(request: Request, refused: str | None = None) -> Response:
    version, appliance_id = _version(request), path_id(request, "appliance")
    async with auth.site_scope(request) as scope:
        one = await policy_versions.read_beside(scope, appliance_id, version, None)
        found = await policy_versions.foresee(scope, appliance_id, one.said)
    values = {
        "appliance": {"id": appliance_id, "hostname": one.hostname},
        "site_id": scope.site_id,
        "version": version,
        "foreseen": found,
        "shown": policy_versions.mark(found),
        "refused": refused,
    }
    return render.page(request, "policy_restore.html", values, 412 if refused else 200)


async def restore(request: Request) -> Response:
    """Make the settings of a version again, as the page showed, at the appliance's level, where others count now."""
    version, asked = _version(request), forms.message_of(await forms.read_form(request), Confirmed)
    appliance_id, actor = path_id(request, "appliance"), request.state.principal.actor
    try:
        async with auth.site_scope(request) as scope:
            await policy_versions.restore(scope, appliance_id, version, actor, asked.shown)
    except ChangedMeanwhileError:
        return await _foresee(request, _SETTINGS_CHANGED)
    place = f"/sites/{scope.site_id}/appliances/{appliance_id}/settings"
    return render.redirect(render.addresses(request)(place))


async def show_baselines(request: Request) -> Response:
    """Show what is approved beside what the appliance found."""
    return await _baselines(request)


async def approve_baseline(request: Request) -> Response:
    """Approve what the appliance proposes, as it was seen."""
    return await _judge(request, baselines.approve)


async def reject_baseline(request: Request) -> Response:
    """Put on record that what the appliance proposes was seen and refused."""
    return await _judge(request, baselines.reject)


async def _judge(request: Request, judge: _Judge) -> Response:
    asked = forms.message_of(await forms.read_form(request), Judgement)
    appliance_id, actor = path_id(request, "appliance"), request.state.principal.actor
    try:
        async with auth.site_scope(request) as scope:
            await _appliance(request, scope)
            await judge(scope, appliance_id, asked.name, asked.sha256, actor)
    except ChangedMeanwhileError:
        return await _baselines(request, refused=_CHANGED)
    place = f"/sites/{scope.site_id}/appliances/{appliance_id}/baselines"
    return render.redirect(render.addresses(request)(place))


async def _baselines(request: Request, refused: str | None = None) -> Response:
    async with auth.site_scope(request) as scope:
        appliance_id = path_id(request, "appliance")
        hostname, found = await baselines.of_named(scope, appliance_id)
    values = {
        "appliance": {"id": appliance_id, "hostname": hostname},
        "site_id": scope.site_id,
        "baselines": [(each, _text(each.facts) if each.facts else "") for each in found],
        "refused": refused,
    }
    return render.page(request, "baselines.html", values, 412 if refused else 200)


async def _appliance(request: Request, scope: SiteScope) -> ApplianceDetail:
    found = await appliances.find(scope, path_id(request, "appliance"))
    if found is None:
        raise NotFoundError
    return found


def _version(request: Request) -> int:
    text = str(request.path_params["version"])
    if not _VERSION.fullmatch(text):
        raise NotFoundError
    return int(text)


def _text(value: Any) -> str:
    return "" if value is None else orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()


_BOX = "/sites/{site}/appliances/{appliance}"
_ONE = _BOX + "/policies/{version}"
ENDPOINTS = [
    Endpoint("GET", _BOX + "/policies", show_list, Caller.READ),
    Endpoint("GET", _ONE, show, Caller.READ),
    Endpoint("GET", _ONE + "/restore", foresee, Caller.OPERATE),
    Endpoint("POST", _ONE + "/restore", restore, Caller.OPERATE),
    Endpoint("GET", _BOX + "/baselines", show_baselines, Caller.READ),
    Endpoint("POST", _BOX + "/baselines", approve_baseline, Caller.OPERATE),
    Endpoint("POST", _BOX + "/baselines/reject", reject_baseline, Caller.OPERATE),
]
