"""Signing in: a password, then a code where the person has a second factor. A wrong, an unknown and a locked login
get the same answer after the same work; five failures in a row lock a login for a minute, then twice as long each time.
"""

import time
from dataclasses import dataclass

from starlette.requests import Request

from ccserver import auth, context, limiting, second_factor, tickets
from ccserver.context import Context
from ccserver.queries import audit_log, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import Credentials, User
from ccserver.scope import PLATFORM, PartnerScope
from ccserver.tickets import Ticket
from ccshared.canonical import Json

_NOBODY = User(PLATFORM, "nobody", "unknown", "")


@dataclass(frozen=True)
class Passed:
    """Whose password was right; a `ticket` says that a code is still owed, and that nobody is signed in yet."""

    user: User
    ticket: str | None


async def by_password(request: Request, login: str, password: str) -> Passed | None:
    """Return whose login and password these are; None for everything else, whatever it was."""
    ctx, login = context.of(request), login.strip().lower()[:200].replace("\x00", "")
    limiting.spend(request, "account", login)
    async with ctx.db.credential(login) as credential:
        found = await users.find_by_credential(credential, login)
    right = await auth.password_is(ctx, found.password_hash if found else None, password)
    if found is None or not right or found.locked:
        await _refuse(ctx, found.user if found else _NOBODY, "password")
        return None
    if found.has_second_factor:
        return Passed(found.user, _ticket(ctx, found))
    async with ctx.db.partner(found.user.partner_id) as scope:
        return Passed(found.user, None) if await users.forgive(scope, found.user.id) else None


async def by_code(request: Request, ticket: str, code: str) -> User | None:
    """Return whose second factor this is, after the password that the ticket stands for; else None."""
    ctx = context.of(request)
    owed = tickets.verify(ctx.ticket_key, ticket, time.time())
    if owed is None:
        return None
    async with ctx.db.partner(owed.partner_id) as scope:
        factors = await users.factors(scope, owed.user_id)
        if factors is None or tickets.mark(factors.password_hash or "") != owed.password_mark:
            return None
        if not factors.locked and await second_factor.passes(ctx, scope, factors, code):
            return factors.user
        await _count(ctx, scope, factors.user, "code")
        return None


def is_owed(request: Request, ticket: str) -> bool:
    """Return whether a ticket is still good, so that the code can be asked for again."""
    return tickets.verify(context.of(request).ticket_key, ticket, time.time()) is not None


async def knows_password(request: Request, user: User, password: str) -> bool:
    """Return whether who is signed in knows the password: asked before a credential changes; failures count."""
    return await by_password(request, user.login, password) is not None


async def _refuse(ctx: Context, user: User, factor: str) -> None:
    async with ctx.db.partner(user.partner_id) as scope:
        await _count(ctx, scope, user, factor)


async def _count(ctx: Context, scope: PartnerScope, user: User, factor: str) -> None:
    """Count a failure; the audit log tells the first ones, and then every ten minutes how many there were."""
    await users.count_failure(scope, user.id)
    held_back = ctx.refusals_told.tell(f"{user.partner_id}/{user.id}", time.monotonic())
    if held_back is None:
        return
    detail: dict[str, Json] = {"factor": factor} | ({"more": held_back} if held_back else {})
    await audit_log.append(scope, Act(f"user:{user.login}", "session.refuse", f"user:{user.id}", detail))


def _ticket(ctx: Context, found: Credentials) -> str:
    mark = tickets.mark(found.password_hash or "")
    return tickets.issue(ctx.ticket_key, Ticket(found.user.partner_id, found.user.id, mark), time.time())
