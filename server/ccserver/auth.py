"""Who is calling: an appliance by its token, a person by a session cookie; neither passes as the other."""

import asyncio
import contextlib
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from starlette.requests import Request
from starlette.responses import Response

from ccserver import context, tokens
from ccserver.context import Context
from ccserver.errors import (
    BadQueryError,
    DatabaseUnavailableError,
    ForbiddenError,
    ForeignOriginError,
    NotFoundError,
    NotSignedInError,
    SecondFactorNeededError,
    TokenInvalidError,
)
from ccserver.http import Caller, path_id
from ccserver.queries import api_keys, audit_log, partners, sessions, sites
from ccserver.queries.api_keys import KnownKey
from ccserver.queries.audit_log import Act
from ccserver.queries.users import User
from ccserver.scope import PLATFORM, PartnerScope, SiteScope
from ccshared import ids
from ccshared.canonical import Json
from ccshared.vocabulary import Role

SESSION_HOURS = 12
SECURE_COOKIE = "__Host-cc_session"
PASSWORD_LETTERS = 12
_WHICH_PARTNER = "partner: a platform admin says which partner is meant, as ?partner=ID."
CHOOSING_RULE = "A password needs at least 12 letters, and at most 1000."
_KEY_VALUE = re.compile(r"cck_[0-9A-Za-z_-]{43}")
_COOKIE_VALUE = re.compile(r"[0-9A-Za-z_-]{43}")
# The hash of a password nobody has: an unknown login takes as long to refuse as a known one.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$9Yx8V0c3Jm1sYc0eT2uZ5g$3YwB4mQ0H5zJb6Hq2Z8hJ3oN9kq2Y1s5c7u0x8v1w4A"


# What each declared caller may be. Whoever changes something needs a second factor, or a key that such a person made.
_ROLES: dict[Caller, frozenset[Role]] = {
    Caller.PERSON: frozenset(Role),
    Caller.AUDIT: frozenset(Role),
    Caller.READ: frozenset(Role) - {Role.AUDITOR},
    Caller.OPERATE: frozenset({Role.TECHNICIAN, Role.OWNER, Role.PLATFORM_ADMIN}),
    Caller.OWN: frozenset({Role.OWNER, Role.PLATFORM_ADMIN}),
    Caller.PLATFORM: frozenset({Role.PLATFORM_ADMIN}),
}
_CHANGES = frozenset({Caller.OPERATE, Caller.OWN, Caller.PLATFORM})


@dataclass(frozen=True)
class Principal:
    """Who calls: a signed-in person or an API key. `partner_id` is whose rows are meant: a platform admin names one.

    `person` is who stands behind that: who made the key, as the audit log names them.
    """

    partner_id: str
    role: Role
    actor: str
    person: str
    user: User | None = None
    second_factor: bool = False

    @property
    def is_platform_admin(self) -> bool:
        """Whether the caller looks after the platform and not one partner's sites."""
        return self.role is Role.PLATFORM_ADMIN


async def principal(request: Request, caller: Caller) -> Principal:
    """Return who calls; NotSignedInError, ForbiddenError or SecondFactorNeededError unless the route lets them."""
    found = await _by_key(request) if "authorization" in request.headers else await _by_session(request)
    if found.role not in _ROLES[caller] or (caller is Caller.PERSON and found.user is None):
        raise ForbiddenError
    if not may(found, caller):
        raise SecondFactorNeededError
    return found


def may(who: Principal, caller: Caller) -> bool:
    """Return whether somebody may call what this caller may, by role and, for changes, by a second factor."""
    if who.role not in _ROLES[caller]:
        return False
    return caller not in _CHANGES or who.user is None or who.second_factor


def auditor_id(request: Request) -> str | None:
    """Return the id of an auditor, who is bound to sites; a key of that role has none, and sees no site."""
    found: Principal = request.state.principal
    if found.role is not Role.AUDITOR:
        return None
    return found.user.id if found.user else ""


