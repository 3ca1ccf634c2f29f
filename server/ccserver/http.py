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
from starlette.requests import ClientDisconnect, Request
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
_REQUEST_ID = re.compile(rb"[0-9a-f]{16,32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ONCE = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"if-match",
        b"if-none-match",
        b"idempotency-key",
        b"origin",
        b"sec-fetch-site",
    }
)
_OF_JSON = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
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
    errors.HeaderTwiceError: (400, "header-twice"),
    errors.BadBodyError: (422, "body-invalid"),
    errors.BadQueryError: (422, "query-invalid"),
    errors.BadCursorError: (422, "cursor-invalid"),
    errors.SettingUnknownError: (422, "setting-unknown"),
    errors.AddressRefusedError: (422, "address-refused"),
    errors.MailNotSetUpError: (409, "mail-not-set-up"),
    errors.MethodNotAllowedError: (405, "method-not-allowed"),
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
    errors.SecondPersonNeededError: (403, "second-person-needed"),
    errors.PersonNeededError: (403, "person-needed"),
    errors.ForeignOriginError: (403, "foreign-origin"),
    errors.PlainHttpError: (403, "plain-http"),
    errors.TokenInvalidError: (401, "token-invalid"),
    errors.DeviceUnknownError: (401, "device-unknown"),
    errors.NonceExpiredError: (401, "nonce-expired"),
    errors.SignatureInvalidError: (401, "signature-invalid"),
    errors.CodeUnknownError: (403, "code-unknown"),
    errors.CodeUsedError: (403, "code-used"),
    errors.CodeExpiredError: (403, "code-expired"),
    errors.ProofInvalidError: (403, "proof-invalid"),
    errors.NotFoundError: (404, "not-found"),
    errors.RunbookUnknownError: (404, "runbook-unknown"),
    errors.LinkSpentError: (404, "link-spent"),
    errors.LogUnknownError: (404, "log-unknown"),
    errors.AlreadyExistsError: (409, "already-exists"),
    errors.SiteClosedError: (409, "site-closed"),
    errors.NotPendingError: (409, "not-pending"),
    errors.OrderTakenError: (409, "order-taken"),
    errors.PeopleOnlyError: (409, "people-only"),
    errors.HealingStoppedError: (409, "healing-stopped"),
    errors.RuleStateError: (409, "rule-state"),
    errors.LastOwnerError: (409, "last-owner"),
    errors.LogGapError: (409, "log-gap"),
    errors.LogForkError: (409, "log-fork"),
    errors.RootMismatchError: (409, "root-mismatch"),
    errors.HeldConflictError: (409, "held-conflict"),
    errors.HeldNeededError: (409, "held-needed"),
    errors.CheckpointInvalidError: (422, "checkpoint-invalid"),
    errors.EntryInvalidError: (422, "entry-invalid"),
    errors.DatabaseUnavailableError: (503, "database-unavailable"),
}


class JsonReply(Response):
    """JSON that is written already; what every reply says of itself is not made anew for each."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [*_OF_JSON, (b"content-length", b"%d" % len(body))]


def reply(message: Message, status: int = 200) -> Response:
    """Return a message as JSON."""
    return JsonReply(message.model_dump_json().encode(), status)


def reply_value(kind: Any, value: Any, status: int = 200, *, revision: int | None = None) -> Response:
    """Return a value of a declared type (message, dataclass, list of these) as JSON, with its ETag if it has one."""
    answer = JsonReply(_adapter(kind).dump_json(value), status)
    if revision is not None:
        answer.headers["ETag"] = f'"{revision}"'
    return answer


@functools.cache
def _adapter(kind: Any) -> "pydantic.TypeAdapter[Any]":
    return pydantic.TypeAdapter(kind)


def check_headers(request: Request) -> None:
    """Refuse a request that says twice what it may say once: a proxy in front might have read the other one."""
    once = [name for name, _ in request.scope["headers"] if name in _ONCE]
    if len(once) != len(set(once)):
        raise errors.HeaderTwiceError


def if_match(request: Request) -> int:
    """Return the revision that the caller read; PreconditionNeededError, or BadQueryError for no ETag of ours."""
    given = request.headers.get("if-match")
    if given is None:
        raise errors.PreconditionNeededError
    match = re.fullmatch(r'"([0-9]{1,15})"', given.strip())
    if match is None:
        raise errors.BadQueryError('If-Match: the ETag that was read, as in "3".')
    return int(match[1])


def read_query(request: Request, kind: type[AnyMessage], *, of_form: bool = False) -> AnyMessage:
    """Return the query string as a message; BadQueryError names what is wrong, doubled or unknown.

    `of_form`: a field that is left empty is not there, as browsers send each field of a form.
    """
    pairs = [pair for pair in request.query_params.multi_items() if pair[1] or not of_form]
    values = dict(pairs)
    if len(values) != len(pairs):
        raise errors.BadQueryError("A part of the query string is there twice.")
    unknown = values.keys() - kind.model_fields.keys() - {"partner"}
    if unknown:
        raise errors.BadQueryError(f"{', '.join(sorted(unknown))[:200]}: this call takes no such part.")
    try:
        return kind.model_validate_strings({name: value for name, value in values.items() if name != "partner"})
    except pydantic.ValidationError as error:
        raise errors.BadQueryError(first_fault(error)) from error


def path_id(request: Request, name: str) -> str:
    """Return an id from the path; NotFoundError when it cannot be one."""
    value = str(request.path_params[name])
    if not ids.is_id(value):
        raise errors.NotFoundError
    return value


def reply_json(value: Any, status: int = 200) -> Response:
    """Return plain values as JSON."""
    return JsonReply(orjson.dumps(value), status)


def status_of(error: errors.CentralCommandError) -> tuple[int, str]:
    """Return an error's status and the stable end of its problem's type."""
    return next((_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS), (500, "internal"))


def wants_page(request: Request) -> bool:
    """Return whether a browser asks for a page: the API and the agents' routes have none."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and not request.url.path.startswith(("/agent/", "/api/"))


