"""API keys of a partner: listed, made, revoked. A key is shown when it is made and never again."""

from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, issuing, revoking
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.issuing import MAX_KEY_DAYS, KeyRole, WantedKey
from ccserver.listing import COUNTED_TO, Listing, ListQuery, listing, page_of
from ccserver.queries import api_keys
from ccserver.queries.api_keys import ApiKey
from ccserver.routes.api import creating
from ccshared.messages import Message, Name


class KeyRequest(Message):
    """A key to be made, good for `days`."""

    name: Annotated[Name, Field(max_length=200)]
    role: KeyRole
    days: Annotated[int, Field(ge=1, le=MAX_KEY_DAYS, strict=True)]


class KeyMade(Message):
    """The new key, this once."""

    id: str
    key: str
    role: KeyRole
    expires_at: datetime


async def list_keys(request: Request) -> Response:
    """List the partner's API keys, newest first, with those that expired or were revoked."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        key, name = context.of(request).cursor_key, f"api_keys:{scope.partner_id}"
        page = page_of(asked, key, name)
        rows = await api_keys.newest(scope, scope.partner_id, page)
        total = await api_keys.count(scope, COUNTED_TO) if asked.total else None
    found = listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    return reply_value(Listing[ApiKey], found.model_copy(update={"total": total}))


async def create(request: Request) -> Response:
    """Make an API key. Only a person does: a key that made keys would never expire."""
    issuing.check_is_person(request.state.principal)
    asked, actor = await read(request, KeyRequest), request.state.principal.actor
    creation = creating.Creation(request, asked, ApiKey, None)
    async with auth.partner_scope(request) as scope:
        value, key_hash = auth.new_key(creating.repeatable(context.of(request).keys, creation, scope.partner_id))

        async def insert() -> tuple[str, ApiKey]:
            wanted = WantedKey(asked.name, asked.role, asked.days)
            made = await issuing.keep_key(scope, actor, wanted, key_hash)
            return made.id, made

        made = await creating.once(scope, creation, insert)
    return reply_value(KeyMade, KeyMade(id=made.id, key=value, role=asked.role, expires_at=made.expires_at), 201)


async def revoke(request: Request) -> Response:
    """Revoke an API key at once and for good."""
    async with auth.partner_scope(request) as scope:
        found = await revoking.revoke_key(scope, request.state.principal.actor, path_id(request, "key"))
    return reply_value(ApiKey, found)


ENDPOINTS = [
    Endpoint("GET", "/api/v1/api-keys", list_keys, Caller.OWN, None, {200: Listing[ApiKey]}, ListQuery),
    Endpoint("POST", "/api/v1/api-keys", create, Caller.OWN, KeyRequest, {201: KeyMade}, headers=("Idempotency-Key",)),
    Endpoint("POST", "/api/v1/api-keys/{key}/revoke", revoke, Caller.OWN, None, {200: ApiKey}),
]
