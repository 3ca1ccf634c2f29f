"""Operators for tests of the API: real keys and real sessions, by the rows that the server looks for."""

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import Any

import httpx

from ccserver.config import Config
from ccserver.limits import Rate, Rates
from ccshared import ids
from tests.devices import Running


@dataclass(frozen=True)
class Operator:
    """Who calls the API; `headers` carry the credential."""

    server: Running
    headers: dict[str, str]

    async def call(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        both = self.headers | (headers or {})
        return await self.server.client.request(method, f"/api/v1/{path}", headers=both, **more)

    async def walk(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Return all items of a list, two at a time, followed by its cursor."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": 2} | query
        while True:
            answer = await self.call("GET", path, params=params)
            assert answer.status_code == 200, answer.text
            found += answer.json()["items"]
            if answer.json()["next"] is None:
                return found
            params["cursor"] = answer.json()["next"]


async def with_key(server: Running, role: str, partner_id: str = "acme") -> Operator:
    """Return the holder of a new API key of this role."""
    value = "cck_" + secrets.token_urlsafe(32)
    async with server.db.platform() as scope:
        await scope.conn.execute(
            """
            INSERT INTO api_keys (partner_id, id, key_hash, name, role, created_by, expires_at)
            VALUES ($1, $2, $3, 'test', $4, 'test', now() + interval '1 hour')
            """,
            partner_id,
            ids.new_id(),
            _hash(value),
            role,
        )
    return Operator(server, {"Authorization": f"Bearer {value}"})


async def with_session(server: Running, role: str, *sites: str, second_factor: bool = True) -> Operator:
    """Return a signed-in person of acme; `sites` are an auditor's."""
    value, user_id = secrets.token_urlsafe(32), ids.new_id()
    async with server.db.platform() as scope:
        await scope.conn.execute(
            "INSERT INTO users (partner_id, id, login, role, password_hash) VALUES ('acme', $1, $1, $2, 'x')",
            user_id,
            role,
        )
        await scope.conn.execute(
            """
            INSERT INTO sessions (partner_id, token_hash, user_id, expires_at, second_factor)
            VALUES ('acme', $1, $2, now() + interval '1 hour', $3)
            """,
            _hash(value),
            user_id,
            second_factor,
        )
        for site_id in sites:
            await scope.conn.execute(
                "INSERT INTO user_sites (site_id, partner_id, user_id) VALUES ($1, 'acme', $2)", site_id, user_id
            )
    return Operator(server, {"Cookie": f"cc_session={value}", "Sec-Fetch-Site": "same-origin"})


def unlimited(settings: Config) -> Config:
    """Return settings under which nobody is answered 429 for calling often: what is on trial is another answer."""
    return replace(settings, rates=Rates(**dict.fromkeys(vars(Rates()), Rate(10**6, 10**6))))


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def type_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"].removeprefix("urn:central-command:problem:"))


async def audited(server: Running, partner_id: str = "acme") -> list[tuple[str, str]]:
    """Return (action, target) of a partner's audit log, oldest first."""
    async with server.db.partner(partner_id) as scope:
        rows = await scope.conn.fetch("SELECT action, target FROM audit_log ORDER BY seq")
    return [(row["action"], row["target"]) for row in rows]
