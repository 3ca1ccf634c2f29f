"""A small witness on a real socket, with real keys and real receipts, that misbehaves when it is told to.

It stands for the hostile servers, portals and lines that the real server never is; what it stores is what it received.
"""

import asyncio
import contextlib
import gzip
import secrets
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ccagent.client import Device
from ccshared import batch, ed25519, entries, envelope, merkle, notes, purposes
from ccshared.batch import Stub

SERVER = "cc.example"
SITE = "site-1"
APPLIANCE = "appliance-1"
PORTAL = "<html><body>Welcome to the clinic's guest network</body></html>"


@dataclass
class Log:
    """One epoch as stored: payload bytes, the checkpoint last cosigned, its receipt, and the log's key."""

    key: bytes
    origin: str = ""
    lines: list[bytes | Stub] = field(default_factory=list)
    receipt: str | None = None

    @property
    def root(self) -> bytes:
        return merkle.root([leaf_of(line) for line in self.lines])

    @property
    def stubs(self) -> list[int]:
        return [seq for seq, line in enumerate(self.lines) if isinstance(line, Stub)]


def leaf_of(line: bytes | Stub) -> bytes:
    return line.leaf if isinstance(line, Stub) else merkle.leaf_hash(line)


class Witness:
    """The server's state; `tricks` says, per call name, what goes wrong with the next requests, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.witness_seed = ed25519.new_seed()
        self.order_seed = ed25519.new_seed()
        self.device_key = b""
        self.device_seed = b""  # what no server has: to forge what only a device could sign
        self.codes: dict[str, str] = {}  # secret -> "fresh", "expired" or the public key that used it
        self.tokens: set[str] = set()
        self.logs: dict[str, Log] = {}
        self.tricks: dict[str, deque[str]] = defaultdict(deque)
        self.calls: list[str] = []
        self.batches: list[int] = []  # lines per append received
        self.bodies: list[int] = []  # bytes per append received
        self.checkins: list[dict[str, Any]] = []
        self.incidents: dict[str, dict[str, Any]] = {}
        self.patterns: list[dict[str, Any]] = []
        self.revoked = False
        self.poison: Callable[[bytes], bool] = lambda line: False  # which payloads are refused
        self.witness_name = f"{SERVER}/server/witness"
        self.checkpoints: list[str] = []  # as cosigned
        self.refuses = ""  # an incident
        self.names_poison = True  # whether a refusal says which entry it is for
        self.keys: list[dict[str, str]] | None = None  # other than the two it began with
        self.statements: list[dict[str, Any]] = []
        self.policy: dict[str, Any] | None = None  # an envelope, as tests.agent.directing signs it
        self.policy_etag: str | None = None
        self.orders: dict[str, dict[str, Any]] = {}  # envelopes by the name under which they are delivered
        self.order_status: dict[str, str] = {}
        self.takers: dict[str, str] = {}
        self.results: list[tuple[str, dict[str, Any]]] = []
        self.plan: Any = None
        self.planned: list[dict[str, Any]] = []

    def new_code(self, state: str = "fresh") -> str:
        secret = secrets.token_hex(16)
        self.codes[secret] = state
        print_ = purposes.fingerprint(ed25519.public_key(self.order_seed))
        return f"{SERVER}/{print_}/{secret}"

    def known_device(self) -> Device:
        """Return a device that is enrolled already."""
        seed = ed25519.new_seed()
        self.device_key = ed25519.public_key(seed)
        return Device(SERVER, APPLIANCE, seed)

    def server_keys(self) -> list[dict[str, str]]:
        return [
            {
                "use": use,
                "name": f"{SERVER}/server/{use}",
                "public_key": ed25519.public_key(seed).hex(),
            }
            for use, seed in (("witness", self.witness_seed), ("order", self.order_seed))
        ]

    def head(self, epoch: str) -> dict[str, Any]:
        log = self.logs[epoch]
        return {"epoch": epoch, "size": len(log.lines), "receipt": log.receipt}

    def cosign(self, checkpoint: str) -> str:
        self.checkpoints.append(checkpoint)
        return notes.cosign(checkpoint, self.witness_name, self.witness_seed, int(time.time()))


def problem(status: int, code: str, headers: dict[str, str] | None = None, **extra: Any) -> Response:
    body = {
        "type": f"urn:central-command:problem:{code}",
        "title": code,
        "status": status,
        "detail": f"it is {code}",
        "request_id": "r-1",
        **extra,
    }
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


class HangsUp(Response):
    """Begins an answer and never ends it: the line breaks."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"1000"), (b"connection", b"close")],
            }
        )
        await send({"type": "http.response.body", "body": b"{", "more_body": False})


