"""The OpenAPI 3.1 document, made from the route table, as the routes are: neither can lie about the other."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth
from ccserver.http import Caller, Endpoint, reply_json
from ccshared import settings
from ccshared.messages import Message, Problem

_REF = "#/components/schemas/{model}"
_PREFIXES = ("/api/", "/agent/", "/healthz", "/readyz")
_PAGE = "/api/reference"  # for people
_PATH_PART = re.compile(r"\{([a-z_]+)\}")
# What a part of a path is: an id, unless it is here. Whatever else stands in its place is 404.
_NUMBER = {"type": "string", "pattern": "^[0-9]{1,18}$"}
_PATH_PARTS: dict[str, dict[str, Any]] = {
    "epoch": {"type": "string", "pattern": "^(?:0|[1-9][0-9]{0,9})-[0-9a-f]{8}$"},
    "log": _NUMBER,
    "seq": _NUMBER,
    "version": _NUMBER,
    "name": {"type": "string", "enum": sorted(settings.CATALOGUE)},
}
_ID = {"type": "string", "pattern": "^[0-9a-z-]{1,64}$"}
_SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key: cck_ and 43 characters."},
    "device": {"type": "http", "scheme": "bearer", "description": "An appliance's access token, good for 15 minutes."},
}
_HEADERS = {
    "If-Match": {"required": True, "schema": {"type": "string", "pattern": '^"[0-9]{1,15}"$'}},
    "If-None-Match": {"required": False, "schema": {"type": "string"}},
    "Idempotency-Key": {"required": False, "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"}},
}
_STATUSES = {
    200: "Done.",
    201: "Made.",
    202: "Stored, not yet receipted.",
    204: "Done; there is nothing to say.",
    304: "It is what you have.",
    400: "A header is there twice.",
    401: "No good credential.",
    403: "Not allowed.",
    404: "There is no such thing here.",
    405: "This address does not take this method.",
    408: "The body took too long to arrive.",
    409: "It does not go with what is there.",
    412: "It changed since it was read.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "The request has another shape.",
    428: "If-Match is missing.",
    429: "Too many requests.",
    503: "The database does not answer.",
}


class Document(Message):
    """An OpenAPI document; its own specification says what is in it."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


def endpoint(endpoints: Sequence[Endpoint]) -> Endpoint:
    """Return the route that answers the document of these endpoints and itself."""

    async def show_openapi(request: Request) -> Response:
        """Return this API's OpenAPI 3.1 document."""
        return reply_json(made(auth.cookie_name(request)))

    @functools.cache
    def made(cookie: str) -> dict[str, Any]:
        return document(endpoints, cookie)

    return Endpoint("GET", "/api/openapi.json", show_openapi, Caller.ANYONE, None, {200: Document})


def document(endpoints: Sequence[Endpoint], cookie: str = auth.SECURE_COOKIE) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the routes that programs call; pages for people are not in it.

    `cookie` is the name of the cookie that a session comes in.
    """
    schemes = _SECURITY_SCHEMES | {"session": {"type": "apiKey", "in": "cookie", "name": cookie}}
    rows = [row for row in endpoints if row.path.startswith(_PREFIXES) and row.path != _PAGE]
    schemas, definitions = _schemas(rows)
    uses = Counter(row.handler for row in rows)
    shared = {handler for handler, times in uses.items() if times > 1}
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, schemas, definitions) | {
            "operationId": _operation_id(row, shared)
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Central Command", "version": "1"},
        "paths": paths,
        "components": {"schemas": definitions, "securitySchemes": schemes},
    }


def _schemas(rows: Sequence[Endpoint]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the schema of each type by (type, mode), and the definitions that they refer to."""
    taken = {kind for row in rows for kind in (row.takes, row.query) if kind}
    answered = {kind for row in rows for kind in row.answers.values() if kind not in (None, bytes)} | {Problem}
    inputs = [
        *((kind, "validation", TypeAdapter(kind)) for kind in sorted(taken, key=repr)),
        *((kind, "serialization", TypeAdapter(kind)) for kind in sorted(answered, key=repr)),
    ]
    schemas, found = TypeAdapter.json_schemas(inputs, ref_template=_REF)  # type: ignore[arg-type]  # keys: any hashable
    return dict(schemas), found.get("$defs", {})