async def acting(request: Request) -> Principal:
    """Return the caller with the partner whose rows are meant; a platform admin names it as ?partner=."""
    found = _named(request)
    if found.is_platform_admin:
        async with context.of(request).db.platform() as scope:
            if await partners.find_anywhere(scope, found.partner_id) is None:
                raise BadQueryError(_WHICH_PARTNER)
    return found


def _named(request: Request) -> Principal:
    """Return the caller with the partner that is named, which may not be there; BadQueryError when none is."""
    found: Principal = request.state.principal
    if not found.is_platform_admin:
        return found
    chosen = request.query_params.get("partner", "")
    if not ids.is_id(chosen) or chosen == PLATFORM:
        raise BadQueryError(_WHICH_PARTNER)
    return replace(found, partner_id=chosen)


@asynccontextmanager
async def partner_scope(request: Request) -> AsyncIterator[PartnerScope]:
    """Open the scope of the caller's partner; never for an auditor, who has sites only."""
    found = await acting(request)
    if found.role is Role.AUDITOR:
        raise ForbiddenError
    async with context.of(request).db.partner(found.partner_id) as scope:
        yield scope


@asynccontextmanager
async def site_scope(request: Request) -> AsyncIterator[SiteScope]:
    """Open the scope of the site that the path names, if it is the caller's; NotFoundError otherwise."""
    async with _readable(request, path_id(request, "site")) as scope:
        yield scope


@asynccontextmanager
async def scope_asked(request: Request, site_id: str | None) -> AsyncIterator[PartnerScope | SiteScope]:
    """Open the partner's scope, or that of the site that the query names; NotFoundError when it is not theirs."""
    if site_id is None:
        async with partner_scope(request) as partner:
            yield partner
        return
    if _named(request).role is Role.AUDITOR:
        raise ForbiddenError
    async with _readable(request, site_id) as site:
        yield site


@asynccontextmanager
async def _readable(request: Request, site_id: str) -> AsyncIterator[SiteScope]:
    """Open a site's scope; a site that is there proves its partner, so only without it the partner is looked for."""
    found = _named(request)
    async with context.of(request).db.site(found.partner_id, site_id) as scope:
        if await sites.is_readable(scope, auditor_id(request)):
            yield scope
            return
    await acting(request)
    raise NotFoundError


def device(request: Request) -> tokens.Device:
    """Return the appliance that a request's bearer token names; TokenInvalidError without a good one.

    A request's token is verified once: it cannot become another while the request is answered.
    """
    known: tokens.Device | None = request.scope.get("cc.device")
    if known is not None:
        return known
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = tokens.verify(context.of(request).token_key, token, time.time()) if scheme.lower() == "bearer" else None
    if found is None:
        raise TokenInvalidError
    request.scope["cc.device"] = found
    return found


def cookie_name(request: Request) -> str:
    """Return the name of the cookie that a session comes in: browsers keep the first one to TLS and this host."""
    return SECURE_COOKIE if context.of(request).config.secure else "cc_session"


async def _by_session(request: Request) -> Principal:
    value = request.cookies.get(cookie_name(request), "")
    if not _COOKIE_VALUE.fullmatch(value):
        raise NotSignedInError
    async with context.of(request).db.bare() as conn:
        found = await sessions.signed_in(conn, _hash(value))
    if found is None:
        raise NotSignedInError
    actor = f"user:{found.user.login}"
    return Principal(found.user.partner_id, Role(found.user.role), actor, actor, found.user, found.second_factor)


async def _by_key(request: Request) -> Principal:
    scheme, _, value = request.headers["authorization"].partition(" ")
    if scheme.lower() != "bearer" or not _KEY_VALUE.fullmatch(value):
        raise NotSignedInError
    async with context.of(request).db.credential(_hash(value)) as scope:
        key = await api_keys.find_by_credential(scope, _hash(value))
    if key is None:
        raise NotSignedInError
    _note_use(context.of(request), key)
    return Principal(key.partner_id, Role(key.role), f"key:{key.id}", key.created_by)