async def hang() -> Response:
    await asyncio.sleep(30)
    return problem(503, "slow")


def trick_answer(trick: str) -> Response | None:
    plain: dict[str, Callable[[], Response]] = {
        "503": lambda: problem(503, "database-unavailable"),
        "502": lambda: HTMLResponse("<html>Bad Gateway</html>", 502),
        "portal": lambda: HTMLResponse(PORTAL),
        "redirect": lambda: Response(status_code=302, headers={"Location": "http://portal/"}),
        "429": lambda: problem(429, "too-many", {"Retry-After": "7"}),
        "401": lambda: problem(401, "token-invalid"),
        "403": lambda: problem(403, "forbidden"),
        "404": lambda: problem(404, "nothing-here"),
        "html-404": lambda: HTMLResponse("<html>no</html>", 404),
        "html-400": lambda: HTMLResponse("<html>no</html>", 400),
        "413": lambda: problem(413, "too-large"),
        "422": lambda: problem(422, "entry-invalid", seq=1),
        "409-gap": lambda: problem(409, "log-gap", expected_seq=0),
        "409-fork": lambda: problem(409, "log-fork", seq=0),
        "hang-up": HangsUp,
        "400": lambda: problem(400, "body-invalid"),
        "checkpoint": lambda: problem(422, "checkpoint-invalid"),
        "huge": lambda: Response(b" " * (5 * 1024 * 1024), media_type="application/json"),
    }
    make = plain.get(trick)
    return make() if make else None


Handler = Callable[[Witness, Request, str], Awaitable[Response]]


def call(witness: Witness, name: str, handler: Handler, *, open_: bool = False) -> Any:
    """Wrap a handler: count it, play the trick that is due, check the token."""

    async def endpoint(request: Request) -> Response:
        witness.calls.append(name)
        trick = witness.tricks[name].popleft() if witness.tricks[name] else ""
        if trick == "hang":
            return await hang()
        answer = trick_answer(trick)
        if answer is not None:
            return answer
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not open_ and token not in witness.tokens:
            return problem(401, "token-invalid")
        return await handler(witness, request, trick)

    return endpoint


async def enroll(witness: Witness, request: Request, trick: str) -> Response:
    asked = await request.json()
    state = witness.codes.get(asked["secret"])
    key = bytes.fromhex(asked["public_key"])
    if state is None:
        return problem(404, "code-unknown")
    if state == "expired":
        return problem(410, "code-expired")
    if state not in ("fresh", asked["public_key"]):
        return problem(409, "code-used")
    proof = purposes.enrolment(SERVER, purposes.secret_hash(asked["secret"]), key)
    ed25519.verify(key, proof, bytes.fromhex(asked["proof"]))
    witness.codes[asked["secret"]] = asked["public_key"]
    witness.device_key = key
    if trick == "lose-answer":
        return HangsUp()
    enrolled = {
        "server": SERVER if trick != "other-name" else "other.example",
        "site_id": SITE,
        "appliance_id": APPLIANCE,
        "public_key": asked["public_key"],
        "keys": witness.server_keys(),
    }
    seed = ed25519.new_seed() if trick == "other-signer" else witness.order_seed
    kind = envelope.PayloadType.POLICY if trick == "other-purpose" else envelope.PayloadType.ENROLMENT
    return JSONResponse(envelope.sign(kind, enrolled, seed, f"{SERVER}/server/order").to_json())


async def nonce(witness: Witness, request: Request, trick: str) -> Response:
    return JSONResponse({"nonce": secrets.token_hex(16)})


async def token(witness: Witness, request: Request, trick: str) -> Response:
    asked = await request.json()
    if witness.revoked:
        return problem(401, "revoked")
    if trick == "nonce-expired":
        return problem(401, "nonce-expired")
    signed = purposes.token(SERVER, asked["appliance_id"], asked["nonce"])
    ed25519.verify(witness.device_key, signed, bytes.fromhex(asked["signature"]))
    made = f"v1.{secrets.token_hex(8)}"
    witness.tokens.add(made)
    return JSONResponse({"token": made, "expires_in_s": 900})


