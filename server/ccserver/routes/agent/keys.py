"""The server's signing keys, and how each followed on the one before."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context
from ccserver.http import Caller, Endpoint, reply
from ccshared.messages import ServerKeysAnswer


async def show(request: Request) -> Response:
    """Return every signing key there was, oldest first, and the statements by which each followed."""
    keys = context.of(request).keys
    return reply(ServerKeysAnswer(keys=keys.public, statements=list(keys.statements)))


ENDPOINTS = [Endpoint("GET", "/agent/v1/keys", show, Caller.ANYONE, None, {200: ServerKeysAnswer})]
