"""HTTP at the edge: rows of the route table, bodies read within limits, replies, one table from errors to statuses."""

import asyncio
import functools
import logging
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import orjson
import pydantic
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ccserver import errors
from ccshared import ids
from ccshared.messages import Message

_log = logging.getLogger("ccserver.http")
Handler = Callable[[Request], Awaitable[Response]]
AnyMessage = TypeVar("AnyMessage", bound=Message)
JSON_LIMIT = 2 * 1024 * 1024
_BODY_SECONDS = 60
PROBLEM = "urn:central-command:problem:"


class Caller(StrEnum):
    """Who may call a route."""

    ANYONE = "anyone"
    DEVICE = "an enrolled appliance"
    PERSON = "anybody signed in, for their own account"
    AUDIT = "viewer, technician, owner; an auditor for their own sites"
    READ = "viewer, technician, owner"
    OPERATE = "technician, owner"
    OWN = "owner"
    PLATFORM = "platform admin"


@dataclass(frozen=True)
class Endpoint:
    """A row of the route table: what is called, by whom, what it takes and what it answers.

    `takes` and `query` are messages; `answers` gives each status its type: a message, a dataclass, `bytes`, or None for
    no body. `headers` names what the handler reads of If-Match and Idempotency-Key.
    The OpenAPI document is made from these, with the handler's docstring.
    """

    method: str
    path: str
    handler: Handler
    caller: Caller
    takes: type[Message] | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    query: type[Message] | None = None
    headers: tuple[str, ...] = ()


# The only place that knows which status an error has. The code is the stable end of the problem's type.
_PROBLEMS: dict[type[errors.CentralCommandError], tuple[int, str]] = {
    errors.BadBodyError: (422, "body-invalid"),
    errors.BadQueryError: (422, "query-invalid"),
    errors.BadCursorError: (422, "cursor-invalid"),
    errors.SecondFactorNeededError: (403, "second-factor-needed"),
    errors.PreconditionNeededError: (428, "precondition-needed"),
    errors.ChangedMeanwhileError: (412, "changed-meanwhile"),
    errors.IdempotencyConflictError: (409, "idempotency-conflict"),
    errors.TooManyRequestsError: (429, "too-many-requests"),
    errors.QuotaError: (429, "quota-used-up"),
    errors.TooLargeError: (413, "too-large"),
    errors.TooSlowError: (408, "too-slow"),
    errors.UnsupportedBodyError: (415, "unsupported-body"),
    errors.NotSignedInError: (401, "not-signed-in"),
    errors.ForbiddenError: (403, "forbidden"),
    errors.ForeignOriginError: (403, "foreign-origin"),
    errors.TokenInvalidError: (401, "token-invalid"),
    errors.DeviceUnknownError: (401, "device-unknown"),
    errors.NonceExpiredError: (401, "nonce-expired"),
    errors.SignatureInvalidError: (401, "signature-invalid"),
    errors.CodeUnknownError: (403, "code-unknown"),
    errors.CodeUsedError: (403, "code-used"),
    errors.CodeExpiredError: (403, "code-expired"),
    errors.ProofInvalidError: (403, "proof-invalid"),
    errors.NotFoundError: (404, "not-found"),
    errors.LinkSpentError: (404, "link-spent"),
    errors.LogUnknownError: (404, "log-unknown"),
    errors.AlreadyExistsError: (409, "already-exists"),
    errors.LogGapError: (409, "log-gap"),
    errors.LogForkError: (409, "log-fork"),
    errors.RootMismatchError: (409, "root-mismatch"),
    errors.HeldConflictError: (409, "held-conflict"),
    errors.HeldNeededError: (409, "held-needed"),
    errors.CheckpointInvalidError: (422, "checkpoint-invalid"),
    errors.EntryInvalidError: (422, "entry-invalid"),
    errors.DatabaseUnavailableError: (503, "database-unavailable"),
}


