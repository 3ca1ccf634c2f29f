"""One appliance on a page: how it stands, its epochs with their receipts, and the end of its service."""

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, liveness, revoking
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id
from ccserver.pages import forms, render, site_view, wording
from ccserver.queries import appliance_page
from ccserver.queries.appliances import ApplianceDetail

_EPOCHS = 50
_UNSURE = "Nothing was changed: to revoke the appliance, tick the box that says so."


async def show(request: Request) -> Response:
    """Show an appliance."""
    return await _page(request)


async def revoke(request: Request) -> Response:
    """Refuse the appliance from now on, when the form says that this is meant."""
    fields, appliance_id = await forms.read_form(request), path_id(request, "appliance")
    if fields.get("sure") != "yes":
        return await _page(request, refused=_UNSURE)
    async with auth.site_scope(request) as scope:
        await revoking.revoke_appliance(scope, request.state.principal.actor, appliance_id)
    place = f"/sites/{path_id(request, 'site')}/appliances/{appliance_id}"
    return render.redirect(render.addresses(request)(place))


async def _page(request: Request, refused: str | None = None) -> Response:
    appliance_id, now = path_id(request, "appliance"), datetime.now(UTC)
    async with auth.site_scope(request) as scope:
        rows = await appliance_page.read(scope, appliance_id, _EPOCHS + 1)
    if rows is None:
        raise NotFoundError
    found, hostnames = rows.appliance, {appliance_id: rows.appliance.hostname}
    values = {
        "appliance": found,
        "site_id": scope.site_id,
        "site_name": rows.site_name,
        "state": liveness.of(found.last_checkin, now),
        "clock": wording.clock(found.clock, found.clock_offset_ms),
        "oldest_age": _oldest_age(found),
        "epochs": [site_view.prove(context.of(request), log, hostnames) for log in rows.logs[:_EPOCHS]],
        "more_epochs": len(rows.logs) > _EPOCHS,
        "faults": rows.faults,
        "refused": refused,
        "now": now,
    }
    return render.page(request, "appliance.html", values, 422 if refused else 200)


def _oldest_age(found: ApplianceDetail) -> timedelta | None:
    if found.oldest_at is None or found.last_checkin is None:
        return None
    return liveness.oldest_age(found.oldest_at, found.last_checkin, found.clock_offset_ms or 0)


_ONE = "/sites/{site}/appliances/{appliance}"
ENDPOINTS = [
    Endpoint("GET", _ONE, show, Caller.AUDIT),
    Endpoint("POST", _ONE + "/revoke", revoke, Caller.OPERATE),
]
