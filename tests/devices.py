"""A device that speaks the agent's API with real keys, for tests of the server; it keeps all in memory."""

import gzip
import secrets
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from ccserver import enrolment
from ccserver.keys import ServerKeys
from ccserver.localpg import Urls
from ccserver.queries import partners, sites
from ccserver.scope import Database
from ccshared import ed25519, entries, envelope, ids, merkle, notes, purposes
from ccshared.batch import Batch, write
from ccshared.vocabulary import Clock, Kind

NOW_MS = 1_790_000_000_000


@dataclass(frozen=True)
class Running:
    """A running server: where it is, a client of it, its database and keys."""

    url: str
    client: httpx.AsyncClient
    db: Database
    keys: ServerKeys
    urls: Urls

    async def add_site(self, partner_id: str, site_id: str) -> None:
        async with self.db.platform() as platform:
            if partner_id not in {partner.id for partner in await partners.list_all(platform, 100)}:
                await partners.insert(platform, partner_id, partner_id.title())
        async with self.db.partner(partner_id) as scope:
            await sites.insert(scope, site_id, site_id.title())

    async def code(self, partner_id: str, site_id: str, hours: int = 24) -> purposes.EnrolmentCode:
        async with self.db.site(partner_id, site_id) as scope:
            return await enrolment.make_code(scope, self.keys, hours)


@dataclass
class Device:
    """One device with its log; `payloads` are the entries sealed so far, sent or not."""

    server: Running
    seed: bytes
    appliance_id: str = ""
    token: str = ""
    epoch: str = "1-5eed0001"
    payloads: list[bytes] = field(default_factory=list)
    clock: Clock = Clock.SYNC

    @classmethod
    async def enrolled(cls, server: Running, partner_id: str, site_id: str) -> Self:
        device = cls(server, ed25519.new_seed())
        answer = await device.enroll(await server.code(partner_id, site_id))
        assert answer.status_code == 200, answer.text
        key = server.keys.order.public_key
        opened = envelope.open_envelope(answer.json(), envelope.PayloadType.ENROLMENT, key)
        device.appliance_id = opened["appliance_id"]
        device.token = (await device.ask_token()).json()["token"]
        return device

    @property
    def public_key(self) -> bytes:
        return ed25519.public_key(self.seed)

    @property
    def origin(self) -> str:
        return str(notes.Origin(self.server.keys.server, self.appliance_id, self.epoch))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def enroll(self, code: purposes.EnrolmentCode, **changes: Any) -> httpx.Response:
        proof = ed25519.sign(self.seed, purposes.enrolment(code.server, code.secret_hash, self.public_key))
        body = {"secret": code.secret, "public_key": self.public_key.hex(), "proof": proof.hex()}
        body |= {"hostname": "box", "version": "0.1.0"}
        return await self.server.client.post("/agent/v1/enroll", json=body | changes)

    async def ask_token(self) -> httpx.Response:
        nonce = (await self.server.client.get("/agent/v1/nonce")).json()["nonce"]
        signature = ed25519.sign(self.seed, purposes.token(self.server.keys.server, self.appliance_id, nonce))
        body = {"appliance_id": self.appliance_id, "nonce": nonce, "signature": signature.hex()}
        return await self.server.client.post("/agent/v1/token", json=body)

    async def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.server.client.request(method, f"/agent/v1/{path}", headers=self.headers, **more)

    def seal(self, kind: Kind = Kind.CHECK_RUN, body: dict[str, Any] | None = None, at: int = NOW_MS) -> bytes:
        """Seal the next entry of the log; the first is a genesis that names the device's key."""
        if not self.payloads:
            kind, body = Kind.GENESIS, {"public_key": self.public_key.hex(), "reason": "enrolment"}
        prev = merkle.leaf_hash(self.payloads[-1]).hex() if self.payloads else entries.GENESIS_PREV
        draft = entries.Draft(kind, ids.new_bundle_id(), at, self.clock, secrets.token_hex(16), body or {})
        self.payloads.append(entries.seal(draft, self.origin, len(self.payloads), prev).payload)
        return self.payloads[-1]

    def check_run(self, check: str, status: str, reason: str = "because", at: int = NOW_MS) -> bytes:
        body = {"check": check, "host": "box", "status": status, "severity": "high", "reason": reason, "since": at}
        return self.seal(Kind.CHECK_RUN, body | {"facts": {}, "hipaa_controls": ["164.312(b)"]}, at)

    def leaves(self, size: int | None = None) -> list[bytes]:
        return [merkle.leaf_hash(payload) for payload in self.payloads[:size]]

    def checkpoint(self, size: int) -> str:
        made = notes.Checkpoint(self.origin, size, merkle.root(self.leaves(size)))
        return notes.sign_checkpoint(made, self.seed)

    def batch(self, first: int, end: int | None = None, held: str | None = None) -> Batch:
        end = len(self.payloads) if end is None else end
        return Batch(self.checkpoint(end), first, held, self.payloads[first:end])

    async def send(self, sent: Batch) -> httpx.Response:
        body, headers = gzip.compress(write(sent)), self.headers | {"Content-Encoding": "gzip"}
        return await self.server.client.post(f"/agent/v1/log/{self.epoch}/entries", content=body, headers=headers)

    def receipt(self, answer: httpx.Response) -> notes.Receipt:
        """Return the answer's receipt, verified against the server's key and this device's own root."""
        receipt = notes.read_receipt(answer.json()["receipt"], self.public_key, self.server.keys.witnesses)
        assert receipt.checkpoint.root == merkle.root(self.leaves(receipt.checkpoint.size))
        return receipt
