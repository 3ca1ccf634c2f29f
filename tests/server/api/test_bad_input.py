"""Bad input of every class on every route that takes it, found from the route table: a problem, and nothing changed."""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import orjson
import pytest
from pydantic import TypeAdapter

from ccserver import app
from ccserver.config import Config
from ccserver.http import JSON_LIMIT, Caller, Endpoint
from tests.devices import Device, Running
from tests.operators import unlimited, with_key

ROWS = [row for row in app.ENDPOINTS if row.path.startswith(("/api/v1/", "/agent/v1/"))]
TAKERS = [row for row in ROWS if row.takes is not None]
ASKED = [row for row in ROWS if row.query is not None]
NAMED = [row for row in ROWS if "{" in row.path]
JSON = "application/json"
SQL = "x'; DROP TABLE sites; -- \" OR 1=1 $$ \\"


@dataclass(frozen=True)
class Sent:
    """A request: what is wrong with it, and the request."""

    what: str
    row: Endpoint
    query: str = ""
    path: str = ""
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def the_path(row: Endpoint, **parts: str) -> str:
    """The route's path with parts that are there or made up."""
    known = {"site": "acme-clinic", "epoch": "1-5eed0001", "seq": "0", "partner_id": "acme"}
    return re.sub(r"\{([a-z_]+)\}", lambda found: parts.get(found[1], known.get(found[1], "i1")), row.path)


