"""Whether a caller may go on now: TooManyRequestsError before anything is read, asked of the database or written."""

import time

from starlette.requests import Request

from ccserver import context, limits
from ccserver.errors import PlainHttpError, TooManyRequestsError
from ccserver.http import Endpoint
from ccserver.limits import Address, Kind

_UNLIMITED = frozenset({"/healthz", "/readyz"})  # asked by whoever watches the server, at its own pace
_SECRETS = frozenset({("POST", "/login"), ("POST", "/login/code"), ("POST", "/welcome/{token}")})  # a guess each


def address(request: Request) -> Address | None:
    """Return who calls, as far as the configuration trusts what proxies say."""
    trusted = context.of(request).config.trusted_proxies
    forwarded = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"x-forwarded-for"]
    return limits.client(_peer(request), forwarded, trusted)


def check_transport(request: Request) -> None:
    """Refuse plain http from anybody but this host and the proxies listed: PlainHttpError before anything is read."""
    plain = request.scope["scheme"] != "https"
    if plain and not limits.may_speak_plainly(_peer(request), context.of(request).config.trusted_proxies):
        raise PlainHttpError


def _peer(request: Request) -> str | None:
    client: tuple[str, int] | None = request.scope.get("client")
    return client[0] if client else None


def anonymous(request: Request, row: Endpoint) -> None:
    """Count a call that needs no credential, by its address; one that tries a secret also as that."""
    if row.path in _UNLIMITED:
        return
    spend(request, "anonymous", limits.key_of(address(request)))
    if (row.method, row.path) in _SECRETS:
        spend(request, "password", limits.key_of(address(request)))


def guesses_left(request: Request) -> None:
    """Refuse an address that presented too many credentials that were none."""
    spend(request, "guess", limits.key_of(address(request)), 0)


def guessed(request: Request) -> None:
    """Count a credential that was none."""
    context.of(request).limits.wait_s("guess", limits.key_of(address(request)), time.monotonic())


def spend(request: Request, kind: Kind, key: str, cost: float = 1) -> None:
    """Count a call; TooManyRequestsError says in how many seconds to come again."""
    ctx = context.of(request)
    wait_s = ctx.limits.wait_s(kind, key, time.monotonic(), cost)
    if wait_s:
        ctx.metrics.limited.labels(kind).inc()
        raise TooManyRequestsError(retry_after_s=wait_s)
