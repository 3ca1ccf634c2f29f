"""API keys of a partner: listed, made, revoked. A key is shown when it is made and never again."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.errors import ForbiddenError
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.listing import COUNTED_TO, Listing, ListQuery, listing, page_of
from ccserver.queries import api_keys, audit_log
from ccserver.queries.api_keys import ApiKey, NewKey
from ccserver.queries.audit_log import Act
from ccserver.routes.api import creating
from ccshared import ids
from ccshared.canonical import Json
from ccshared.messages import Message, Name
from ccshared.vocabulary import Role

MAX_DAYS = 366


class KeyRole(StrEnum):
    """What a partner's key may be; an auditor is a person."""

    OWNER = Role.OWNER.value
    TECHNICIAN = Role.TECHNICIAN.value
    VIEWER = Role.VIEWER.value


class KeyRequest(Message):
    """A key to be made, good for `days`."""

    name: Annotated[Name, Field(max_length=200)]
    role: KeyRole
    days: Annotated[int, Field(ge=1, le=MAX_DAYS, strict=True)]


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
    if request.state.principal.user is None:
        raise ForbiddenError("An API key makes no further keys: sign in for that, or use the command line.")
    asked, actor = await read(request, KeyRequest), request.state.principal.actor
    creation = creating.Creation(request, asked, ApiKey, None)
    async with auth.partner_scope(request) as scope:
        value, key_hash = auth.new_key(creating.repeatable(context.of(request).keys, creation, scope.partner_id))

        async def insert() -> tuple[str, ApiKey]:
            expires = datetime.now(UTC) + timedelta(days=asked.days)
            new = NewKey(ids.new_id(), key_hash, asked.name, asked.role, actor, expires)
            made = await api_keys.insert(scope, scope.partner_id, new)
            detail: dict[str, Json] = {"name": asked.name, "role": str(asked.role), "days": asked.days}
            await audit_log.append(scope, Act(actor, "api_key.create", f"key:{new.id}", detail))
            return new.id, made

        made = await creating.once(scope, creation, insert)
    return reply_value(KeyMade, KeyMade(id=made.id, key=value, role=asked.role, expires_at=made.expires_at), 201)


async def revoke(request: Request) -> Response:
    """Revoke an API key at once and for good."""
    async with auth.partner_scope(request) as scope:
        found = await api_keys.revoke(scope, scope.partner_id, path_id(request, "key"))
        await audit_log.append(scope, Act(request.state.principal.actor, "api_key.revoke", f"key:{found.id}", {}))
    return reply_value(ApiKey, found)


ENDPOINTS = [
    Endpoint("GET", "/api/v1/api-keys", list_keys, Caller.OWN, None, {200: Listing[ApiKey]}, ListQuery),
    Endpoint("POST", "/api/v1/api-keys", create, Caller.OWN, KeyRequest, {201: KeyMade}, headers=("Idempotency-Key",)),
    Endpoint("POST", "/api/v1/api-keys/{key}/revoke", revoke, Caller.OWN, None, {200: ApiKey}),
]
