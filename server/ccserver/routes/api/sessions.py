"""A person's own sessions: where they are signed in, and an end to it."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context, revoking
from ccserver.errors import ForbiddenError
from ccserver.http import Caller, Endpoint, path_id, reply_value
from ccserver.queries import sessions
from ccserver.queries.sessions import OpenSession
from ccserver.queries.users import User


async def list_own(request: Request) -> Response:
    """List the caller's sessions, newest first."""
    user = _user(request)
    async with context.of(request).db.partner(user.partner_id) as scope:
        found = await sessions.list_open(scope, user.id)
    return reply_value(list[OpenSession], found)


async def revoke(request: Request) -> Response:
    """End a session of the caller's own."""
    user, session_id = _user(request), path_id(request, "session")
    async with context.of(request).db.partner(user.partner_id) as scope:
        await revoking.end_session(scope, user, session_id)
    return Response(status_code=204)


def _user(request: Request) -> User:
    user: User | None = request.state.principal.user
    if user is None:
        raise ForbiddenError
    return user


ENDPOINTS = [
    Endpoint("GET", "/api/v1/sessions", list_own, Caller.PERSON, None, {200: list[OpenSession]}),
    Endpoint("DELETE", "/api/v1/sessions/{session}", revoke, Caller.PERSON, None, {204: None}),
]
