"""Enrolment codes: create, list without their secrets, revoke."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, code_batches, context, enrolment, issuing, revoking
from ccserver.code_batches import CodeOfBatch, Wanted
from ccserver.http import Caller, Endpoint, path_id, read, read_query, reply_value
from ccserver.issuing import WantedCode
from ccserver.listing import Listing, ListQuery
from ccserver.queries import enrollment_codes
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import SiteScope
from ccshared import purposes
from ccshared.messages import Id, Message, Name

Hours = Annotated[int, Field(ge=1, le=issuing.MAX_CODE_HOURS, strict=True)]


# JSON Schema for what _one_of_a_name refuses.
_NAMED_ONCE: JsonDict = {
    "if": {"required": ["name"], "properties": {"name": {"type": "string"}}},
    "then": {"properties": {"count": {"const": 1}}},
}


class NewCode(Message):
    """A code to be made, for how many hours it is good, and the appliance that it replaces, if one."""

    hours: Hours = enrolment.CODE_HOURS
    appliance: Id | None = None


class CodeRow(Message):
    """Codes for one site: `count` of them, or one whose appliance will be called `name`."""

    model_config = ConfigDict(json_schema_extra=_NAMED_ONCE)

    site: Id
    count: Annotated[int, Field(ge=1, le=code_batches.MAX_ROWS, strict=True)] = 1
    name: Annotated[Name, StringConstraints(max_length=200)] | None = None
    hours: Hours = enrolment.CODE_HOURS

    @model_validator(mode="after")
    def _one_of_a_name(self) -> Self:
        if self.name is not None and self.count != 1:
            raise ValueError("a name is one appliance's: leave count out")
        return self


class NewCodes(Message):
    """Codes to be made at once, all or none."""

    rows: Annotated[list[CodeRow], Field(min_length=1, max_length=code_batches.MAX_ROWS)]


@dataclass(frozen=True)
class CodeMade:
    """A new code; `code` is what the appliance is given, and is said here only."""

    code: str
    detail: CodeDetail


async def create(request: Request) -> Response:
    """Make a one-time code by which one device becomes an appliance of the site."""
    asked = await read(request, NewCode)
    creation = creating.Creation(request, asked, CodeDetail, None)
    async with auth.site_scope(request) as scope:
        code = _code(request, creation, scope)

        async def insert() -> tuple[str, CodeDetail]:
            wanted = WantedCode(asked.hours, asked.appliance)
            made = await issuing.keep_code(scope, request.state.principal.actor, wanted, code)
            return made.id, made

        detail = await creating.once(scope, creation, insert)
    return reply_value(CodeMade, CodeMade(str(code), detail), 201)


def _code(request: Request, creation: creating.Creation, scope: SiteScope) -> purposes.EnrolmentCode:
    """The same Idempotency-Key says the same code again, though no secret is stored."""
    keys = context.of(request).keys
    if creation.key is None:
        return enrolment.code_of(keys, purposes.new_secret())
    place = "\n".join(creation.hashes(scope.partner_id))
    return enrolment.code_of(keys, enrolment.repeatable_secret(keys, place))


async def create_many(request: Request) -> Response:
    """Make codes for many sites of the partner at once: all, or none when a row is wrong, which is named."""
    asked = await read(request, NewCodes)
    ctx, actor = context.of(request), request.state.principal.actor
    creation = creating.Creation(request, asked, _Expiries, None)
    async with auth.partner_scope(request) as scope:
        place = None if creation.key is None else "\n".join(creation.hashes(scope.partner_id))
        made: list[CodeOfBatch] = []

        async def insert() -> tuple[str, list[datetime]]:
            made.extend(await code_batches.make(scope, ctx.keys, _wanted(asked), actor, place))
            return "", [each.expires_at for each in made]

        until = await creating.once(scope, creation, insert)
    return reply_value(list[CodeOfBatch], made or code_batches.again(ctx.keys, _wanted(asked), until, place or ""), 201)


def _wanted(asked: NewCodes) -> list[Wanted]:
    return [
        Wanted(f"rows.{place}", row.site, row.name, row.hours)
        for place, row in enumerate(asked.rows)
        for _ in range(row.count)
    ]


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
        code = await revoking.revoke_code(scope, request.state.principal.actor, code_id)
    return reply_value(CodeDetail, code)


_Expiries = list[datetime]  # all that is kept of a batch: its secrets are made again
_ALL = "/api/v1/sites/{site}/codes"
ENDPOINTS = [
    Endpoint(
        "POST",
        "/api/v1/codes",
        create_many,
        Caller.OPERATE,
        NewCodes,
        {201: list[CodeOfBatch]},
        headers=("Idempotency-Key",),
    ),
    Endpoint("GET", _ALL, list_codes, Caller.OPERATE, None, {200: Listing[CodeDetail]}, ListQuery),
    Endpoint("POST", _ALL, create, Caller.OPERATE, NewCode, {201: CodeMade}, headers=("Idempotency-Key",)),
    Endpoint("POST", _ALL + "/{code}/revoke", revoke, Caller.OPERATE, None, {200: CodeDetail}),
]
