"""Baselines of an appliance: what is approved beside what it found, and approval of what was seen."""

from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, baselines
from ccserver.baselines import Baseline
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read, reply_value
from ccserver.queries import appliances
from ccserver.scope import SiteScope
from ccshared.messages import Hex32, Message


class ApprovedBaseline(Message):
    """A baseline by the name of its setting, and what was seen as proposed."""

    name: Annotated[str, StringConstraints(pattern=r"^checks\.(?:firewall\.baseline_sha256|antivirus\.binary_sha256)$")]
    sha256: Hex32


async def list_baselines(request: Request) -> Response:
    """List the baselines of an appliance: what is approved, what its last check run found, and whether they differ."""
    appliance_id = path_id(request, "appliance")
    async with auth.site_scope(request) as scope:
        await _require(scope, appliance_id)
        found = await baselines.of(scope, appliance_id)
    return reply_value(list[Baseline], found)


async def approve(request: Request) -> Response:
    """Approve what an appliance proposes, at its own level; 412 when it proposes something else than what was seen."""
    appliance_id, asked = path_id(request, "appliance"), await read(request, ApprovedBaseline)
    async with auth.site_scope(request) as scope:
        await _require(scope, appliance_id)
        await baselines.approve(scope, appliance_id, asked.name, asked.sha256, request.state.principal.actor)
        found = await baselines.of(scope, appliance_id)
    return reply_value(list[Baseline], found)


async def _require(scope: SiteScope, appliance_id: str) -> None:
    if await appliances.find(scope, appliance_id) is None:
        raise NotFoundError


_ALL = "/api/v1/sites/{site}/appliances/{appliance}/baselines"
ENDPOINTS = [
    Endpoint("GET", _ALL, list_baselines, Caller.READ, None, {200: list[Baseline]}),
    Endpoint("POST", _ALL, approve, Caller.OPERATE, ApprovedBaseline, {200: list[Baseline]}),
]
