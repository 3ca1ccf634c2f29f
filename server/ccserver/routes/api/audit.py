"""The audit log: list with filters, show, and whether its hash chain is whole."""

import functools
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import audit_following, auth, context
from ccserver.audit_following import Verification
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, read_query, reply_value
from ccserver.listing import EVER, Cursor, Listing, ListQuery, Moment
from ccserver.queries import audit_log
from ccserver.queries.audit_log import AuditEntry, Filter
from ccserver.routes.api import lists
from ccserver.scope import PLATFORM, PartnerScope
from ccshared.messages import Message

_NUMBER = re.compile(r"[0-9]{1,18}")
AuditText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=300)]


class AuditQuery(ListQuery):
    """Which entries: from `since` up to `until`, by one actor, of one action, about one target, each named whole."""

    since: Moment | None = None
    until: Moment | None = None
    actor: AuditText | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z_.]{1,64}$")] | None = None
    target: AuditText | None = None


class VerificationQuery(Message):
    """Where to go on: `next` of the call before."""

    cursor: Cursor | None = None


async def list_entries(request: Request) -> Response:
    """List the audit log, newest first."""
    asked = read_query(request, AuditQuery)
    wanted = Filter(asked.since or EVER[0], asked.until or EVER[1], asked.actor, asked.action, asked.target)
    async with (await _opener(request))() as scope:
        source = lists.Source(
            name=f"audit:{scope.partner_id}",
            kind=AuditEntry,
            fetch=functools.partial(audit_log.newest, scope, scope.partner_id, wanted),
            count=functools.partial(audit_log.count, scope, scope.partner_id, wanted),
            place=lambda entry: (entry.at, str(entry.seq)),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show an entry of the audit log."""
    text = str(request.path_params["seq"])
    if not _NUMBER.fullmatch(text):
        raise NotFoundError
    async with (await _opener(request))() as scope:
        found = await audit_log.find(scope, scope.partner_id, int(text))
    if found is None:
        raise NotFoundError
    return reply_value(AuditEntry, found)


async def verify(request: Request) -> Response:
    """Recompute the hash chain and compare it with its head; a long one in several calls, by the cursor in `next`."""
    asked, opened = read_query(request, VerificationQuery), await _opener(request)
    value = await audit_following.verify(opened, context.of(request).cursor_key, asked.cursor)
    return reply_value(Verification, value)


async def _opener(request: Request) -> Callable[[], AbstractAsyncContextManager[PartnerScope]]:
    """Return what opens the scope whose chain is meant: the platform's own, or that of the caller's partner."""
    own = request.url.path.startswith(_PLATFORM)
    partner_id = PLATFORM if own else (await auth.acting(request)).partner_id
    return functools.partial(context.of(request).db.partner, partner_id)


_PLATFORM = "/api/v1/platform/audit"


def _endpoints(path: str, caller: Caller) -> list[Endpoint]:
    return [
        Endpoint("GET", path, list_entries, caller, None, {200: Listing[AuditEntry]}, AuditQuery),
        Endpoint("GET", path + "/verification", verify, caller, None, {200: Verification}, VerificationQuery),
        Endpoint("GET", path + "/entries/{seq}", show, caller, None, {200: AuditEntry}),
    ]


ENDPOINTS = [*_endpoints("/api/v1/audit", Caller.OWN), *_endpoints(_PLATFORM, Caller.PLATFORM)]
