"""Signing in and out, and the static files that even the sign-in page needs."""

import os
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ccserver import auth
from ccserver.errors import BadBodyError, ForbiddenError, NotSignedInError
from ccserver.http import Caller, Endpoint, read_body
from ccserver.pages import render

_FORM_BYTES = 8192
_FORM_FIELDS = 8


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


STATIC = _CachedFiles(directory=Path(__file__).parent.parent / "static")


async def ask(request: Request) -> Response:
    """Show the sign-in form; who is signed in goes on to the dashboard."""
    try:
        await auth.principal(request, Caller.PERSON)
    except (NotSignedInError, ForbiddenError):  # a key is nobody who can sign in, and the page is anyone's
        return _form(request, "", refused=False)
    return render.redirect("/")


async def sign_in(request: Request) -> Response:
    """Start a new session for who gave the right login and password; any earlier one of this browser ends."""
    fields = await _read_form(request)
    login = fields.get("login", "")
    user = await auth.sign_in(request, login, fields.get("password", ""))
    if user is None:
        return _form(request, login, refused=True)
    response = render.redirect("/")
    await auth.open_session(request, user, response)
    return response


async def sign_out(request: Request) -> Response:
    """End the session."""
    response = render.redirect("/login")
    await auth.close_session(request, request.state.principal, response)
    return response


def _form(request: Request, login: str, *, refused: bool) -> Response:
    values = {"login": login[:200], "refused": refused}
    return render.page(request, "login.html", values, 401 if refused else 200)


async def _read_form(request: Request) -> dict[str, str]:
    """Return the last value of each field of a small urlencoded form."""
    body = await read_body(request, _FORM_BYTES)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:  # not ASCII, or more fields
        raise BadBodyError("The body is not a form that this page has.") from error
    return {name: values[-1] for name, values in fields.items()}


ENDPOINTS = [
    Endpoint("GET", "/login", ask, Caller.ANYONE),
    Endpoint("POST", "/login", sign_in, Caller.ANYONE),
    Endpoint("POST", "/logout", sign_out, Caller.PERSON),
]
