"""How a device becomes known and gets its tokens."""

import time

from starlette.requests import Request
from starlette.responses import Response

from ccserver import context, enrolment, tokens
from ccserver.errors import DeviceUnknownError, NonceExpiredError, SignatureInvalidError
from ccserver.http import Caller, Endpoint, read, reply, reply_json
from ccserver.queries import appliances
from ccshared import ed25519, purposes
from ccshared.messages import EnrollRequest, Nonce, Token, TokenRequest


async def enroll(request: Request) -> Response:
    """Enrol a device by a one-time code; the answer is an envelope signed by the order key that the code names."""
    return reply_json(await enrolment.enroll(context.of(request), await read(request, EnrollRequest)))


async def nonce(request: Request) -> Response:
    """Return a nonce to sign within a minute."""
    return reply(Nonce(nonce=tokens.new_nonce(context.of(request).nonce_key, time.time())))


async def token(request: Request) -> Response:
    """Return an access token for a nonce signed by the device's key; the device's clock does not matter."""
    ctx, asked, now = context.of(request), await read(request, TokenRequest), time.time()
    if not tokens.nonce_is_good(ctx.nonce_key, asked.nonce, now):
        raise NonceExpiredError
    async with ctx.db.credential(asked.appliance_id) as scope:
        known = await appliances.find_by_credential(scope, asked.appliance_id)
    if known is None:
        raise DeviceUnknownError
    signed = purposes.token(ctx.keys.server, asked.appliance_id, asked.nonce)
    try:
        ed25519.verify(known.public_key, signed, bytes.fromhex(asked.signature))
    except (ed25519.BadKeyError, ed25519.BadSignatureError) as error:
        raise SignatureInvalidError from error
    device = tokens.Device(known.site_id, asked.appliance_id)
    return reply(Token(token=tokens.issue(ctx.token_key, device, now), expires_in_s=tokens.TOKEN_SECONDS))


ENDPOINTS = [
    Endpoint("POST", "/agent/v1/enroll", enroll, Caller.ANYONE, EnrollRequest),
    Endpoint("GET", "/agent/v1/nonce", nonce, Caller.ANYONE, None, {200: Nonce}),
    Endpoint("POST", "/agent/v1/token", token, Caller.ANYONE, TokenRequest, {200: Token}),
]