async def checkin(witness: Witness, request: Request, trick: str) -> Response:
    said = await request.json()
    witness.checkins.append(said)
    return JSONResponse(
        {
            "server_at_ms": int(time.time() * 1000),
            "head_size": 0,
            "policy_etag": witness.policy_etag,
            "orders_waiting": bool(deliverable(witness)),
            "next_checkin_s": 5 if witness.policy is not None else 60,
        }
    )


async def history(witness: Witness, request: Request, trick: str) -> Response:
    return JSONResponse({"epochs": [witness.head(epoch) for epoch in witness.logs]})


async def head(witness: Witness, request: Request, trick: str) -> Response:
    epoch = request.path_params["epoch"]
    if epoch not in witness.logs:
        return problem(404, "log-unknown")
    lies: dict[str, dict[str, Any]] = {"too-far": {"size": 10_000}, "other-epoch": {"epoch": "9-00000009"}}
    return JSONResponse(witness.head(epoch) | lies.get(trick, {}))


async def append(witness: Witness, request: Request, trick: str) -> Response:
    epoch = request.path_params["epoch"]
    body = await request.body()
    witness.bodies.append(len(body))
    sent = batch.read(gzip.decompress(body))
    before = witness.logs.get(epoch, Log(b"")).receipt
    witness.batches.append(len(sent.lines))
    refused = refuse_poison(witness, sent) or store(witness, epoch, sent)
    if refused is not None:
        return refused
    if trick == "lose-answer":
        return HangsUp()
    answer = witness.head(epoch)
    if trick:
        answer["receipt"] = before if trick == "stale" else forge(witness, witness.logs[epoch], sent, trick)
    return JSONResponse(answer, 200 if answer["receipt"] else 202)


async def put_entry(witness: Witness, request: Request, trick: str) -> Response:
    epoch, seq = request.path_params["epoch"], int(request.path_params["seq"])
    payload = gzip.decompress(await request.body())
    log = witness.logs[epoch]
    if witness.poison(payload) or merkle.leaf_hash(payload) != leaf_of(log.lines[seq]):
        return problem(422, "entry-invalid", seq=seq)
    if trick == "other-leaf":
        return JSONResponse({"epoch": epoch, "seq": seq, "leaf": "0" * 64})
    log.lines[seq] = payload
    return JSONResponse({"epoch": epoch, "seq": seq, "leaf": merkle.leaf_hash(payload).hex()})


def deliverable(witness: Witness) -> list[dict[str, Any]]:
    over = ("succeeded", "failed", "rejected", "cancelled")
    return [sent for name, sent in witness.orders.items() if witness.order_status.get(name) not in over]


async def policy(witness: Witness, request: Request, trick: str) -> Response:
    return JSONResponse(witness.policy) if witness.policy is not None else problem(404, "not-found")


async def orders(witness: Witness, request: Request, trick: str) -> Response:
    return JSONResponse({"orders": deliverable(witness)})


async def acknowledge(witness: Witness, request: Request, trick: str) -> Response:
    order = request.path_params["order"]
    if order not in witness.orders:
        return problem(404, "not-found")
    status, taker = witness.order_status.setdefault(order, "acknowledged"), (await request.json())["taker"]
    if status in ("acknowledged", "running") and witness.takers.setdefault(order, taker) != taker:
        return problem(409, "order-taken")
    return JSONResponse({"status": status})


async def result(witness: Witness, request: Request, trick: str) -> Response:
    order, said = request.path_params["order"], await request.json()
    witness.results.append((order, said))
    if order not in witness.orders:
        return problem(404, "not-found")
    if trick == "lose-answer":
        return HangsUp()
    if said["status"] != "running" or witness.order_status.get(order) == "acknowledged":
        witness.order_status[order] = said["status"]
    return JSONResponse({"status": witness.order_status[order]})


async def plan(witness: Witness, request: Request, trick: str) -> Response:
    witness.planned.append(await request.json())
    return JSONResponse(witness.plan) if witness.plan is not None else problem(404, "not-found")


async def keys(witness: Witness, request: Request, trick: str) -> Response:
    return JSONResponse({"keys": witness.keys or witness.server_keys(), "statements": witness.statements})


def refuse_poison(witness: Witness, sent: batch.Batch) -> Response | None:
    for seq, line in enumerate(sent.lines, sent.first):
        if isinstance(line, bytes) and witness.poison(line):
            return problem(422, "entry-invalid", seq=seq) if witness.names_poison else problem(422, "body-invalid")
    return None


