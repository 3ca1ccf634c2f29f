"""Bad input of every class on every route that takes it, found from the route table: a problem, and nothing changed.

What is wrong with a request is one thing: without it, the same request is taken, which a test shows first.
"""

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
from ccshared import ed25519, purposes
from tests.devices import NOW_MS, Device, Running
from tests.operators import unlimited, with_key, with_session

ROWS = [row for row in app.ENDPOINTS if row.path.startswith(("/api/v1/", "/agent/v1/"))]
TAKERS = [row for row in ROWS if row.takes is not None]
ASKED = [row for row in ROWS if row.query is not None]
NAMED = [row for row in ROWS if "{" in row.path]
JSON = "application/json"
INCIDENT = {
    "id": "i1",
    "epoch": 1,
    "revision": 1,
    "host_id": "box",
    "incident_type": "backup_stale",
    "severity": "high",
}
INCIDENT |= {"raw_data": {}, "pattern_signature": "0" * 16, "created_at_ms": NOW_MS, "last_seen_at_ms": NOW_MS}
BASELINE = {"name": "checks.firewall.baseline_sha256", "sha256": "a" * 64}
SQL = "x'; DROP TABLE sites; -- \" OR 1=1 $$ \\"


REFUSED = {
    "texts": {422},
    "numbers": {422},
    "bodies": {413, 415, 422},
    "queries": {422},
    "paths": {404, 422},
    "headers": {400},
}


@dataclass(frozen=True)
class Sent:
    """A request: what is wrong with it, and the request; `twice` is a header to be there two times."""

    what: str
    row: Endpoint
    query: str = ""
    path: str = ""
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    twice: str = ""


# A rule in the state that each of these changes.
RULES = {"approve": "canary", "reject": "candidate", "demote": "active"}


@dataclass(frozen=True)
class Known:
    """What is there: who calls, the parts of paths that lead somewhere, and bodies that a schema alone cannot tell."""

    device: Device
    callers: dict[str, dict[str, str]]
    parts: dict[str, str]
    bodies: dict[str, dict[str, Any]]
    of_platform: dict[str, str]

    def path(self, row: Endpoint, **parts: str) -> str:
        """Return the route's path with parts that are there, or as given."""
        known = self.parts | (self.of_platform if row.path.startswith("/api/v1/platform/") else {})
        known = known | {"rule": RULES.get(row.path.rpartition("/")[2], "candidate")} | parts
        return re.sub(r"\{([a-z_]+)\}", lambda found: known.get(found[1], "i1"), row.path)

    def body(self, row: Endpoint, **changes: Any) -> dict[str, Any]:
        """Return a body that the route takes, with changes."""
        whole = schema_of(row.takes)
        return {**sample(whole, whole), **self.bodies.get(row.path, {}), **changes}


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


def wrong_texts(known: Known, row: Endpoint) -> Iterator[Sent]:
    """NUL, a lone surrogate, bytes that are no UTF-8, and far too much, in each text."""
    for name in members(row, "string"):
        written = orjson.dumps(known.body(row, **{name: "MARK"}))
        for what, raw in {"nul": b"\\u0000", "surrogate": b"\\ud800", "utf-8": b"\xff", "long": b"a" * 100_000}.items():
            yield Sent(f"{what} in {name}", row, content=written.replace(b"MARK", b"a" + raw))


def wrong_numbers(known: Known, row: Endpoint) -> Iterator[Sent]:
    for name in members(row, "integer"):
        for number in (10**400, 2**63, -(2**63) - 1, -1):
            written = orjson.dumps(known.body(row, **{name: "MARK"})).replace(b'"MARK"', str(number).encode())
            yield Sent(f"{name} is {str(number)[:20]}", row, content=written)


def wrong_bodies(known: Known, row: Endpoint) -> Iterator[Sent]:
    good = orjson.dumps(known.body(row))
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
    yield Sent("two types in one", row, content=good, headers={"Content-Type": f"{JSON}, text/plain"})