def reply(message: Message, status: int = 200) -> Response:
    """Return a message as JSON."""
    return Response(
        message.model_dump_json(), status, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def reply_value(kind: Any, value: Any, status: int = 200, *, revision: int | None = None) -> Response:
    """Return a value of a declared type (message, dataclass, list of these) as JSON, with its ETag if it has one."""
    headers = {"Cache-Control": "no-store"} | ({"ETag": f'"{revision}"'} if revision is not None else {})
    return Response(_adapter(kind).dump_json(value), status, media_type="application/json", headers=headers)


@functools.cache
def _adapter(kind: Any) -> "pydantic.TypeAdapter[Any]":
    return pydantic.TypeAdapter(kind)


def if_match(request: Request) -> int:
    """Return the revision that the caller read; PreconditionNeededError without one."""
    given = request.headers.get("if-match")
    if given is None:
        raise errors.PreconditionNeededError
    match = re.fullmatch(r'"([0-9]{1,15})"', given.strip())
    if match is None:
        raise errors.ChangedMeanwhileError
    return int(match[1])


def read_query(request: Request, kind: type[AnyMessage]) -> AnyMessage:
    """Return the query string as a message; BadQueryError names what is wrong, doubled or unknown."""
    pairs = request.query_params.multi_items()
    values = dict(pairs)
    if len(values) != len(pairs):
        raise errors.BadQueryError("A part of the query string is there twice.")
    unknown = values.keys() - kind.model_fields.keys() - {"partner"}
    if unknown:
        raise errors.BadQueryError(f"{', '.join(sorted(unknown))[:200]}: this call takes no such part.")
    try:
        return kind.model_validate_strings({name: value for name, value in values.items() if name != "partner"})
    except pydantic.ValidationError as error:
        raise errors.BadQueryError(_first(error)) from error


def path_id(request: Request, name: str) -> str:
    """Return an id from the path; NotFoundError when it cannot be one."""
    value = str(request.path_params[name])
    if not ids.is_id(value):
        raise errors.NotFoundError
    return value


def reply_json(value: Any, status: int = 200) -> Response:
    """Return plain values as JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json", headers={"Cache-Control": "no-store"})


def problem(request: Request, error: errors.CentralCommandError) -> Response:
    """Return an error as a problem document (RFC 9457)."""
    status, code = next((_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS), (500, "internal"))
    if status >= 500:
        _log.error("request_id=%s %s: %s", request_id(request), code, error, exc_info=error)
    body = {
        "type": PROBLEM + code,
        "title": code.replace("-", " "),
        "status": status,
        "detail": str(error),
        "request_id": request_id(request),
        **error.members,
    }
    headers = {"Retry-After": str(error.members.get("retry_after_s", 30))} if status in (429, 503) else {}
    return Response(orjson.dumps(body), status, media_type="application/problem+json", headers=headers)


def request_id(request: Request) -> str:
    """Return the id by which the log and the caller name this request."""
    return str(request.scope.get("cc.request_id", "-"))


async def read(request: Request, kind: type[AnyMessage]) -> AnyMessage:
    """Return the body as a message; BadBodyError says which member is wrong, and never repeats its value."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise errors.UnsupportedBodyError("The body must be application/json.")
    body = await read_body(request, JSON_LIMIT)
    try:
        return kind.model_validate_json(body)
    except pydantic.ValidationError as error:
        raise errors.BadBodyError(_first(error)) from error


def _first(error: pydantic.ValidationError) -> str:
    """Return what is wrong first, and where; never the value itself."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'it'}: {first['msg']}"[:1000]


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, unpacked when it is gzip, of at most `limit` bytes either way."""
    return unpacked(request, await read_packed(request, limit), limit)


def unpacked(request: Request, packed: bytes, limit: int) -> bytes:
    """Return what a packed body holds, by the encoding that its request names."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return packed
    if encoding != "gzip":
        raise errors.UnsupportedBodyError("The body's encoding must be gzip or identity.")
    return unpack(packed, limit)


def unpack(packed: bytes, limit: int) -> bytes:
    """Return what one gzip member holds; TooLargeError before more than `limit` bytes are unpacked."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise errors.BadBodyError("The body is not gzip.") from error
    if len(body) > limit:
        raise errors.TooLargeError(f"The unpacked body is larger than {limit} bytes.")
    if not unpacker.eof or unpacker.unused_data:
        raise errors.BadBodyError("The gzip body is cut off, or something follows it.")
    return body


async def read_packed(request: Request, limit: int) -> bytes:
    """Return the body as it came, of at most `limit` bytes and within a minute."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise errors.TooLargeError(f"The body is larger than {limit} bytes.")
                parts.append(part)
    except TimeoutError as error:
        raise errors.TooSlowError from error
    return b"".join(parts)


class RequestLog:
    """Middleware: gives each request its id, and writes one line when it is done. No body, query or credential."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["cc.request_id"] = secrets.token_hex(8)
        began, status = time.perf_counter(), 500

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", scope["cc.request_id"].encode())]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            took_ms = (time.perf_counter() - began) * 1000
            _log.info(
                "request_id=%s %s %r %d %.1fms", scope["cc.request_id"], scope["method"], _path(scope), status, took_ms
            )


def _path(scope: Scope) -> str:
    """Return the path for the log; the token of a one-time link is a credential, and is left out."""
    token = scope.get("path_params", {}).get("token")
    return scope["path"].replace(token, "…") if token else str(scope["path"])
