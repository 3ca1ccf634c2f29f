"""What worked before: an appliance's planner asks, and is told what helped on it, at its site, at its partner's."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, promoting
from ccserver.http import Caller, Endpoint, read, reply
from ccshared.messages import PlanAnswer, PlanRequest


async def plan(request: Request) -> Response:
    """Propose a runbook for an incident's pattern; none where nothing is known to help. Never from another partner."""
    device, asked, ctx = auth.device(request), await read(request, PlanRequest), context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        partner_id = scope.partner_id
    here = (device.site_id, device.appliance_id)
    async with ctx.db.partner(partner_id) as partner:
        found = await promoting.plan(partner, asked.pattern_signature, here, asked.tried, ctx.catalogue)
    if found is None:
        return reply(PlanAnswer(runbook=None, why="nothing is known to help with this pattern"))
    return reply(PlanAnswer(runbook=found.runbook_id, why=found.why, evidence=promoting.told(found)))


ENDPOINTS = [Endpoint("POST", "/agent/v1/plan", plan, Caller.DEVICE, PlanRequest, {200: PlanAnswer})]
