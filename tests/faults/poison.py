"""Entries that the server refuses: good ones flow soon after the trouble; what was withheld arrives once it can.

Real agents deliver to the real app, which a layer around it makes refuse by rule, as a faulty release would: one entry
in ten thousand, all for an hour, a kind for a week, what is too large for a proxy on the way. Rows that no server can
read (not UTF-8, keys twice) are put in the store as a faulty agent would have left them. The clock is the agent's own.
"""

import asyncio
import gzip
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ccagent import queue, withholding
from ccagent.store import Tx
from ccagent.uploader import Pace
from ccserver.localpg import Urls
from ccshared import ids, merkle
from ccshared.entries import Draft
from ccshared.vocabulary import Clock, Kind
from tests.devices import Running
from tests.faults import central
from tests.faults.central import Appliance, Receipts
from tests.faults.rows import Row, scratch, seeded

_SOON_S = 300.0
_HOUR_S = 3600.0
_OF_MANY = 10_000
_UNREADABLE = [b"\xff\xfe not utf-8", b'{"at":1,"at":2}', b"{}", b'{"leaf":1}']

Judge = Callable[[bytes], bool]


@dataclass
class Refusing:
    """The app, behind a layer that refuses requests: `bad` says of each line whether it is refused."""

    app: Any = None
    bad: Judge | None = None
    largest: int | None = None  # of a body, as a proxy on the way allows

    def around(self, app: Any) -> Any:
        self.app = app
        return self.call

    async def call(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or "/entries" not in scope["path"]:
            await self.app(scope, receive, send)
            return
        body = await _read(receive)
        status, code, seq = self._verdict(scope["path"], body)
        if status:
            await _problem(send, status, code, seq)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return messages.pop() if messages else await receive()

        await self.app(scope, again, send)

    def _verdict(self, path: str, body: bytes) -> tuple[int, str, int | None]:
        if self.largest is not None and len(body) > self.largest:
            return 413, "too-large", None
        lines = gzip.decompress(body).split(b"\n")
        put = not path.endswith("/entries")
        first = 0 if put else json.loads(lines[0])["first"]
        for place, line in enumerate(lines if put else lines[1:-1]):
            if self.bad is not None and not line.startswith(b'{"leaf":') and self.bad(line):
                return 422, "entry-invalid", None if put else first + place
        return 0, "", None


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _problem(send: Any, status: int, code: str, seq: int | None) -> None:
    told = {"type": f"urn:central-command:problem:{code}", "title": code, "status": status, "detail": "as if"}
    content = orjson.dumps(told | ({"seq": seq} if seq is not None else {}) | {"request_id": "0"})
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def run(seed: int, n: int) -> Row:
    """Go through each kind of poison with n good entries around."""
    row, chance = Row(), seeded(seed, "poison")
    with central.quiet(), scratch() as folder, central.postgres(durable=False) as running:
        asyncio.run(_all(row, chance, n, (folder, running.urls(central.LIVE))))
    return row


@dataclass
class World:
    """One appliance at a server that refuses; `n` good entries stand around what is refused."""

    row: Row
    chance: random.Random
    n: int
    layer: Refusing
    one: Appliance
    urls: Urls
    late_s: float = 0.0  # how long after the trouble's end the agent's present wait ends

    async def seal(self, kind: Kind = Kind.HEARTBEAT, text: str = "good", number: int = 1) -> None:
        for _ in range(number):
            salt = f"{self.chance.getrandbits(128):032x}"
            draft = Draft(kind, ids.new_bundle_id(), self.one.now_ms, Clock.UNSYNC, salt, {"text": text})
            await self.one.store.write(queue.append, draft)

    async def for_hours(self, hours: float) -> None:
        """Let time go by as the agent's loop does, idle where nothing waits."""
        until = self.one.s + hours * _HOUR_S
        while self.one.s < until:
            if await self.one.once():
                self.one.s = min(self.one.s + 300.0, until)
        self.late_s = self.one.s - until

    async def flows(self, what: str) -> None:
        """The trouble has ended: what is good must be receipted within five minutes by the agent's clock."""
        took = self.late_s + await self.one.until(2)
        self.row.expect(self.one.waiting() == 0, f"{what}: {self.one.waiting()} entries wait")
        self.row.expect(took <= _SOON_S, f"{what}: the good ones flowed after {took:.0f} s")
        self.row.count("s the slowest", max(0, round(took) - self.row.counts.get("s the slowest", 0)))

    async def mended(self, what: str, left: int = 0) -> None:
        """The server takes all again: what was withheld must come within what the agent waits at most."""
        self.layer.bad = self.layer.largest = None
        self.row.count("withheld", self.one.store.read(withholding.count))
        await self.for_hours(1.2)
        stay = self.one.store.read(withholding.count)
        self.row.expect(stay == left, f"{what}: {stay} payloads are withheld still, not {left}")
        for trouble in await central.differences(self.urls, self.one):
            self.row.expect(False, f"{what}: {trouble}")
        missing = "SELECT count(*)::int FROM evidence_bundles WHERE payload IS NULL AND appliance_id = $1"
        ((count,),) = await central.rows(self.urls, missing, self.one.uploader._identity.appliance_id)
        self.row.expect(count == left, f"{what}: {count} payloads are not at the server")


async def _all(row: Row, chance: random.Random, n: int, where: tuple[Path, Urls]) -> None:
    folder, urls = where
    layer = Refusing()
    async with central.serving(central.settings(folder), urls, layer.around) as server:
        for kind in _KINDS:
            await _one_kind(World(row, chance, n, layer, None, urls), kind, server, folder / kind.__name__)  # type: ignore[arg-type]


async def _one_kind(world: World, kind: Callable[[World], Awaitable[None]], server: Running, folder: Path) -> None:
    pace = Pace(uniform=world.chance.uniform)
    async with central.appliance(server, folder, Receipts(), pace) as one:
        world.one = one
        await kind(world)
        world.row.count("kinds")
        world.row.count("entries", one.store.read(queue.size_of, one.epoch.epoch))


async def _one_in_many(world: World) -> None:
    """One in ten thousand, at least one, is refused for good; the rest need not wait for it longer than an hour."""
    await world.seal(number=world.n)
    for _ in range(max(1, world.n // _OF_MANY)):
        await world.seal(text="poison")
        await world.seal(number=world.n // 4)
    world.layer.bad = lambda line: b'"text":"poison"' in line
    await world.one.until(3 + world.n // _OF_MANY)
    world.row.expect(world.one.waiting() == 0, f"one in many: {world.one.waiting()} entries wait behind it")
    await world.seal(number=5)
    await world.flows("one in many")
    await world.mended("one in many")


async def _all_for_an_hour(world: World) -> None:
    """Everything is refused for an hour."""
    await world.one.until(1)
    world.layer.bad = lambda line: b'"kind":"genesis"' not in line
    for _ in range(6):
        await world.seal(number=max(5, world.n // 20))
        await world.for_hours(1 / 6)
    world.layer.bad = None
    await world.flows("all for an hour")
    await world.mended("all for an hour")


async def _a_kind_for_a_week(world: World) -> None:
    """A week long one kind is refused; others flow all the time."""
    world.layer.bad = lambda line: b'"kind":"escalation"' in line
    for _ in range(7):
        await world.seal(Kind.ESCALATION, number=3)
        await world.seal(number=max(5, world.n // 20))
        await world.for_hours(24)
        world.row.expect(world.one.waiting() == 0, f"a kind for a week: {world.one.waiting()} entries wait after a day")
    await world.seal(number=5)
    await world.flows("a kind for a week")
    await world.mended("a kind for a week")


async def _oversize(world: World) -> None:
    """A proxy lets only small bodies through, and one entry is larger."""
    world.layer.largest = 20_000
    await world.seal(number=10)
    await world.seal(text="".join(f"{world.chance.getrandbits(256):064x}" for _ in range(2000)))
    await world.seal(number=10)
    await world.one.until(3)
    world.row.expect(world.one.waiting() == 0, f"oversize: {world.one.waiting()} entries wait behind it")
    await world.seal(number=5)
    await world.flows("oversize")
    await world.mended("oversize")


async def _unreadable(world: World) -> None:
    """What no server can read: it stays withheld for ever, and the rest flows."""
    for bad in _UNREADABLE:
        await world.seal(number=5)
        await world.one.store.write(_put_in, world.one.epoch.epoch, bad)
    await world.seal(number=5)
    await world.one.until(3 * len(_UNREADABLE))
    world.row.expect(world.one.waiting() == 0, f"unreadable: {world.one.waiting()} entries wait behind it")
    await world.seal(number=5)
    await world.flows("unreadable")
    await world.mended("unreadable", left=len(_UNREADABLE))


_KINDS = [_one_in_many, _all_for_an_hour, _a_kind_for_a_week, _oversize, _unreadable]


def _put_in(tx: Tx, epoch: str, payload: bytes) -> None:
    seq = queue.size_of(tx, epoch)
    total = tx.execute("SELECT max(total_bytes) FROM queued_evidence WHERE epoch = ?", (epoch,)).fetchone()[0]
    tx.execute(
        """
        INSERT INTO queued_evidence (epoch, seq, bundle_id, bundle_json, leaf, total_bytes, created_at)
        VALUES (?, ?, ?, ?, ?, ?, 1)
        """,
        (epoch, seq, f"{seq:032x}", payload, merkle.leaf_hash(payload), total + len(payload)),
    )
    tx.known.clear()
