"""The whole server on one page: routes, middleware, and what lives as long as the process."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from ccserver import auth, context, health, keys, marks, restores
from ccserver.config import Config
from ccserver.errors import BadBodyError, CentralCommandError, NotFoundError, NotSignedInError
from ccserver.http import Caller, Endpoint, RequestLog, problem, request_id
from ccserver.pages import account, dashboard, session, welcome
from ccserver.routes.agent import checkin, enrolment, incidents, log
from ccserver.routes.agent import keys as key_routes
from ccserver.routes.api import (
    api_keys,
    appliances,
    checks,
    codes,
    evidence,
    openapi,
    partners,
    sessions,
    sites,
    users,
    waivers,
)
from ccserver.routes.api import health as health_routes
from ccserver.routes.api import incidents as incident_routes
from ccserver.scope import open_pool

_log = logging.getLogger("ccserver")
# The route table: every route there is, with who may call it.
ENDPOINTS: list[Endpoint] = [
    *enrolment.ENDPOINTS,
    *checkin.ENDPOINTS,
    *key_routes.ENDPOINTS,
    *log.ENDPOINTS,
    *incidents.ENDPOINTS,
    *api_keys.ENDPOINTS,
    *users.ENDPOINTS,
    *sessions.ENDPOINTS,
    *session.ENDPOINTS,
    *account.ENDPOINTS,
    *welcome.ENDPOINTS,
    *dashboard.ENDPOINTS,
    *health_routes.ENDPOINTS,
    *partners.ENDPOINTS,
    *sites.ENDPOINTS,
    *appliances.ENDPOINTS,
    *codes.ENDPOINTS,
    *incident_routes.ENDPOINTS,
    *checks.ENDPOINTS,
    *waivers.ENDPOINTS,
    *evidence.ENDPOINTS,
]
ENDPOINTS.append(openapi.endpoint(ENDPOINTS))


def make(config: Config, database_url: str) -> Starlette:
    """Return the application; its lifespan opens the pool and refuses a database that is not fit."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        server_keys = keys.load(config.key_file)
        database = await open_pool(database_url, min_size=config.pool_min, max_size=config.pool_max)
        try:
            await health.check_database(database)
            known = marks.load(config.key_file)
            await restores.check(database, known)
            gc.freeze()
            watch = asyncio.create_task(restores.watch(database, known))
            yield {"context": context.make(database, server_keys, config, known)}
            watch.cancel()
            await restores.move(database, known)
        finally:
            await database.close()

    return Starlette(
        routes=[*routes(), Mount("/static", session.STATIC)],
        middleware=[Middleware(RequestLog)],
        exception_handlers={CentralCommandError: _on_error, HTTPException: _on_http, Exception: _on_bug},
        lifespan=lifespan,
    )


def routes() -> list[BaseRoute]:
    """Return Starlette's routes, made from the route table; each lets only its declared caller through."""
    return [Route(row.path, _guarded(row), methods=[row.method]) for row in ENDPOINTS]


def _guarded(row: Endpoint) -> Any:
    async def endpoint(request: Request) -> Response:
        if row.caller is Caller.DEVICE:
            request.state.device = auth.device(request)
        elif row.caller is not Caller.ANYONE:
            request.state.principal = await auth.principal(request, row.caller)
        if row.method != "GET" and not row.path.startswith("/agent/"):
            auth.check_origin(request)
        return await row.handler(request)

    return endpoint


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CentralCommandError)  # noqa: S101  as registered
    if isinstance(error, NotSignedInError) and not request.url.path.startswith(("/agent/", "/api/")):
        return RedirectResponse("/login", 303)
    return problem(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as registered
    if error.status_code == 404:
        return problem(request, NotFoundError())
    answer = problem(request, BadBodyError(error.detail))
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("request_id=%s not foreseen: %r", request_id(request), error)
    return problem(request, CentralCommandError("The server could not do this; the log has the reason under this id."))
