"""Signing in and out, and the static files that even the sign-in page needs."""

import os
from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ccserver import auth, signing_in
from ccserver.errors import ForbiddenError, NotSignedInError
from ccserver.http import Caller, Endpoint
from ccserver.pages import render
from ccserver.pages.forms import read_form


class _CachedFiles(StaticFiles):
    """Static files that browsers keep for a day; pages name them by content, so that a new one is fetched at once."""

    def file_response(
        self,
        full_path: "str | os.PathLike[str]",
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Return the file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "public, max-age=86400"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


# They are the same for everybody and hold no secret, so that their packed length tells nothing.
STATIC = GZipMiddleware(_CachedFiles(directory=Path(__file__).parent.parent / "static"), minimum_size=1024)


async def ask(request: Request) -> Response:
    """Show the sign-in form; who is signed in goes on to the dashboard."""
    try:
        await auth.principal(request, Caller.PERSON)
    except (NotSignedInError, ForbiddenError):  # a key is nobody who can sign in, and the page is anyone's
        return _form(request, "", refused=False)
    return render.redirect("/")


async def sign_in(request: Request) -> Response:
    """Take login and password; who has a second factor is asked for it next, and is not signed in before."""
    fields = await read_form(request)
    login = fields.get("login", "")
    passed = await signing_in.by_password(request, login, fields.get("password", ""))
    if passed is None:
        return _form(request, login, refused=True)
    if passed.ticket is not None:
        return render.page(request, "code.html", {"ticket": passed.ticket, "refused": False})
    response = render.redirect("/")
    await auth.open_session(request, passed.user, response, second_factor=False)
    return response


async def sign_in_by_code(request: Request) -> Response:
    """Start a session for who gave the code that was owed after the password."""
    fields = await read_form(request)
    ticket = fields.get("ticket", "")
    user = await signing_in.by_code(request, ticket, fields.get("code", ""))
    if user is None:
        if not signing_in.is_owed(request, ticket):
            return _form(request, "", refused=True)
        return render.page(request, "code.html", {"ticket": ticket, "refused": True}, 401)
    response = render.redirect("/")
    await auth.open_session(request, user, response, second_factor=True)
    return response


async def sign_out(request: Request) -> Response:
    """End the session."""
    response = render.redirect("/login")
    await auth.close_session(request, request.state.principal, response)
    return response


def _form(request: Request, login: str, *, refused: bool) -> Response:
    values = {"login": login[:200], "refused": refused}
    return render.page(request, "login.html", values, 401 if refused else 200)


ENDPOINTS = [
    Endpoint("GET", "/login", ask, Caller.ANYONE),
    Endpoint("POST", "/login", sign_in, Caller.ANYONE),
    Endpoint("POST", "/login/code", sign_in_by_code, Caller.ANYONE),
    Endpoint("POST", "/logout", sign_out, Caller.PERSON),
]