def retry_after(error: errors.CentralCommandError) -> dict[str, str]:
    """Return the header that says when to try again, where that helps."""
    helps = status_of(error)[0] in (429, 503)
    return {"Retry-After": str(error.members.get("retry_after_s", 30))} if helps else {}


def note(request: Request, error: errors.CentralCommandError) -> None:
    """Log an error that is the server's own."""
    status, code = status_of(error)
    if status >= 500:
        said = {"request_id": request_id(request), "problem": code}
        _log.error("a request could not be answered", extra={"fields": said}, exc_info=error)


def problem(request: Request, error: errors.CentralCommandError) -> Response:
    """Return an error as a problem document (RFC 9457)."""
    status, code = status_of(error)
    body = {
        "type": PROBLEM + code,
        "title": code.replace("-", " "),
        "status": status,
        "detail": str(error),
        "request_id": request_id(request),
        **error.members,
    }
    return Response(orjson.dumps(body), status, media_type="application/problem+json", headers=retry_after(error))


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
        raise errors.BadBodyError(first_fault(error)) from error


def first_fault(error: pydantic.ValidationError) -> str:
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
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise errors.TooLargeError(f"The body is larger than {limit} bytes.")
                if not message.get("more_body", False):
                    break
    except TimeoutError as error:
        raise errors.TooSlowError from error
    return b"".join(parts)


class RequestLog:
    """Middleware: gives each request its id, answers what nobody foresaw, and writes one line when it is done.

    The line has the route's template and what kind of caller it was: no path, query, body, name, address or credential.
    `on_done` is told the status and the seconds to the answer's end.
    """

    def __init__(
        self, app: ASGIApp, on_bug: Callable[[Request], Response], on_done: Callable[[Scope, int, float], None]
    ) -> None:
        self.app = app
        self._on_bug = on_bug
        self._on_done = on_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = scope["cc.request_id"] = _given_id(scope) or secrets.token_hex(8)
        began, status = time.perf_counter(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", given.encode())]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            _log.exception("a request met what was not foreseen", extra={"fields": _line(scope)})
            if status:  # too late for another answer: the server cuts this one off
                raise
            await self._on_bug(Request(scope))(scope, receive, sending)
        finally:
            took = time.perf_counter() - began
            self._on_done(scope, status or 500, took)
            _log.info("request", extra={"fields": _line(scope, status=status, duration_ms=round(took * 1000, 1))})


def _given_id(scope: Scope) -> str | None:
    """Return the id that a proxy in front gave, if it is of hex digits: no name and no secret looks like that."""
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(given) != 1 or not _REQUEST_ID.fullmatch(given[0]):
        return None
    return str(given[0].decode("ascii"))


def _line(scope: Scope, **more: float) -> dict[str, str | float]:
    route = scope.get("cc.route") or ("/static" if scope["path"].startswith("/static/") else "none")
    return {
        "request_id": scope["cc.request_id"],
        "method": scope["method"],
        "route": route,
        "caller": scope.get("cc.caller", "anyone"),
        **more,
    }
