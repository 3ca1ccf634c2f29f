"""Whether the process lives, and whether it can serve: for whoever watches it, without a credential."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context, health
from ccserver.errors import CentralCommandError, DatabaseUnavailableError
from ccserver.http import Caller, Endpoint, reply
from ccshared.messages import Message


class Health(Message):
    """The process answers."""

    status: str = "ok"


async def is_alive(_request: Request) -> Response:
    """Say that the process answers; nothing else is asked."""
    return reply(Health())


async def is_ready(request: Request) -> Response:
    """Say that the database answers with the schema and role that this release needs; 503 otherwise."""
    try:
        await health.check_database(context.of(request).db, running=True)
    except CentralCommandError as error:
        raise DatabaseUnavailableError(f"Not ready: {type(error).__doc__}") from error
    return reply(Health())


ENDPOINTS = [
    Endpoint("GET", "/healthz", is_alive, Caller.ANYONE, None, {200: Health}),
    Endpoint("GET", "/readyz", is_ready, Caller.ANYONE, None, {200: Health, 503: None}),
]
