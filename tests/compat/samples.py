"""What is kept of a release's traffic: each request as the agent made it, each answer as the server gave it."""

import base64
import itertools
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from ccserver import catalogue, ordering
from ccserver.keys import ServerKeys
from ccserver.ordering import Wanted, Who
from ccserver.queries import orders
from ccserver.scope import Database

FOLDER = Path(__file__).parent / "samples"
KEPT_HEADERS = ("content-type", "content-encoding", "accept-encoding", "user-agent", "if-none-match")
PARTNER, SITE = "acme", "acme-clinic"
Message = MutableMapping[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A request and its answer; bodies are base64. `bears` says that it carried an access token, which is not kept."""

    method: str
    path: str
    headers: dict[str, str]
    bears: bool
    body: str
    status: int
    answer: str

    @property
    def route(self) -> str:
        """The method and the path with its ids left out."""
        parts = self.path.split("/")
        for at, (before, name) in enumerate(itertools.pairwise(parts[3:]), 4):
            if before in ("log", "orders", "entries") and name != "entries":
                parts[at] = "*"
        return f"{self.method} {'/'.join(parts)}"

    @property
    def sent(self) -> bytes:
        """The request's body."""
        return base64.b64decode(self.body)

    @property
    def answered(self) -> bytes:
        """The answer's body."""
        return base64.b64decode(self.answer)


@dataclass
class Sample:
    """One release's traffic, and what it takes to make the same server again: keys of the test's own."""

    release: str
    key_file: dict[str, Any]
    device_seed: str
    appliance_id: str
    code_hash: str
    order_id: str
    exchanges: list[Exchange] = field(default_factory=list)

    def save(self) -> None:
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        (FOLDER / f"{self.release}.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Sample":
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(**value | {"exchanges": [Exchange(**each) for each in value["exchanges"]]})


class Recorder:
    """An ASGI application that passes everything through and keeps what agents and server said."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self.exchanges: list[Exchange] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, answer = await whole(receive), bytearray()
        status, given = 0, False

        async def heard() -> Message:
            nonlocal given
            if given:
                message: Message = await receive()
                return message
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def said(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, heard, said)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.exchanges.append(
            Exchange(
                scope["method"],
                scope["path"],
                {name: headers[name] for name in KEPT_HEADERS if name in headers},
                "authorization" in headers,
                base64.b64encode(body).decode(),
                status,
                base64.b64encode(answer).decode(),
            )
        )


async def whole(receive: Any) -> bytes:
    """Return a request's body, also where nobody will read it."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body.extend(message.get("body", b""))
        more = message.get("more_body", False)
    return bytes(body)


async def push_order(db: Database, keys: ServerKeys, appliance_id: str, order_id: str | None = None) -> str:
    """Order the checks to be run now; with an id that was given before, the same order again."""
    checked = ordering.check(catalogue.load(), Wanted("run-checks-now", {}))
    async with db.site(PARTNER, SITE) as scope:
        draft = ordering.draft_of(checked, SITE, appliance_id, Who("user:one", "user:one"))
        draft = draft if order_id is None else type(draft)(**{**vars(draft), "id": order_id})
        await orders.insert(scope, draft)
        await ordering.release(scope, keys, draft, None)
    return draft.id


async def as_superuser(url: str, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """Run statements past every trigger and constraint."""
    conn = await asyncpg.connect(url)
    await conn.execute("SET session_replication_role = replica")
    for statement, values in statements:
        await conn.execute(statement, *values)
    await conn.close()
