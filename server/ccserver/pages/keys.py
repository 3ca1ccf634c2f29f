"""API keys on a page: listed, made and shown this once, revoked."""

from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, issuing, listing, revoking
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.issuing import KeyRole, WantedKey
from ccserver.listing import Cursor, ListQuery
from ccserver.pages import forms, render
from ccserver.queries import api_keys
from ccshared.messages import Message, Name

_DAYS = 90


class KeysQuery(Message):
    """Where the page of the list begins."""

    cursor: Cursor | None = None


class NewKey(Message):
    """A key to be made."""

    name: Annotated[Name, Field(max_length=200)]
    role: KeyRole
    days: Annotated[int, Field(ge=1, le=issuing.MAX_KEY_DAYS)]


async def show(request: Request) -> Response:
    """List the partner's API keys, and show the form that makes one."""
    asked = read_query(request, KeysQuery)
    key = context.of(request).cursor_key
    async with auth.partner_scope(request) as scope:
        name = f"api_keys:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await api_keys.newest(scope, scope.partner_id, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {"keys": found.items, "next": found.next, "roles": list(KeyRole), "days": _DAYS}
    return render.page(request, "keys.html", values | {"max_days": issuing.MAX_KEY_DAYS})


async def create(request: Request) -> Response:
    """Make a key and show it this once. Only a person does."""
    issuing.check_is_person(request.state.principal)
    asked = forms.message_of(await forms.read_form(request), NewKey)
    value, key_hash = auth.new_key()
    async with auth.partner_scope(request) as scope:
        wanted = WantedKey(asked.name, asked.role, asked.days)
        made = await issuing.keep_key(scope, request.state.principal.actor, wanted, key_hash)
    return render.page(request, "key_made.html", {"key": value, "made": made})


async def revoke(request: Request) -> Response:
    """Revoke a key at once and for good."""
    async with auth.partner_scope(request) as scope:
        await revoking.revoke_key(scope, request.state.principal.actor, path_id(request, "key"))
    return render.redirect(render.addresses(request)("/keys"))


ENDPOINTS = [
    Endpoint("GET", "/keys", show, Caller.OWN),
    Endpoint("POST", "/keys", create, Caller.OWN),
    Endpoint("POST", "/keys/{key}/revoke", revoke, Caller.OWN),
]