def _operation(row: Endpoint, schemas: dict[Any, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    summary = " ".join((row.handler.__doc__ or "").split("\n\n")[0].split())
    operation: dict[str, Any] = {
        "summary": summary,
        "description": f"Who may call it: {row.caller}.",
        "parameters": _parameters(row, schemas, definitions),
        "responses": _responses(row, schemas),
        "security": _security(row.caller),
    }
    if row.takes:
        content = {"application/json": {"schema": schemas[row.takes, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _operation_id(row: Endpoint, shared: set[Any]) -> str:
    """Name an operation by its handler, and by its level too where one handler stands at several."""
    module = row.handler.__module__.rpartition(".")[2]
    level = next((word for word in ("platform", "appliances", "sites") if f"/{word}/" in row.path), "partner")
    return f"{module}.{row.handler.__name__}" + (f".{level.removesuffix('s')}" if row.handler in shared else "")


def _parameters(row: Endpoint, schemas: dict[Any, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    text = {"type": "string"}
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARTS.get(name, _ID)}
        for name in _PATH_PART.findall(row.path)
    ]
    if row.query:
        shape = definitions[schemas[row.query, "validation"]["$ref"].rpartition("/")[2]]
        required = shape.get("required", [])
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": _without_null(schema)}
            for name, schema in shape["properties"].items()
        ]
    if row.path.startswith("/api/v1/") and row.caller not in (Caller.ANYONE, Caller.PERSON, Caller.PLATFORM):
        said = "Whose rows are meant: for platform admins, who must say it."
        found.append({"name": "partner", "in": "query", "required": False, "schema": text, "description": said})
    found += [{"name": name, "in": "header"} | _HEADERS[name] for name in row.headers]
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without null, which no query string can say."""
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    kinds = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    return schema if len(kinds) != 1 else rest | kinds[0]


def _responses(row: Endpoint, schemas: dict[Any, Any]) -> dict[str, Any]:
    answers = dict(row.answers) or {200: dict}
    said = {
        str(status): {"description": _STATUSES[status]} | _content(status, kind, schemas)
        for status, kind in answers.items()
    }
    for status in sorted(_refusals(row) - set(answers)):
        said[str(status)] = {"description": _STATUSES[status]} | _content(status, None, schemas)
    return said


def _content(status: int, kind: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    if status >= 400:
        headers = {405: "Allow", 429: "Retry-After", 503: "Retry-After"}
        said = {"headers": {headers[status]: {"schema": {"type": "string"}}}} if status in headers else {}
        return said | {"content": {"application/problem+json": {"schema": schemas[Problem, "serialization"]}}}
    if kind is None:
        return {}
    if kind is bytes:
        return {"content": {"application/octet-stream": {}}}
    return {"content": {"application/json": {"schema": schemas.get((kind, "serialization"), {"type": "object"})}}}


def _refusals(row: Endpoint) -> set[int]:
    """Which statuses a route of this shape can refuse with."""
    found = {400, 405, 429, 503}
    if row.caller is not Caller.ANYONE or row.takes:
        found |= {401, 403}
    if _names_something(row):
        found |= {404}
    if row.query or row.path.startswith("/api/v1/"):
        found |= {422}
    if row.method != "GET":
        found |= {403, 404, 409, 422}
    if row.takes or (row.method != "GET" and row.path.startswith("/agent/")):
        found |= {408, 413, 415, 422}
    return found | ({412, 428} if "If-Match" in row.headers else set())


def _names_something(row: Endpoint) -> bool:
    """Whether the caller names a thing that may not be there, in the path or in the query."""
    return "{" in row.path or (row.query is not None and "site" in row.query.model_fields)


def _security(caller: Caller) -> list[dict[str, list[str]]]:
    if caller is Caller.ANYONE:
        return []
    if caller is Caller.DEVICE:
        return [{"device": []}]
    return [{"session": []}] if caller is Caller.PERSON else [{"session": []}, {"key": []}]
