"""Incidents and pattern statistics, as appliances report them."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, quotas
from ccserver.errors import BadBodyError, NotFoundError
from ccserver.http import Caller, Endpoint, read, reply
from ccserver.queries import incidents, pattern_runbooks, pattern_stats, rule_trials
from ccshared.messages import IncidentReports, IncidentsKept, PatternReports


async def report(request: Request) -> Response:
    """Keep the newest revision of each incident, and say which that is."""
    device, said = auth.device(request), await read(request, IncidentReports)
    _each_once([incident.id for incident in said.incidents])
    ctx = context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        await quotas.spend(ctx, scope, len(said.incidents), len(said.model_dump_json()))
        kept = await incidents.upsert(scope, sorted(said.incidents, key=lambda incident: incident.id))
        older = [incident.id for incident in said.incidents if incident.id not in kept]
        # In a statement of its own: it sees what another request committed while the one above waited for it.
        kept |= await incidents.revisions(scope, older) if older else {}
        if len(kept) != len(said.incidents):  # row security hides the row that an id is taken by
            raise NotFoundError("One of these incidents is another appliance's.")
    return reply(IncidentsKept(incidents=[kept[incident.id] for incident in said.incidents]))


async def report_patterns(request: Request) -> Response:
    """Replace the appliance's totals by newer ones: of patterns, of what was run for each, and of learned rules."""
    device, said = auth.device(request), await read(request, PatternReports)
    _each_once([pattern.pattern_signature for pattern in said.patterns])
    _each_once([rule.rule for rule in said.rules])
    for pattern in said.patterns:
        _each_once([totals.runbook for totals in pattern.runbooks])
    ctx = context.of(request)
    async with ctx.db.appliance(device.site_id, device.appliance_id) as scope:
        rows = len(said.patterns) + len(said.rules) + sum(len(pattern.runbooks) for pattern in said.patterns)
        await quotas.spend(ctx, scope, rows, len(said.model_dump_json()))
        await pattern_stats.upsert(scope, said)
        if any(pattern.runbooks for pattern in said.patterns):
            await pattern_runbooks.upsert(scope, said)
        if said.rules:
            await rule_trials.upsert(scope, said)
    return Response(status_code=204)


def _each_once(ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        raise BadBodyError("The same id stands in the list twice.")


ENDPOINTS = [
    Endpoint("PUT", "/agent/v1/incidents", report, Caller.DEVICE, IncidentReports, {200: IncidentsKept}),
    Endpoint("PUT", "/agent/v1/patterns", report_patterns, Caller.DEVICE, PatternReports, {204: None}),
]
