"""The whole server on one page: routes, middleware, and what lives as long as the process."""

import asyncio
import contextlib
import gc
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from ccserver import (
    auth,
    context,
    deadman,
    erasing,
    fleets,
    health,
    limiting,
    live,
    marks,
    restores,
    rounds,
    scrape,
    sweeps,
    telling,
)
from ccserver.config import Config
from ccserver.context import Context
from ccserver.errors import (
    BadBodyError,
    CentralCommandError,
    MethodNotAllowedError,
    NotFoundError,
    NotSignedInError,
)
from ccserver.http import Caller, Endpoint, RequestLog, check_headers, note, problem, status_of, wants_page
from ccserver.keys import KeyFile
from ccserver.pages import account, charts, events, overview, people, reference, session, trouble, welcome
from ccserver.pages import appliances as appliance_pages
from ccserver.pages import audit as audit_pages
from ccserver.pages import channels as channel_pages
from ccserver.pages import codes as code_pages
from ccserver.pages import fleet_orders as fleet_order_pages
from ccserver.pages import incidents as incident_pages
from ccserver.pages import keys as api_key_pages
from ccserver.pages import learning as learning_pages
from ccserver.pages import orders as order_pages
from ccserver.pages import policies as policy_pages
from ccserver.pages import settings as setting_pages
from ccserver.pages import site_care as site_care_pages
from ccserver.pages import sites as site_pages
from ccserver.routes.agent import checkin, enrolment, incidents, log, plan, policy
from ccserver.routes.agent import keys as key_routes
from ccserver.routes.agent import orders as order_routes
from ccserver.routes.api import (
    api_keys,
    appliances,
    audit,
    baselines,
    channels,
    checks,
    codes,
    evidence,
    fleet_orders,
    openapi,
    orders,
    partners,
    policies,
    problems,
    rules,
    runbooks,
    sessions,
    settings,
    sites,
    users,
    waivers,
)
from ccserver.routes.api import health as health_routes
from ccserver.routes.api import incidents as incident_routes
from ccserver.scope import Database, open_pool
from ccshared import notify

Answering = Callable[[Request], Awaitable[Response]]
_NOTICED_WITHIN_S = 10  # what began, changed or ended

# The route table: every route there is, with who may call it.
ENDPOINTS: list[Endpoint] = [
    *enrolment.ENDPOINTS,
    *checkin.ENDPOINTS,
    *key_routes.ENDPOINTS,
    *log.ENDPOINTS,
    *incidents.ENDPOINTS,
    *plan.ENDPOINTS,
    *policy.ENDPOINTS,
    *order_routes.ENDPOINTS,
    *api_keys.ENDPOINTS,
    *users.ENDPOINTS,
    *sessions.ENDPOINTS,
    *session.ENDPOINTS,
    *account.ENDPOINTS,
    *welcome.ENDPOINTS,
    *overview.ENDPOINTS,
    *events.ENDPOINTS,
    *charts.ENDPOINTS,
    *site_pages.ENDPOINTS,
    *appliance_pages.ENDPOINTS,
    *incident_pages.ENDPOINTS,
    *order_pages.ENDPOINTS,
    *fleet_order_pages.ENDPOINTS,
    *learning_pages.ENDPOINTS,
    *setting_pages.ENDPOINTS,
    *policy_pages.ENDPOINTS,
    *channel_pages.ENDPOINTS,
    *site_care_pages.ENDPOINTS,
    *code_pages.ENDPOINTS,
    *people.ENDPOINTS,
    *api_key_pages.ENDPOINTS,
    *audit_pages.ENDPOINTS,
    *health_routes.ENDPOINTS,
    *partners.ENDPOINTS,
    *sites.ENDPOINTS,
    *appliances.ENDPOINTS,
    *codes.ENDPOINTS,
    *incident_routes.ENDPOINTS,
    *checks.ENDPOINTS,
    *waivers.ENDPOINTS,
    *evidence.ENDPOINTS,
    *orders.ENDPOINTS,
    *fleet_orders.ENDPOINTS,
    *policies.ENDPOINTS,
    *baselines.ENDPOINTS,
    *rules.ENDPOINTS,
    *runbooks.ENDPOINTS,
    *settings.ENDPOINTS,
    *audit.ENDPOINTS,
    *channels.ENDPOINTS,
    *problems.ENDPOINTS,
]
ENDPOINTS += [openapi.endpoint(ENDPOINTS), reference.endpoint(lambda: openapi.document(ENDPOINTS))]


def make(config: Config, database_url: str) -> Starlette:
    """Return the application; its lifespan opens the pool and refuses a database that is not fit.

    Its `state.streams` are the live pages' streams: whoever stops the server ends them, or it would wait for them.
    """
    streams = live.Streams()

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        key_file = KeyFile(config.key_file)
        database = await open_pool(database_url, min_size=config.pool_min, max_size=config.pool_max)
        try:
            await health.check_database(database)
            await health.check_keys(database, key_file.current)
            known = marks.load(config.key_file)
            await restores.check(database, known)
            gc.freeze()
            ctx = context.make(database, key_file, config, known, streams)
            async with (
                scrape.serving(config, ctx),
                _sweeping(config, ctx),
                restores.watching(database, known),
                _looking(database, streams),
                notify.ready(),
            ):
                yield {"context": ctx}
        finally:
            await database.close()

    made = Starlette(
        routes=[*routes(), Mount("/static", session.STATIC)],
        middleware=[Middleware(RequestLog, on_bug=_on_bug, on_done=scrape.count), Middleware(_Straight)],
        exception_handlers={CentralCommandError: _on_error, HTTPException: _on_http},
        lifespan=lifespan,
    )
    made.state.streams = streams
    return made


