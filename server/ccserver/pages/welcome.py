"""The page behind a one-time link: an invited person, or one who lost a credential, chooses a password."""

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, invitations
from ccserver.errors import LinkSpentError
from ccserver.http import Caller, Endpoint
from ccserver.pages import render
from ccserver.pages.forms import read_form


async def ask(request: Request) -> Response:
    """Show the form to whoever has a good link."""
    try:
        await invitations.find(context.of(request), request.path_params["token"])
    except LinkSpentError as error:
        return render.message(request, "This link no longer works", str(error), 404)
    return _form(request, None)


async def choose(request: Request) -> Response:
    """Take the password; the person then signs in with it."""
    password = (await read_form(request)).get("password", "")
    if not auth.is_acceptable(password):
        return _form(request, auth.CHOOSING_RULE)
    try:
        await invitations.accept(context.of(request), request.path_params["token"], password)
    except LinkSpentError as error:
        return render.message(request, "This link no longer works", str(error), 404)
    return render.redirect("/login")


def _form(request: Request, refused: str | None) -> Response:
    values = {"path": request.url.path, "refused": refused}
    return render.page(request, "welcome.html", values, 422 if refused else 200)


ENDPOINTS = [
    Endpoint("GET", "/welcome/{token}", ask, Caller.ANYONE),
    Endpoint("POST", "/welcome/{token}", choose, Caller.ANYONE),
]
