"""The audit log: list with filters, show, and whether its hash chain is whole."""

import functools
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import audit_following, auth, context, listing
from ccserver.audit_chain import Progress
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, read_query, reply_value
from ccserver.listing import EVER, Cursor, Listing, ListQuery, Moment
from ccserver.queries import audit_log
from ccserver.queries.audit_log import AuditEntry, Filter
from ccserver.routes.api import lists
from ccserver.scope import PLATFORM, PartnerScope
from ccshared.messages import Message

AT_ONCE = 20_000  # entries followed in one call: under a second or two
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


@dataclass(frozen=True)
class Verification:
    """How far a chain is good. `good` is None while `next`, the cursor to go on with, says that more is to follow.

    `size` counts the entries of the chain and `verified` those that are good; `head` is its newest hash as 64 hex.
    """

    good: bool | None
    size: int
    verified: int
    head: str
    first_bad_seq: int | None
    reason: str | None
    next: str | None


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
    async with opened() as scope:
        partner_id = scope.partner_id
        (head,) = await audit_log.heads(scope, partner_id)
    key, name = context.of(request).cursor_key, f"audit verification:{partner_id}"
    begun = _progress(listing.page_of(ListQuery(cursor=asked.cursor), key, name).before_id)
    done = await audit_following.follow(opened, head, begun, AT_ONCE)
    more = done.is_good and done.size < head.size
    following = listing.seal(datetime.now(UTC), f"{done.size}.{done.hash.hex()}", key, name) if more else None
    value = Verification(
        good=None if more else done.is_good,
        size=head.size,
        verified=done.size,
        head=head.hash.hex(),
        first_bad_seq=done.first_bad_seq,
        reason=done.reason,
        next=following,
    )
    return reply_value(Verification, value)


def _progress(place: str) -> Progress:
    """Return what a cursor of ours says was followed; without one, the beginning."""
    size, _, hashed = place.partition(".")
    return Progress(int(size), bytes.fromhex(hashed)) if hashed else Progress()


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