def store(witness: Witness, epoch: str, sent: batch.Batch) -> Response | None:
    """Take a batch as the design's transaction does, or say why not."""
    log = witness.logs.get(epoch) or Log(witness.device_key)
    size = len(log.lines)
    if sent.first > size:
        return problem(409, "log-gap", expected_seq=size)
    for place, line in enumerate(sent.lines[: size - sent.first]):
        if leaf_of(line) != leaf_of(log.lines[sent.first + place]):
            return problem(409, "log-fork", seq=sent.first + place)
    log.origin = f"{SERVER}/log/{APPLIANCE}/{epoch}"
    prev = leaf_of(log.lines[-1]).hex() if log.lines else entries.GENESIS_PREV
    for line in sent.lines[size - sent.first :]:
        if isinstance(line, bytes):
            entries.read(line, log.origin, len(log.lines), prev)
        prev = leaf_of(line).hex()
        log.lines.append(line)
    witness.logs[epoch] = log
    if sent.end > size:
        checkpoint = notes.read_checkpoint(sent.checkpoint, log.key)
        assert (checkpoint.size, checkpoint.root) == (len(log.lines), log.root)
        refilling = sent.held is not None and int(sent.held.split("\n")[1]) > sent.end
        log.receipt = None if refilling else witness.cosign(sent.checkpoint)
    return None


def forge(witness: Witness, log: Log, sent: batch.Batch, how: str) -> str | None:
    """Return a receipt that must not be believed, or none."""
    name = f"{SERVER}/server/witness"
    wrong = notes.Checkpoint(log.origin, sent.end, b"\x07" * 32)
    forgeries: dict[str, Callable[[], str | None]] = {
        "no-receipt": lambda: None,
        "garbage": lambda: "thank you",
        "bare": lambda: sent.checkpoint,
        "other-key": lambda: notes.cosign(sent.checkpoint, name, ed25519.new_seed(), 1),
        "unknown-name": lambda: notes.cosign(sent.checkpoint, f"{SERVER}/server/x", witness.witness_seed, 1),
        "other-device": lambda: witness.cosign(notes.sign_checkpoint(wrong, ed25519.new_seed())),
        "wrong-root": lambda: witness.cosign(notes.sign_checkpoint(wrong, witness.device_seed)),
    }
    return forgeries[how]()


async def incidents(witness: Witness, request: Request, trick: str) -> Response:
    kept = []
    for report in (await request.json())["incidents"]:
        if report["id"] == witness.refuses:
            return problem(422, "body-invalid")
        kept.append({name: report[name] for name in ("id", "epoch", "revision")})
    witness.incidents |= {report["id"]: report for report in (await request.json())["incidents"]}
    if trick == "lose-answer":
        return HangsUp()
    return JSONResponse({"incidents": kept})


async def patterns(witness: Witness, request: Request, trick: str) -> Response:
    witness.patterns.append(await request.json())
    return Response(status_code=204)


def app(witness: Witness) -> Starlette:
    api = "/agent/v1"
    closed = {"checkin": ("POST", "/checkin", checkin), "history": ("GET", "/log", history)}
    closed |= {"head": ("GET", "/log/{epoch}", head)}
    closed |= {"append": ("POST", "/log/{epoch}/entries", append)}
    closed |= {"put": ("PUT", "/log/{epoch}/entries/{seq}", put_entry)}
    closed |= {"incidents": ("PUT", "/incidents", incidents), "patterns": ("PUT", "/patterns", patterns)}
    closed |= {"policy": ("GET", "/policy", policy), "orders": ("GET", "/orders", orders)}
    closed |= {"ack": ("POST", "/orders/{order}/ack", acknowledge), "plan": ("POST", "/plan", plan)}
    closed |= {"result": ("POST", "/orders/{order}/result", result)}
    routes = [
        Route(api + path, call(witness, name, handler), methods=[method])
        for name, (method, path, handler) in closed.items()
    ]
    opened = [("enroll", "POST", enroll), ("nonce", "GET", nonce), ("token", "POST", token), ("keys", "GET", keys)]
    for name, method, handler in opened:
        routes.append(Route(f"{api}/{name}", call(witness, name, handler, open_=True), methods=[method]))
    return Starlette(routes=routes)


@contextlib.contextmanager
def running(witness: Witness, port: int = 0) -> Iterator[Witness]:
    """Serve on loopback, in a thread, until the block ends."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    witness.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(app(witness), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield witness
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
