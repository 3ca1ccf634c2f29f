"""The server's signing keys."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context
from ccserver.http import Caller, Endpoint, reply
from ccshared.messages import ServerKey, ServerKeysAnswer


async def show(request: Request) -> Response:
    """Return every signing key there was, oldest first."""
    keys = context.of(request).keys.signing
    return reply(
        ServerKeysAnswer(keys=[ServerKey(use=key.use, name=key.name, public_key=key.public_key.hex()) for key in keys])
    )


ENDPOINTS = [Endpoint("GET", "/agent/v1/keys", show, Caller.ANYONE, None, {200: ServerKeysAnswer})]
