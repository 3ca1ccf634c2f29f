"""A person's own account: the password, and the second factor with its recovery codes."""

import asyncio
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, revoking, second_factor, signing_in, totp
from ccserver.errors import ForbiddenError, SecondFactorNeededError
from ccserver.http import Caller, Endpoint, path_id
from ccserver.pages import render
from ccserver.pages.forms import read_form
from ccserver.queries import audit_log, recovery_codes, sessions, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import User

_NOT_YOURS = "This is not your password. Nothing was changed."
_WRONG_CODE = "This is not the code of this secret at this time. Is the clock of your device right? Begin again."


async def show(request: Request) -> Response:
    """Show the account."""
    return await _page(request)


async def change_password(request: Request) -> Response:
    """Take another password from who knows the present one; all other sessions of the person end."""
    user, fields = _user(request), await read_form(request)
    if not await signing_in.knows_password(request, user, fields.get("password", "")):
        return await _page(request, refused=_NOT_YOURS)
    chosen = fields.get("new_password", "")
    if not auth.is_acceptable(chosen):
        return await _page(request, refused=auth.CHOOSING_RULE)
    ctx = context.of(request)
    async with ctx.passwords:
        password_hash = await asyncio.to_thread(auth.hash_password, chosen)
    async with ctx.db.partner(user.partner_id) as scope:
        await users.set_password(scope, user.id, password_hash)
        await audit_log.append(scope, Act(f"user:{user.login}", "password.change", f"user:{user.id}", {}))
    response = render.redirect("/account")
    await auth.open_session(request, user, response, second_factor=request.state.principal.second_factor)
    return response


async def begin_second_factor(request: Request) -> Response:
    """Show a new secret to who knows the password; it counts once a code confirms it."""
    user, fields = _user(request), await read_form(request)
    if not await signing_in.knows_password(request, user, fields.get("password", "")):
        return await _page(request, refused=_NOT_YOURS)
    secret = await second_factor.begin(context.of(request), user)
    if secret is None:
        raise ForbiddenError("This account has a second factor already: whoever lost it asks for a reset.")
    values = {"secret": totp.shown(secret), "uri": totp.uri(secret, user.login)}
    return render.page(request, "second_factor.html", values)


async def confirm_second_factor(request: Request) -> Response:
    """Confirm the secret by its first code, and show the recovery codes this once."""
    user, fields = _user(request), await read_form(request)
    codes = await second_factor.confirm(context.of(request), user, fields.get("code", ""))
    if codes is None:
        return await _page(request, refused=_WRONG_CODE)
    request.state.principal = replace(request.state.principal, second_factor=True)  # as the session from here on
    response = render.page(request, "recovery_codes.html", {"codes": codes})
    await auth.open_session(request, user, response, second_factor=True)
    return response


async def renew_recovery_codes(request: Request) -> Response:
    """Show new recovery codes to who signed in with the second factor and knows the password."""
    user, fields = _user(request), await read_form(request)
    if not request.state.principal.second_factor:
        raise SecondFactorNeededError
    if not await signing_in.knows_password(request, user, fields.get("password", "")):
        return await _page(request, refused=_NOT_YOURS)
    codes = await second_factor.renew_recovery_codes(context.of(request), user)
    return render.page(request, "recovery_codes.html", {"codes": codes})


async def end_session(request: Request) -> Response:
    """End a session of the person's own, elsewhere or here."""
    user = _user(request)
    async with context.of(request).db.partner(user.partner_id) as scope:
        await revoking.end_session(scope, user, path_id(request, "session"))
    return render.redirect("/account")


async def _page(request: Request, refused: str | None = None) -> Response:
    user = _user(request)
    async with context.of(request).db.partner(user.partner_id) as scope:
        factors = await users.factors(scope, user.id)
        left = await recovery_codes.count_unused(scope, user.id)
        open_sessions = await sessions.list_open(scope, user.id)
    confirmed = factors is not None and factors.totp_confirmed
    values = {"user": user, "confirmed": confirmed, "left": left, "refused": refused, "sessions": open_sessions}
    return render.page(request, "account.html", values, 422 if refused else 200)


def _user(request: Request) -> User:
    user: User | None = request.state.principal.user
    if user is None:
        raise ForbiddenError
    return user


ENDPOINTS = [
    Endpoint("GET", "/account", show, Caller.PERSON),
    Endpoint("POST", "/account/password", change_password, Caller.PERSON),
    Endpoint("POST", "/account/second-factor", begin_second_factor, Caller.PERSON),
    Endpoint("POST", "/account/second-factor/confirm", confirm_second_factor, Caller.PERSON),
    Endpoint("POST", "/account/sessions/{session}/end", end_session, Caller.PERSON),
    Endpoint("POST", "/account/recovery-codes", renew_recovery_codes, Caller.PERSON),
]
