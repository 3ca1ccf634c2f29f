"""What is drawn: tables of small history, which a script draws as charts where one runs."""

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id
from ccserver.pages import render
from ccserver.queries import appliances, healed_days, queue_samples

_HEALED_DAYS = 30
_QUEUE_DAYS = 7


async def healed(request: Request) -> Response:
    """Show what rules, the planner and people settled, day by day."""
    now, partner_id = datetime.now(UTC), (await auth.acting(request)).partner_id
    first = (now - timedelta(days=_HEALED_DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    async with context.of(request).db.partner(partner_id) as scope:
        days = await healed_days.days(scope, first, auth.auditor_id(request))
    return render.page(request, "healed.html", {"days": days, "length": _HEALED_DAYS, "now": now})


async def queue(request: Request) -> Response:
    """Show how much evidence waited on an appliance, hour by hour."""
    now, appliance_id = datetime.now(UTC), path_id(request, "appliance")
    async with auth.site_scope(request) as scope:
        found = await appliances.find(scope, appliance_id)
        if found is None:
            raise NotFoundError
        hours = await queue_samples.hours(scope, appliance_id, now - timedelta(days=_QUEUE_DAYS))
    values = {"appliance": found, "site_id": scope.site_id, "hours": hours, "length": _QUEUE_DAYS, "now": now}
    return render.page(request, "queue.html", values)


ENDPOINTS = [
    Endpoint("GET", "/healed", healed, Caller.AUDIT),
    Endpoint("GET", "/sites/{site}/appliances/{appliance}/queue", queue, Caller.AUDIT),
]
