"""Every route × every kind of caller: only those whom the route table declares pass, whatever routes there are."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from ccserver import app
from ccserver.http import PROBLEM, Caller, Endpoint
from ccshared import ids
from ccshared.vocabulary import Role
from tests.devices import Device, Running

# Said here once more, apart from the code that is on trial.
STAFF = {Role.VIEWER, Role.TECHNICIAN, Role.OWNER, Role.PLATFORM_ADMIN}
ROLES: dict[Caller, set[Role]] = {
    Caller.PERSON: STAFF | {Role.AUDITOR},
    Caller.AUDIT: STAFF | {Role.AUDITOR},
    Caller.READ: STAFF,
    Caller.OPERATE: {Role.TECHNICIAN, Role.OWNER, Role.PLATFORM_ADMIN},
    Caller.OWN: {Role.OWNER, Role.PLATFORM_ADMIN},
    Caller.PLATFORM: {Role.PLATFORM_ADMIN},
}
CHANGES = {Caller.OPERATE, Caller.OWN, Caller.PLATFORM}
DEAD = {"expired", "revoked", "disabled", "made up"}


@dataclass(frozen=True)
class Visitor:
    """Somebody who calls: with what, as which role, and what is wrong with it."""

    kind: str
    role: Role | None = None
    flaw: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.flaw, self.kind, self.role)))


HEADS = (Role.OWNER, Role.PLATFORM_ADMIN)
VISITORS = [
    Visitor("nobody"),
    Visitor("device"),
    Visitor("device", flaw="revoked"),
    *(Visitor(kind, flaw="made up") for kind in ("device", "session", "key")),
    *(Visitor("session", role, flaw) for role in Role for flaw in ("", "one-factor")),
    *(Visitor("session", role, flaw) for role in HEADS for flaw in ("expired", "disabled")),
    *(Visitor("key", role) for role in Role if role is not Role.AUDITOR),
    *(Visitor("key", role, flaw) for role in HEADS for flaw in ("expired", "revoked")),
]


# Handlers that turn away some of their declared callers, each with the reason; never the other way round.
NARROWER = {
    "/api/v1/api-keys": "a key that made keys would never expire",
    "/keys": "the same, on a page",
    "/account/recovery-codes": "who shows new ones has signed in with the second factor",
}


def is_declared(caller: Caller, visitor: Visitor) -> bool:
    """Whether the route table lets this visitor in."""
    if caller is Caller.ANYONE:
        return True
    if caller is Caller.DEVICE or visitor.kind in ("nobody", "device"):
        return caller is Caller.DEVICE and visitor == Visitor("device")
    if visitor.flaw in DEAD or visitor.role not in ROLES[caller]:
        return False
    if caller is Caller.PERSON:
        return visitor.kind == "session"
    return caller not in CHANGES or visitor.flaw != "one-factor"


async def credentials(server: Running, device: Device, visitor: Visitor) -> dict[str, str]:
    """Make what the visitor presents, anew for each call because a call may end it, and return the headers."""
    if visitor.kind == "nobody":
        return {}
    if visitor.flaw == "made up":
        return _header(visitor.kind, "v1.a.b.9999999999." + "A" * 43 if visitor.kind == "device" else _new(visitor))
    async with server.db.platform() as scope:
        if visitor.kind == "device":
            if visitor.flaw:
                await scope.conn.execute("UPDATE appliances SET revoked_at = now()")
            return device.headers
        return _header(visitor.kind, await _insert(scope.conn, visitor))


def _new(visitor: Visitor) -> str:
    return ("cck_" if visitor.kind == "key" else "") + secrets.token_urlsafe(32)


def _header(kind: str, value: str) -> dict[str, str]:
    return {"Cookie": f"cc_session={value}"} if kind == "session" else {"Authorization": f"Bearer {value}"}


async def _insert(conn: Any, visitor: Visitor) -> str:
    """Put the person and the session, or the key, into the database; return what proves it."""
    value, now = _new(visitor), datetime.now(UTC)
    hashed, until = (
        hashlib.sha256(value.encode()).hexdigest(),
        now + timedelta(hours=-1 if visitor.flaw == "expired" else 1),
    )
    partner, made = "platform" if visitor.role is Role.PLATFORM_ADMIN else "acme", ids.new_id()
    if visitor.kind == "key":
        await conn.execute(
            "INSERT INTO api_keys (partner_id, id, key_hash, name, role, created_by, expires_at, revoked_at)"
            " VALUES ($1, $2, $3, 'key', $4, 'test', $5, $6)",
            partner, made, hashed, str(visitor.role), until, now if visitor.flaw == "revoked" else None,
        )  # fmt: skip
        return value
    await conn.execute(
        "INSERT INTO users (partner_id, id, login, role, password_hash, disabled_at) VALUES ($1, $2, $2, $3, 'x', $4)",
        partner, made, str(visitor.role), now if visitor.flaw == "disabled" else None,
    )  # fmt: skip
    await conn.execute(
        "INSERT INTO sessions (partner_id, id, token_hash, user_id, expires_at, second_factor)"
        " VALUES ($1, $2, $3, $2, $4, $5)",
        partner, made, hashed, until, visitor.flaw != "one-factor",
    )  # fmt: skip
    if visitor.role is Role.AUDITOR:
        await conn.execute("INSERT INTO user_sites VALUES ('acme-clinic', 'acme', $1)", made)
    return value


async def call(server: Running, row: Endpoint, headers: dict[str, str], visitor: Visitor) -> httpx.Response:
    """Call a route with the site that is there, made-up names for the rest, and an empty body."""
    path = re.sub(r"\{[^}]*\}", "1", row.path.replace("{site}", "acme-clinic"))
    more: dict[str, Any] = {"json": {}} if row.method != "GET" and row.path.startswith(("/api/", "/agent/")) else {}
    if visitor.role is Role.PLATFORM_ADMIN and not row.path.startswith("/agent/"):
        more["params"] = {"partner": "acme"}
    server.client.cookies.clear()  # no cookie outlives its call
    more["headers"] = headers | {"Sec-Fetch-Site": "same-origin"}
    async with server.client.stream(row.method, path, **more) as answer:  # a stream of events has no end to wait for
        live = answer.headers.get("content-type", "").startswith("text/event-stream")
        body = b"" if live else await answer.aread()
        kept = {name: value for name, value in answer.headers.items() if name != "content-encoding"}
        return httpx.Response(answer.status_code, headers=kept, content=body, request=answer.request)


def is_refused(answer: httpx.Response) -> bool:
    """Whether the caller was turned away for who they are, before anything was looked for: so a 404 is no refusal."""
    return answer.status_code in (401, 403) or (answer.status_code == 303 and answer.headers["location"] == "/login")


def is_let_in(answer: httpx.Response, row: Endpoint, visitor: Visitor) -> bool:
    """Whether the caller was not turned away for who they are; what else is wrong with the call does not matter."""
    own = row.caller is Caller.ANYONE or row.path == "/logout"  # may say 401, or lead to /login, as their very answer
    forbidden = answer.text.find(PROBLEM + "forbidden") >= 0 and visitor.role is not Role.AUDITOR
    if forbidden or PROBLEM + "second-factor-needed" in answer.text or answer.status_code >= 500:
        return False
    bounced = answer.status_code == 401 or (answer.status_code == 303 and answer.headers["location"] == "/login")
    return own or not bounced


async def wrong(server: Running, device: Device, visitor: Visitor, table: Sequence[Endpoint]) -> list[str]:
    """Return the routes that let the visitor in though undeclared, or turn a declared one away."""
    found = []
    for row in table:
        headers = await credentials(server, device, visitor)
        answer = await call(server, row, headers, visitor)
        if is_declared(row.caller, visitor):
            good = is_let_in(answer, row, visitor) or (row.path in NARROWER and answer.status_code == 403)
        else:  # that a device was revoked is known only after its body was read
            good = is_refused(answer) or (visitor.kind == "device" and answer.status_code in (404, 415, 422))
        if not good:
            found.append(f"{row.method} {row.path}: {answer.status_code}")
    return found


@pytest.mark.parametrize("visitor", VISITORS, ids=str)
async def test_only_declared_callers_pass(server: Running, device: Device, visitor: Visitor) -> None:
    assert await wrong(server, device, visitor, app.ENDPOINTS) == []


async def test_a_revoked_device_is_turned_away_from_a_call_that_is_right_in_all_else(
    server: Running, device: Device
) -> None:
    said = {"version": "0.1.0", "hostname": "box", "sent_at_ms": 1, "clock": "sync"}
    assert (await device.call("POST", "checkin", json=said)).status_code == 200
    await credentials(server, device, Visitor("device", flaw="revoked"))
    assert (await device.call("POST", "checkin", json=said)).status_code == 401
    assert (await device.call("GET", "log")).status_code == 401
    assert (await device.call("PUT", "incidents", json={"incidents": []})).status_code == 401


async def test_a_route_that_lets_in_more_than_it_declares_is_found(server: Running, device: Device) -> None:
    lying = [replace(row, caller=Caller.PLATFORM) for row in app.ENDPOINTS if row.path == "/"]
    assert await wrong(server, device, Visitor("session", Role.OWNER), lying) == ["GET /: 200"]


async def test_a_route_that_turns_away_whom_it_declares_is_found(server: Running, device: Device) -> None:
    lying = [replace(row, caller=Caller.AUDIT) for row in app.ENDPOINTS if row.path == "/agent/v1/log"]
    assert await wrong(server, device, Visitor("key", Role.OWNER), lying) == ["GET /agent/v1/log: 401"]


def test_a_route_without_a_caller_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="caller"):
        Endpoint("GET", "/new", app.ENDPOINTS[0].handler)  # type: ignore[call-arg]  # that is the point


def test_every_kind_of_caller_is_in_the_matrix() -> None:
    assert set(ROLES) | {Caller.ANYONE, Caller.DEVICE} == set(Caller)
    assert {str(visitor) for visitor in VISITORS} >= {f"session {role}" for role in Role}
