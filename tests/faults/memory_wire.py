"""A server in memory for a whole fleet, at the end of the agent's wire: no socket, but protocol and real receipts."""

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from ccagent.client import PROBLEM, Answer, PermanentError, Request, RequestError
from ccshared import ed25519, purposes
from ccshared.messages import (
    CheckinAnswer,
    IncidentKept,
    IncidentReports,
    IncidentsKept,
    Message,
    Nonce,
    ServerKeysAnswer,
    Token,
    TokenRequest,
)
from tests.faults.memory_server import MemoryServer

LATENCY_S = 0.05


@dataclass
class MemoryWire:
    """`servers` are the appliances that it knows, by their ids; `now_ms` is its clock at the moment it was made.

    `policies` are their signed policies, each with its version.
    """

    now_ms: int
    servers: dict[str, MemoryServer] = field(default_factory=dict)
    policies: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def know(self, appliance_id: str, public_key: bytes) -> None:
        """Take an appliance as enrolled."""
        self.servers[appliance_id] = MemoryServer(None, appliance_id, public_key)

    async def exchange(self, request: Request) -> Answer:
        """Answer as the server would, a little later."""
        await asyncio.sleep(LATENCY_S)
        try:
            return await self._answer(request)
        except RequestError as error:
            return _refusal(422 if isinstance(error, PermanentError) else 409, str(error))

    async def _answer(self, request: Request) -> Answer:
        match f"{request.method} {request.path}":
            case "GET /nonce":
                return _said(Nonce(nonce=secrets.token_hex(16)))
            case "POST /token":
                return self._token(TokenRequest.model_validate_json(request.content))
            case "GET /keys":
                return _said(ServerKeysAnswer(keys=[]))
        server = self.servers.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if server is None:
            return _refusal(401, "no token")
        return await self._authorized(server, request)

    def _token(self, asked: TokenRequest) -> Answer:
        server = self.servers[asked.appliance_id]
        said = purposes.token("cc.example", asked.appliance_id, asked.nonce)
        ed25519.verify(server.public_key, said, bytes.fromhex(asked.signature))
        return _said(Token(token=asked.appliance_id, expires_in_s=900))

    async def _authorized(self, server: MemoryServer, request: Request) -> Answer:
        match request.method, request.path:
            case "PUT", "/patterns":
                return Answer(204, httpx.Headers(), b"")
            case "GET", "/policy" if server.appliance_id in self.policies:
                return Answer(200, httpx.Headers(), orjson.dumps(self.policies[server.appliance_id][1]))
        return await self._reported(server, request)

    async def _reported(self, server: MemoryServer, request: Request) -> Answer:
        match request.method, request.path.split("/")[1:]:
            case "POST", ["checkin"]:
                answer: Message = self._greeting(server)
            case "GET", ["log"]:
                answer = await server.epochs()
            case "GET", ["log", epoch]:
                answer = await server.head(epoch)
            case "POST", ["log", epoch, "entries"]:
                answer = await server.append(epoch, request.content)
            case "PUT", ["incidents"]:
                sent = IncidentReports.model_validate_json(request.content).incidents
                answer = IncidentsKept(incidents=[IncidentKept(**one.model_dump()) for one in sent])
            case _:
                return _refusal(404, "no such route")
        return _said(answer)

    def _greeting(self, server: MemoryServer) -> CheckinAnswer:
        version = self.policies.get(server.appliance_id, (None,))[0]
        return CheckinAnswer(
            server_at_ms=self.now_ms + round(asyncio.get_running_loop().time() * 1000),
            head_size=sum(stored.row.size for stored in server.logs.values()),
            policy_etag=None if version is None else str(version),
            orders_waiting=False,
            next_checkin_s=60,
        )


def _said(message: Message) -> Answer:
    return Answer(200, httpx.Headers(), message.model_dump_json().encode())


def _refusal(status: int, why: str) -> Answer:
    problem = {"type": f"{PROBLEM}refused", "title": why, "status": status, "detail": why, "request_id": "0"}
    return Answer(status, httpx.Headers(), orjson.dumps(problem))