def wrong_queries(_known: Known, row: Endpoint) -> Iterator[Sent]:
    assert row.query is not None
    names, names_schema = row.query.model_fields, schema_of(row.query)
    yield Sent("unknown", row, query="nothing_of_ours=1")
    for name in names:
        good = quote(str(sample(names_schema["properties"][name], names_schema)))
        yield Sent(f"{name} twice", row, query=f"{name}={good}&{name}={good}")
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
        moments = ("0000-01-01T00:00:00Z", "99999-01-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "1.5")
        yield from (Sent(f"{name}={each}", row, query=f"{name}={each}") for each in moments)


def wrong_paths(known: Known, row: Endpoint) -> Iterator[Sent]:
    """Ids that are none, and those of another partner, in each part of the path."""
    for name in re.findall(r"\{([a-z_]+)\}", row.path):
        for each in (SQL, "\x00", "é", "A", "a" * 65, "a" * 5000, "9" * 30, "-1", " ", "beta-clinic"):
            yield Sent(f"{name}={each[:9]!r}", row, path=known.path(row, **{name: quote(each, safe="")}))


def doubled_headers(_known: Known, row: Endpoint) -> Iterator[Sent]:
    """Each header that a route reads, with the same good value twice."""
    names = {"Authorization", "Sec-Fetch-Site", *row.headers} | ({"Content-Type"} if row.takes else set())
    yield from (Sent(f"{name} twice", row, twice=name) for name in sorted(names))


CLASSES = {
    "texts": (TAKERS, wrong_texts),
    "numbers": (TAKERS, wrong_numbers),
    "bodies": (TAKERS, wrong_bodies),
    "queries": (ASKED, wrong_queries),
    "paths": (NAMED, wrong_paths),
    "headers": (ROWS, doubled_headers),
}


async def send(known: Known, sent: Sent) -> httpx.Response:
    """Send a request as somebody who may call the route."""
    row = sent.row
    who = "device" if row.path.startswith("/agent/") else "admin" if row.caller is Caller.PLATFORM else "owner"
    revision = '"0"' if "/settings/" in row.path else '"1"'
    headers = known.callers[who] | ({"If-Match": revision} if "If-Match" in row.headers else {})
    content = sent.content
    if content is None and row.takes is not None:
        content = orjson.dumps(known.body(row))
    headers |= {"Content-Type": JSON} if content is not None else {}
    doubled = [(sent.twice, {"Idempotency-Key": "k1"}.get(sent.twice, "same-origin"))] if sent.twice else []
    pairs = [*(headers | sent.headers | dict(doubled)).items(), *doubled]
    url = (sent.path or known.path(row)) + (f"?{sent.query}" if sent.query else "")
    return await known.device.server.client.request(row.method, url, content=content, headers=pairs)


ROWS_OF = """
    SELECT count(*), md5(coalesce(string_agg(line, E'\n' ORDER BY line), ''))
    FROM (SELECT (to_jsonb(each) - 'last_used_at')::text AS line FROM {} each) lines
"""  # that a key was used is no change


async def everything(server: Running) -> dict[str, tuple[int, str]]:
    """Return how many rows each table has, and their hash; what the server notes of itself by a clock is left out."""
    conn = await asyncpg.connect(server.urls.admin)
    names = await conn.fetch(
        """
        SELECT relname FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'witness_marks'
        """
    )
    found = {name: tuple(await conn.fetchrow(ROWS_OF.format(name)) or ()) for (name,) in names}
    await conn.close()
    return found


async def culprits(known: Known, name: str) -> list[str]:
    """Send a class once more, and return which requests change something; none when each does so once only."""
    rows, made = CLASSES[name]
    found, before = ["something was changed"], await everything(known.device.server)
    for sent in (each for row in rows for each in made(known, row)):
        await send(known, sent)
        after = await everything(known.device.server)
        if after != before:
            found.append(f"{sent.row.method} {sent.row.path}: {sent.what}")
        before = after
    return found


def is_refused(answer: httpx.Response, name: str) -> bool:
    """Whether an answer is a problem, and about what is wrong with requests of this class."""
    return answer.status_code in REFUSED[name] and answer.headers.get("content-type") == "application/problem+json"


def finds_nothing(answer: httpx.Response, sent: Sent) -> bool:
    """Whether a filter that takes any text took this one as text, which nothing is equal to."""
    return "%00" not in sent.query and answer.status_code == 200 and answer.json().get("items") == []


@pytest.fixture
def settings(settings: Config) -> Config:
    return unlimited(settings)


@pytest.fixture
async def known(device: Device) -> Known:
    server = device.server
    await server.add_site("beta", "beta-clinic")
    device.seal()
    assert (await device.send(device.batch(0))).status_code == 200
    assert (await device.call("PUT", "incidents", json={"incidents": [INCIDENT]})).status_code == 200
    owner, admin = await with_session(server, "owner"), await with_key(server, "platform_admin", "platform")
    invited = await owner.call("POST", "users", json={"login": "viewer", "role": "viewer"})
    parts = {"site": "acme-clinic", "epoch": device.epoch, "seq": "0", "log": "1", "partner_id": "acme"}
    parts |= {"appliance": device.appliance_id, "user": invited.json()["user_id"], "name": "checks.time_limit_s"}
    order = {"appliance_id": device.appliance_id, "runbook_id": "run-checks-now"}
    made = await owner.call("POST", "sites/acme-clinic/orders", json=order)
    version = (await device.call("GET", "policy")).headers["etag"].strip('"')
    fleet = await owner.call("POST", "fleet-orders", json={"runbook_id": "run-checks-now", "all": True})
    parts |= {"fleet_order": fleet.json()["fleet_order"]["id"]}
    parts |= {"order": made.json()["order"]["id"], "version": version}
    await seen_firewall(device)
    await some_rules(device)
    bodies = {
        "/agent/v1/enroll": await an_enrolment(server),
        "/agent/v1/token": await an_assertion(device),
        "/api/v1/codes": {"rows": [{"site": "acme-clinic"}]},
        "/api/v1/sites/{site}/orders": order,
        "/api/v1/fleet-orders": {"runbook_id": "run-checks-now", "all": True},
        "/api/v1/sites/{site}/appliances/{appliance}/baselines": BASELINE,
        "/agent/v1/orders/{order}/result": {"status": "succeeded"},
        "/api/v1/sites/{site}/close": {"confirm": "acme-clinic"},
        "/api/v1/partners/{partner_id}/off-board": {"confirm": "acme"},
        "/api/v1/channels": {"kind": "slack", "url": "https://example.org/hook"},
        "/api/v1/platform/channels": {"kind": "slack", "url": "https://example.org/hook"},
    }
    slack = {"name": "ops"} | bodies["/api/v1/channels"]
    parts |= {"channel": (await owner.call("POST", "channels", json=slack)).json()["channel"]["id"]}
    theirs = (await admin.call("POST", "platform/channels", json=slack)).json()["channel"]["id"]
    parts |= {"problem": await a_problem(server, "acme")}
    of_platform = {"channel": theirs, "problem": await a_problem(server, "platform")}
    callers = {"device": device.headers, "owner": owner.headers, "admin": admin.headers}
    return Known(device, callers, parts, bodies, of_platform)


async def seen_firewall(device: Device) -> None:
    """Let the appliance propose a firewall baseline."""
    facts = {"ruleset_sha256": BASELINE["sha256"]}
    body = {"check": "firewall", "host": "box", "status": "fail", "severity": "high", "reason": "differs", "since": 1}
    device.seal(body=body | {"facts": facts, "hipaa_controls": []})
    assert (await device.send(device.batch(1))).status_code == 200


async def some_rules(device: Device) -> None:
    """Put a rule of each state there, named by it; the trial of the one on its canary went well."""
    async with device.server.db.site("acme", "acme-clinic") as scope:
        for number, status in enumerate(sorted(RULES.values())):
            await scope.conn.execute(
                """
                INSERT INTO rules (partner_id, id, pattern_signature, runbook_id, conditions, status, canary_site_id,
                                   canary_appliance_id)
                VALUES ('acme', $1, lpad($2, 16, '0'), 'run-backup', '[]', $1,
                        CASE $1 WHEN 'canary' THEN 'acme-clinic' END, CASE $1 WHEN 'canary' THEN $3 END)
                """,
                status,
                str(number),
                device.appliance_id,
            )
        await scope.conn.execute(
            """
            INSERT INTO rule_trials (
                site_id, partner_id, appliance_id, rule_id, total_count, success_count, epoch_number, revision)
            VALUES ('acme-clinic', 'acme', $1, 'canary', 9, 9, 1, 1)
            """,
            device.appliance_id,
        )


async def a_problem(server: Running, partner_id: str) -> str:
    async with server.db.partner(partner_id) as scope:
        await scope.conn.execute(
            "INSERT INTO problems (partner_id, id, kind, subject, severity, says, began_at)"
            " VALUES ($1, $2, 'sweep', 'x', 'low', 'x', now())",
            partner_id,
            f"problem-of-{partner_id}",
        )
    return f"problem-of-{partner_id}"


async def an_enrolment(server: Running) -> dict[str, Any]:
    code, new = await server.code("acme", "acme-clinic"), Device(server, ed25519.new_seed())
    proof = ed25519.sign(new.seed, purposes.enrolment(code.server, code.secret_hash, new.public_key))
    return {"secret": code.secret, "public_key": new.public_key.hex(), "proof": proof.hex()}


async def an_assertion(device: Device) -> dict[str, Any]:
    nonce = (await device.server.client.get("/agent/v1/nonce")).json()["nonce"]
    signature = ed25519.sign(device.seed, purposes.token(device.server.keys.server, device.appliance_id, nonce))
    return {"appliance_id": device.appliance_id, "nonce": nonce, "signature": signature.hex()}


async def test_the_same_requests_are_taken_when_nothing_is_wrong_with_them(known: Known) -> None:
    # Closing is the last: a closed site takes nothing more, and a partner that is gone asks nothing more.
    rows = sorted([*ASKED, *TAKERS], key=lambda row: (row.path.endswith("/off-board"), row.path.endswith("/close")))
    answers = [(row, await send(known, Sent("nothing", row))) for row in rows]
    assert [f"{row.method} {row.path}: {got.text}" for row, got in answers if got.status_code >= 300] == []


@pytest.mark.parametrize("name", CLASSES)
async def test_bad_input_is_a_problem_and_changes_nothing(known: Known, name: str) -> None:
    rows, made = CLASSES[name]
    before, wrong, count = await everything(known.device.server), [], 0
    for sent in (each for row in rows for each in made(known, row)):
        answer, count = await send(known, sent), count + 1
        if not is_refused(answer, name) and not (sent.row.query and finds_nothing(answer, sent)):
            wrong.append(f"{sent.row.method} {sent.row.path}: {sent.what}: {answer.status_code}")
    assert wrong == []
    assert count >= len(rows) > 3
    if await everything(known.device.server) != before:
        assert await culprits(known, name) == []