def _note_use(ctx: Context, key: KnownKey) -> None:
    """Write that a key was used, at most once a minute and not while its call waits."""
    if ctx.keys_used.take(key.id, time.monotonic()):
        return
    task = asyncio.create_task(_write_use(ctx, key))
    ctx.background.add(task)
    task.add_done_callback(ctx.background.discard)


async def _write_use(ctx: Context, key: KnownKey) -> None:
    with contextlib.suppress(DatabaseUnavailableError):  # the next minute's call writes it
        async with ctx.db.partner(key.partner_id) as scope:
            await api_keys.note_use(scope, key.id)


def presents(request: Request) -> bool:
    """Return whether a request presents a credential at all."""
    return "authorization" in request.headers or bool(request.cookies.get(cookie_name(request)))


def new_key(secret: str | None = None) -> tuple[str, str]:
    """Return a new API key, to be shown once, and the hash to be kept; `secret` is its 43 characters, else random."""
    value = f"cck_{secret or secrets.token_urlsafe(32)}"
    return value, _hash(value)


def is_acceptable(password: str) -> bool:
    """Return whether a password may be chosen: length is what counts."""
    return PASSWORD_LETTERS <= len(password) <= 1000 and "\x00" not in password


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password; it takes 64 MiB and some tens of milliseconds."""
    return PasswordHasher().hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Return whether the hash is the password's, for a command: it takes the process as long as argon2 does."""
    return _password_is(password_hash or _NOBODY, password[:1000]) and password_hash is not None


async def password_is(ctx: Context, password_hash: str | None, password: str) -> bool:
    """Return whether the hash is the password's; without a hash it takes as long to say no."""
    async with ctx.passwords:
        good = await asyncio.to_thread(_password_is, password_hash or _NOBODY, password[:1000])
    return good and password_hash is not None


async def open_session(request: Request, user: User, response: Response, *, second_factor: bool) -> None:
    """Start a session and set its cookie; the session that the request came with ends."""
    await _end_presented(request)
    value = secrets.token_urlsafe(32)
    expires, agent = datetime.now(UTC) + timedelta(hours=SESSION_HOURS), request.headers.get("user-agent", "")[:400]
    new = sessions.NewSession(_hash(value), user.id, ids.new_id(), expires, second_factor, agent)
    async with context.of(request).db.partner(user.partner_id) as scope:
        await sessions.insert(scope, new)
        detail: dict[str, Json] = {"second_factor": second_factor}
        await audit_log.append(scope, Act(f"user:{user.login}", "session.open", f"session:{new.id}", detail))
    response.set_cookie(
        cookie_name(request),
        value,
        max_age=SESSION_HOURS * 3600,
        httponly=True,
        samesite="strict",
        secure=context.of(request).config.secure,
    )


async def close_session(request: Request, who: Principal, response: Response) -> None:
    """End the session that the request came with."""
    value = request.cookies.get(cookie_name(request), "")
    async with context.of(request).db.partner(who.partner_id) as scope:
        await sessions.delete(scope, _hash(value))
    secure = context.of(request).config.secure  # browsers ignore a __Host- cookie without it, even its deletion
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict", secure=secure)


async def _end_presented(request: Request) -> None:
    value = request.cookies.get(cookie_name(request), "")
    if not _COOKIE_VALUE.fullmatch(value):
        return
    db = context.of(request).db
    async with db.credential(_hash(value)) as scope:
        session = await sessions.find_by_credential(scope, _hash(value))
    if session is not None:
        async with db.partner(session.partner_id) as partner:
            await sessions.delete(partner, _hash(value))


def check_origin(request: Request) -> None:
    """Refuse a form that another site's page sent: browsers say where a POST comes from. A key is no browser's."""
    if "authorization" in request.headers:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site in ("same-origin", "none"):
            return
    elif request.headers.get("origin", "").partition("://")[2] == request.headers.get("host", ""):
        return
    raise ForeignOriginError


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def _password_is(password_hash: str, password: str) -> bool:
    try:
        return PasswordHasher().verify(password_hash, password)
    except (Argon2Error, InvalidHashError):  # a hash that is none matches no password
        return False
