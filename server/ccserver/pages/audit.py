"""The audit log on a page, with whether its hash chain is whole."""

import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import audit_following, auth, context, listing
from ccserver.audit_chain import Head
from ccserver.audit_following import Verification
from ccserver.http import Caller, Endpoint, read_query
from ccserver.listing import EVER, Cursor, ListQuery
from ccserver.pages import render
from ccserver.queries import audit_log
from ccserver.queries.audit_log import Filter
from ccserver.scope import PLATFORM, PartnerScope
from ccshared.messages import Message

_AT_SIGHT = 1000  # entries; a longer chain is recomputed when somebody asks
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=300)]


class AuditQuery(Message):
    """Which entries are listed, each part named whole, and where the page begins."""

    actor: _Text | None = None
    action: _Text | None = None
    target: _Text | None = None
    cursor: Cursor | None = None


class VerificationQuery(Message):
    """Where the recomputation goes on."""

    cursor: Cursor | None = None


async def show(request: Request) -> Response:
    """List the audit log, newest first, with the head of its chain."""
    asked = read_query(request, AuditQuery, of_form=True)
    key = context.of(request).cursor_key
    wanted = Filter(*EVER, asked.actor, asked.action, asked.target)
    async with (await _opener(request))() as scope:
        name = f"audit:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await audit_log.newest(scope, scope.partner_id, wanted, page)
        (head,) = await audit_log.heads(scope, scope.partner_id)
    state = await _verify(request, None, head) if head.size <= _AT_SIGHT else None
    found = listing.listing(rows, page, lambda entry: (entry.at, str(entry.seq)), key, name)
    query = {"actor": asked.actor, "action": asked.action, "target": asked.target}
    values = {"entries": found.items, "next": found.next, "head": head, "state": state, "query": query}
    values["base"] = _base(request)
    return render.page(request, "audit.html", values)


async def verify(request: Request) -> Response:
    """Recompute the chain, a long one in several steps, and say how far it is good."""
    asked = read_query(request, VerificationQuery)
    values = {"found": await _verify(request, asked.cursor), "base": _base(request)}
    return render.page(request, "verification.html", values)


async def _verify(request: Request, cursor: str | None, head: Head | None = None) -> Verification:
    opened = functools.partial(context.of(request).db.partner, head.partner_id) if head else await _opener(request)
    return await audit_following.verify(opened, context.of(request).cursor_key, cursor, head)


def _base(request: Request) -> str:
    return _PLATFORM if request.url.path.startswith(_PLATFORM + "/") else ""


async def _opener(request: Request) -> Callable[[], AbstractAsyncContextManager[PartnerScope]]:
    """Return what opens the scope whose chain is meant: the platform's own, or that of the caller's partner."""
    partner_id = PLATFORM if _base(request) else (await auth.acting(request)).partner_id
    return functools.partial(context.of(request).db.partner, partner_id)


_PLATFORM = "/platform"
ENDPOINTS = [
    Endpoint("GET", "/platform/audit", show, Caller.PLATFORM),
    Endpoint("GET", "/platform/audit/verification", verify, Caller.PLATFORM),
    Endpoint("GET", "/audit", show, Caller.OWN),
    Endpoint("GET", "/audit/verification", verify, Caller.OWN),
]