def schema_of(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def resolved(part: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Follow references and take the first that is not null of several."""
    if "$ref" in part:
        return resolved(whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
    several = [each for each in part.get("anyOf", []) if each.get("type") != "null"]
    return resolved(several[0], whole) if several else part


WORDS = ("a", "0", "sync", "witness", "1-5eed0001", "a" * 16, "0" * 16, "0" * 22, "0" * 32, "0" * 64, "0" * 128)


def sample(part: dict[str, Any], whole: dict[str, Any]) -> Any:
    """A value that the schema takes, so that what is wrong with a request is one thing."""
    part = resolved(part, whole)
    if "enum" in part or "const" in part:
        return part.get("const", part.get("enum", [None])[0])
    kind = part.get("type")
    if kind == "object":
        needed = part.get("required", [])
        return {name: sample(each, whole) for name, each in part.get("properties", {}).items() if name in needed}
    if kind == "array":
        return [sample(part["items"], whole)] if part.get("minItems") or "items" in part else []
    if kind == "string":
        return text(part)
    return {"boolean": False, "number": 1.0}.get(str(kind), part.get("minimum", 1))


def text(part: dict[str, Any]) -> str:
    if part.get("format") == "date-time":
        return (datetime.now(UTC) + timedelta(days=1)).isoformat()
    fitting = [word for word in WORDS if re.search(part.get("pattern", ""), word)]
    return next((word for word in fitting if len(word) >= part.get("minLength", 0)), "a")


def members(row: Endpoint, kind: str) -> Iterator[str]:
    """The names of a body's own members of a kind."""
    whole = schema_of(row.takes)
    for name, part in whole.get("properties", {}).items():
        if resolved(part, whole).get("type") == kind:
            yield name


def body(row: Endpoint, **changes: Any) -> dict[str, Any]:
    whole = schema_of(row.takes)
    return {**sample(whole, whole), **changes}


def wrong_texts(row: Endpoint) -> Iterator[Sent]:
    """NUL, a lone surrogate, bytes that are no UTF-8, and far too much, in each text."""
    for name in members(row, "string"):
        written = orjson.dumps(body(row, **{name: "MARK"}))
        for what, raw in {"nul": b"\\u0000", "surrogate": b"\\ud800", "utf-8": b"\xff", "long": b"a" * 100_000}.items():
            yield Sent(f"{what} in {name}", row, content=written.replace(b"MARK", b"a" + raw))


def wrong_numbers(row: Endpoint) -> Iterator[Sent]:
    for name in members(row, "integer"):
        for number in (10**400, 2**63, -(2**63) - 1, -1):
            written = orjson.dumps(body(row, **{name: "MARK"})).replace(b'"MARK"', str(number).encode())
            yield Sent(f"{name} is {str(number)[:20]}", row, content=written)


def wrong_bodies(row: Endpoint) -> Iterator[Sent]:
    good = orjson.dumps(body(row))
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    whole = {"nothing": b"", "cut off": good[:-1], "an array": b"[]", "null": b"null", "NaN": b"NaN", "deep": deep}
    for what, content in (whole | {"a list within": b"[" * 100_000, "utf-16": good.decode().encode("utf-16")}).items():
        yield Sent(what, row, content=content)
    yield Sent("oversized", row, content=b" " * (JSON_LIMIT + 1) + good)
    bomb = {"Content-Encoding": "gzip"}
    yield Sent("a bomb", row, content=gzip.compress(b" " * 50_000_000 + good), headers=bomb)
    yield Sent("no gzip", row, content=good, headers=bomb)
    yield Sent("another encoding", row, content=good, headers={"Content-Encoding": "br"})
    yield Sent("another type", row, content=good, headers={"Content-Type": "text/plain"})
    yield Sent("two types", row, content=good, headers={"Content-Type": f"{JSON}, text/plain"})


def wrong_queries(row: Endpoint) -> Iterator[Sent]:
    assert row.query is not None
    names = row.query.model_fields
    yield Sent("unknown", row, query="nothing_of_ours=1")
    for name in names:
        yield Sent(f"{name} twice", row, query=f"{name}=1&{name}=2")
        yield from (Sent(f"{name}={each[:9]}", row, query=f"{name}={each}") for each in (quote(SQL), "%00", "%ff"))
    for name in names.keys() & {"limit", "offset"}:
        found = (
            "-1",
            "1.5",
            "1e3",
            "9" * 400,
            "9223372036854775808",
            *(("0", "201") if name == "limit" else ("10001",)),
        )
        yield from (Sent(f"{name}={each[:9]}", row, query=f"{name}={each}") for each in found)
    if "cursor" in names:
        forged = ("AAAA", "A" * 500, "=", "%C3%A9", quote("MjAyNi0wMS0wMVQwMDowMDowMFogYQ" * 2))
        yield from (Sent(f"cursor={each[:9]}", row, query=f"cursor={each}") for each in forged)
    for name in names.keys() & {"since", "until"}:
        moments = ("0000-01-01T00:00:00Z", "99999-01-01T00:00:00Z", "2026-01-01", "9999-12-31T23:59:59-14:00")
        yield from (Sent(f"{name}={each}", row, query=f"{name}={each}") for each in moments)


def wrong_paths(row: Endpoint) -> Iterator[Sent]:
    """Ids that are none, and those of another partner, in each part of the path."""
    for name in re.findall(r"\{([a-z_]+)\}", row.path):
        for each in (SQL, "\x00", "é", "A", "a" * 65, "a" * 5000, "9" * 30, "-1", " ", "beta-clinic"):
            yield Sent(f"{name}={each[:9]!r}", row, path=the_path(row, **{name: quote(each, safe="")}))


CLASSES = {
    "texts": (TAKERS, wrong_texts),
    "numbers": (TAKERS, wrong_numbers),
    "bodies": (TAKERS, wrong_bodies),
    "queries": (ASKED, wrong_queries),
    "paths": (NAMED, wrong_paths),
}


async def send(device: Device, operators: dict[str, dict[str, str]], sent: Sent) -> httpx.Response:
    """Send a request as somebody who may call the route."""
    row = sent.row
    who = "device" if row.path.startswith("/agent/") else "admin" if row.caller is Caller.PLATFORM else "owner"
    headers = (device.headers if who == "device" else operators[who]) | {"If-Match": '"1"'}
    content = sent.content
    if content is None and row.takes is not None:
        content = orjson.dumps(body(row))
    headers |= {"Content-Type": JSON} if content is not None else {}
    url = (sent.path or the_path(row)) + (f"?{sent.query}" if sent.query else "")
    return await device.server.client.request(row.method, url, content=content, headers=headers | sent.headers)


async def everything(server: Running) -> dict[str, list[str]]:
    """Return every row of every table; that a key was used is no change."""
    conn = await asyncpg.connect(server.urls.admin)
    names = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    found: dict[str, list[str]] = {}
    for (name,) in names:
        rows = await conn.fetch(f"TABLE {name}")
        found[name] = sorted(str({**row, "last_used_at": None}) for row in rows)
    await conn.close()
    return found


def is_problem(answer: httpx.Response) -> bool:
    return 400 <= answer.status_code < 500 and answer.headers.get("content-type") == "application/problem+json"


def finds_nothing(answer: httpx.Response, sent: Sent) -> bool:
    """Whether a filter that takes any text took this one as text, which nothing is equal to."""
    return "%00" not in sent.query and answer.status_code == 200 and answer.json().get("items") == []


@pytest.fixture
def settings(settings: Config) -> Config:
    return unlimited(settings)


@pytest.fixture
async def operators(device: Device) -> dict[str, dict[str, str]]:
    await device.server.add_site("beta", "beta-clinic")
    owner, admin = await with_key(device.server, "owner"), await with_key(device.server, "platform_admin", "platform")
    return {"owner": owner.headers, "admin": admin.headers}


@pytest.mark.parametrize("name", CLASSES)
async def test_bad_input_is_a_problem_and_changes_nothing(
    device: Device, operators: dict[str, dict[str, str]], name: str
) -> None:
    rows, made = CLASSES[name]
    before, wrong, count = await everything(device.server), [], 0
    for sent in (each for row in rows for each in made(row)):
        answer, count = await send(device, operators, sent), count + 1
        if not is_problem(answer) and not (sent.row.query and finds_nothing(answer, sent)):
            wrong.append(f"{sent.row.method} {sent.row.path}: {sent.what}: {answer.status_code}")
    assert wrong == []
    assert count >= len(rows) > 3
    assert await everything(device.server) == before


async def test_the_same_requests_are_taken_when_nothing_is_wrong_with_them(
    device: Device, operators: dict[str, dict[str, str]]
) -> None:
    refused = [row.path for row in TAKERS if await was_refused(device, operators, row)]
    assert len(refused) <= len(TAKERS) // 4, refused


async def was_refused(device: Device, operators: dict[str, dict[str, str]], row: Endpoint) -> bool:
    return (await send(device, operators, Sent("nothing", row))).status_code in (400, 415, 422)
