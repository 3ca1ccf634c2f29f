"""Enrolment codes: create, list without their secrets, revoke."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, enrolment
from ccserver.errors import CodeUsedError, NotFoundError
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery
from ccserver.queries import enrollment_codes
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import SiteScope
from ccshared import purposes
from ccshared.messages import Message

MAX_HOURS = 30 * 24


class NewCode(Message):
    """A code to be made, and for how many hours it is good."""

    hours: Annotated[int, Field(ge=1, le=MAX_HOURS, strict=True)] = enrolment.CODE_HOURS


@dataclass(frozen=True)
class CodeMade:
    """A new code; `code` is what the appliance is given, and is said here only."""

    code: str
    detail: CodeDetail


async def create(request: Request) -> Response:
    """Make a one-time code by which one device becomes an appliance of the site."""
    asked = await read(request, NewCode)
    creation = creating.Creation(request, asked, CodeDetail, "code.create")
    async with auth.site_scope(request) as scope:
        code = _code(request, creation, scope)
        detail = await creating.once(scope, creation, lambda: _insert(request, scope, code, asked.hours))
    return reply_value(CodeMade, CodeMade(str(code), detail), 201)


def _code(request: Request, creation: creating.Creation, scope: SiteScope) -> purposes.EnrolmentCode:
    """The same Idempotency-Key says the same code again, though no secret is stored."""
    keys = context.of(request).keys
    if creation.key is None:
        return enrolment.code_of(keys, purposes.new_secret())
    place = "\n".join(creation.hashes(scope.partner_id))
    return enrolment.code_of(keys, enrolment.repeatable_secret(keys, place))


async def _insert(
    request: Request, scope: SiteScope, code: purposes.EnrolmentCode, hours: int
) -> tuple[str, CodeDetail]:
    until, actor = datetime.now(UTC) + timedelta(hours=hours), request.state.principal.actor
    await enrollment_codes.insert(scope, code.secret_hash, until, actor)
    made = await enrollment_codes.find(scope, code.secret_hash[:32])
    assert made is not None  # noqa: S101  inserted just above
    return made.id, made


async def list_codes(request: Request) -> Response:
    """List a site's codes, newest first, without their secrets."""
    asked = read_query(request, ListQuery)
    async with auth.site_scope(request) as scope:
        source = lists.Source(
            name=f"codes:{scope.partner_id}:{scope.site_id}",
            kind=CodeDetail,
            fetch=lambda page: enrollment_codes.newest(scope, page),
            count=lambda: enrollment_codes.count(scope),
            place=lambda code: (code.created_at, code.id),
        )
        return await lists.answer(request, asked, source)


async def revoke(request: Request) -> Response:
    """Make a code useless; again changes nothing. A used code has made an appliance: revoke that one."""
    code_id = path_id(request, "code")
    async with auth.site_scope(request) as scope:
        changed = await enrollment_codes.revoke(scope, code_id)
        code = await enrollment_codes.find(scope, code_id)
        if code is None:
            raise NotFoundError
        if code.used_at is not None:
            raise CodeUsedError("This code was used: revoke the appliance that it made.")
        if changed:
            await creating.note(scope, request, "code.revoke", code_id, site=scope.site_id)
    return reply_value(CodeDetail, code)


_ALL = "/api/v1/sites/{site}/codes"
ENDPOINTS = [
    Endpoint("GET", _ALL, list_codes, Caller.OPERATE, None, {200: Listing[CodeDetail]}, ListQuery),
    Endpoint("POST", _ALL, create, Caller.OPERATE, NewCode, {201: CodeMade}, headers=("Idempotency-Key",)),
    Endpoint("POST", _ALL + "/{code}/revoke", revoke, Caller.OPERATE, None, {200: CodeDetail}),
]
