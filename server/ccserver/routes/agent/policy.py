"""The appliance's signed policy."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, policy_making
from ccserver.http import Caller, Endpoint


async def show(request: Request) -> Response:
    """Return the policy in force, a DSSE envelope, with its version as ETag; 304 when If-None-Match names that one."""
    version, envelope = await policy_making.current(context.of(request), auth.device(request))
    headers = {"ETag": f'"{version}"', "Cache-Control": "no-store"}
    if f'"{version}"' in request.headers.get("if-none-match", "").replace("W/", "").split(", "):
        return Response(status_code=304, headers=headers)
    return Response(envelope, media_type="application/json", headers=headers)


ENDPOINTS = [
    Endpoint("GET", "/agent/v1/policy", show, Caller.DEVICE, None, {200: dict, 304: None}, headers=("If-None-Match",))
]
