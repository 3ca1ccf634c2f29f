"""Runbooks: what may be ordered, the same catalogue for every partner."""

import functools
import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context
from ccserver.errors import NotFoundError
from ccserver.http import Caller, Endpoint, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.queries import runbooks
from ccserver.queries.runbooks import Runbook
from ccserver.routes.api import lists
from ccshared.runbooks import Runbook as Definition
from ccshared.runbooks import digest

_ID = re.compile(r"[0-9a-z_.-]{1,64}")


async def list_runbooks(request: Request) -> Response:
    """List the catalogue of runbooks, the last changed first."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        source = lists.Source(
            name=f"runbooks:{scope.partner_id}",
            kind=Runbook,
            fetch=functools.partial(runbooks.newest, scope),
            count=functools.partial(runbooks.count, scope),
            place=lambda runbook: (runbook.updated_at, runbook.id),
        )
        return await lists.answer(request, asked, source)


@dataclass(frozen=True)
class Shown(Runbook):
    """A runbook with all that it does, as it is signed; None where this process has another release's catalogue."""

    definition: Definition | None


async def show(request: Request) -> Response:
    """Show a runbook, and all that it does."""
    runbook_id = str(request.path_params["runbook"])
    if not _ID.fullmatch(runbook_id):
        raise NotFoundError
    async with auth.partner_scope(request) as scope:
        found = await runbooks.find(scope, runbook_id)
    if found is None:
        raise NotFoundError
    known = context.of(request).catalogue.get(runbook_id)
    same = known is not None and digest(known) == found.digest
    return reply_value(Shown, Shown(**vars(found), definition=known if same else None))


ENDPOINTS = [
    Endpoint("GET", "/api/v1/runbooks", list_runbooks, Caller.READ, None, {200: Listing[Runbook]}, ListQuery),
    Endpoint("GET", "/api/v1/runbooks/{runbook}", show, Caller.READ, None, {200: Shown}),
]