@contextlib.asynccontextmanager
async def _looking(db: Database, streams: live.Streams) -> AsyncIterator[None]:
    """Look again and again at what live pages watch; nothing is read while nobody watches."""
    task = asyncio.create_task(rounds.keep("live pages", live.LOOK_S, partial(live.look, db, streams)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _sweeping(config: Config, ctx: Context) -> AsyncIterator[None]:
    """Sweep, carry on orders for many and redactions, tell people, in the background; or nothing of it."""
    if not config.sweep_s:
        yield
        return
    tell, noticed_s = partial(scrape.tell, ctx), min(config.sweep_s, _NOTICED_WITHIN_S)
    work = [
        rounds.keep("sweeps", config.sweep_s, partial(sweeps.tell_due, ctx.db, config.keep, tell)),
        rounds.keep("noticing", noticed_s, partial(sweeps.tell_due, ctx.db, config.keep, tell, (sweeps.NOTICING,))),
        rounds.keep("orders for many", config.sweep_s, partial(fleets.advance_all, ctx)),
        rounds.keep("redactions", config.sweep_s, lambda: erasing.follow_all(ctx.db, ctx.keys)),
        telling.keep_sending(telling.sender(ctx), partial(scrape.tell_attempt, ctx)),
        rounds.keep("pings", deadman.EVERY_S, partial(deadman.ping, ctx.db, config)),
    ]
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def routes() -> list[BaseRoute]:
    """Return Starlette's routes, made from the route table; each lets only its declared caller through."""
    return [_Prefixed(row.path, _guarded(row), methods=[row.method]) for row in ENDPOINTS]


class _Prefixed(Route):
    """A route that is passed over by what its path begins with: Starlette asks one after the other, and there are many.

    For a path that none of 262 has, this takes 51 µs of the processor where Starlette alone takes 83.
    """

    def __init__(self, path: str, endpoint: Answering, methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        self._begins = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the route is meant, as Starlette would."""
        if not scope.get("root_path") and not scope["path"].startswith(self._begins):
            return Match.NONE, {}
        return super().matches(scope)


class _Straight:
    """Middleware: a path without a parameter is found by itself, past Starlette's walk over the routes.

    What Starlette would answer differently is left to it: a method or path that no row has, and an app that is mounted.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._endpoints = _straight(ENDPOINTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        found = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None or scope.get("root_path"):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await found(request)
        except CentralCommandError as error:
            response = await _on_error(request, error)
        except HTTPException as error:
            response = await _on_http(request, error)
        await response(scope, receive, send)


def _straight(rows: Sequence[Endpoint]) -> dict[tuple[str, str], Answering]:
    """Return what answers each method and path that Starlette's walk over the routes would come to first."""
    found: dict[tuple[str, str], Answering] = {}
    before: list[tuple[str, re.Pattern[str]]] = []
    for row in rows:
        if "{" in row.path:
            before.append((row.method, compile_path(row.path)[0]))
        elif not any(method == row.method and path.fullmatch(row.path) for method, path in before):
            for method in (row.method, "HEAD") if row.method == "GET" else (row.method,):
                found.setdefault((method, row.path), _guarded(row))
    return found


def _guarded(row: Endpoint) -> Answering:
    async def endpoint(request: Request) -> Response:
        request.scope["cc.route"] = row.path
        limiting.check_transport(request)
        check_headers(request)
        await _admit(request, row)
        if row.method != "GET" and not row.path.startswith("/agent/"):
            auth.check_origin(request)
        return await row.handler(request)

    return endpoint


async def _admit(request: Request, row: Endpoint) -> None:
    """Let the declared caller through, as often as the limits say."""
    if row.caller is Caller.ANYONE:
        limiting.anonymous(request, row)
    elif row.caller is Caller.DEVICE:
        device = auth.device(request)
        request.scope["cc.caller"] = "appliance"
        limiting.spend(request, "appliance", device.appliance_id)
    else:
        limiting.guesses_left(request)
        try:
            request.state.principal = await auth.principal(request, row.caller)
        except NotSignedInError:
            if auth.presents(request):
                limiting.guessed(request)
            raise
        request.scope["cc.caller"] = "person" if request.state.principal.user else "key"
        limiting.spend(request, "principal", request.state.principal.actor)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CentralCommandError)  # noqa: S101  as registered
    if isinstance(error, NotSignedInError) and not request.url.path.startswith(("/agent/", "/api/")):
        return RedirectResponse("/login", 303)
    note(request, error)
    context.of(request).metrics.refusals.labels(status_of(error)[1]).inc()
    return _answer(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as registered
    if error.status_code == 404:
        return _answer(request, NotFoundError())
    if error.status_code == 405:
        answer = _answer(request, MethodNotAllowedError())
        answer.headers["Allow"] = ", ".join(_methods(request.url.path))
        return answer
    answer = _answer(request, BadBodyError(error.detail), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _on_bug(request: Request) -> Response:
    text = "The server could not do this; the log has the reason under this id."
    return _answer(request, CentralCommandError(text))


def _answer(request: Request, error: CentralCommandError, status: int | None = None) -> Response:
    """Return a page for a browser that asks for one, a problem document for everybody else."""
    answer = trouble.page(request, error, status) if wants_page(request) else problem(request, error)
    answer.status_code = status or answer.status_code
    return answer


def _methods(path: str) -> list[str]:
    """Return which methods an address takes; whatever answers GET answers HEAD."""
    found = {row.method for row in ENDPOINTS if compile_path(row.path)[0].fullmatch(path)}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))
