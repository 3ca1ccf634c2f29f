"""Evidence of 64 appliances that arrives at once, beside the floor and beside FastAPI with SQLAlchemy.

Entries are check runs of 2 KB. Batches are made, signed and packed before the clock starts; the server's answer is held
against the device's own root afterwards.
"""

import asyncio
import gzip
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
import uvloop

from ccshared import merkle, notes
from ccshared.batch import Batch, write
from tests.bench import floor_rows, load, peers
from tests.bench.floor_rows import Floor
from tests.bench.measure import Pair, Result, bounded, faster, resident_mb, times
from tests.bench.real_server import serving
from tests.devices import Device

APPLIANCES, LINES, ROUNDS, CONNECTIONS = 64, 100, 7, 8
PEERED = 16  # of them, beside the peer: with all, one round of its would take a quarter of a minute
AT_LEAST, OF_SATURATED, OF_ADD_ALL, OF_BULK, MEMORY_MB = 0.6, 0.35, 4.0, 1.5, 120
OURS = "/agent/v1/log/{epoch}/entries"
PACKED = "Content-Encoding: gzip\r\n"
CHECKS = ("patching", "antivirus", "backup", "logging", "firewall", "encryption")
PAIRS, WARM_UP = 4, 2


@dataclass
class Sender:
    """An appliance with its batches, packed, and the root after each; `size` is how many entries a target holds."""

    device: Device
    bodies: list[bytes]
    roots: list[bytes]


def entries(device: Device, count: int) -> None:
    """Seal check runs of some 2 KB."""
    for number in range(count):
        check = CHECKS[number % len(CHECKS)]
        body = {"check": check, "host": "box", "status": "pass", "severity": "low", "reason": "all is well"}
        facts = {f"fact_{place}": f"{number:08x}{place:04x}" * 6 for place in range(16)}
        device.seal(body=body | {"since": 1, "facts": facts, "hipaa_controls": ["164.312(b)"]})


def sender(device: Device, batches: int) -> Sender:
    """Seal and pack so many batches."""
    made = Sender(device, [], [])
    size, compact = 0, list[bytes]()
    for _ in range(batches):
        entries(device, LINES)
        lines = device.payloads[size:]
        size, compact = merkle.extend(size, compact, [merkle.leaf_hash(line) for line in lines])
        root = merkle.root_of(compact)
        signed = notes.sign_checkpoint(notes.Checkpoint(device.origin, size, root), device.seed)
        body = write(Batch(signed, size - len(lines), None, lines))
        made.bodies.append(load.request("POST", "{path}", device.token, gzip.compress(body, 6), PACKED))
        made.roots.append(root)
    return made


class Arriving:
    """The same batches of the same appliances, each round the next, sent to one target."""

    def __init__(
        self, lines: Sequence[load.Line], senders: Sequence[Sender], path: str, turn: Iterator[int] | None = None
    ) -> None:
        self._lines, self._senders = lines, senders
        self._path = path
        self.turn = turn or itertools.count()

    async def block(self) -> None:
        """Send the next batch of every appliance."""
        turn = next(self.turn)
        calls = [[self._to(one.bodies[turn], one.device)] for one in self._senders]
        answers = await load.each(self._lines, calls)
        self.verify(turn, [one[0] for one in answers])

    def _to(self, call: bytes, device: Device) -> bytes:
        return call.replace(b"{path}", self._path.format(epoch=device.epoch).encode(), 1)

    def verify(self, turn: int, answers: Sequence[bytes]) -> None:
        """Hold the receipts against the appliances' own roots."""
        for one, answer in zip(self._senders, answers, strict=True):
            witnesses = one.device.server.keys.witnesses
            receipt = notes.read_receipt(orjson.loads(answer)["receipt"], one.device.public_key, witnesses)
            assert receipt.checkpoint.root == one.roots[turn]


async def measure() -> list[Result]:
    """Return the rows: beside the floor, the saturated floor, and both ways of the peer; and the memory of it."""
    async with serving() as bench:
        senders = [sender(one, PAIRS * (ROUNDS + WARM_UP)) for one in await bench.devices(APPLIANCES)]
        (admin,) = await floor_rows.connect(bench.running.urls.admin, 1)
        await admin.execute(floor_rows.TABLE + ";" + peers.TABLES)
        ours = Arriving(await load.lines(bench.port, APPLIANCES), senders, OURS)
        transactions = [floor_rows.values(one.device.payloads[:LINES]) for one in senders]
        one, many = [
            Floor(await floor_rows.connect(bench.running.urls.admin, count), transactions).block()
            for count in (1, CONNECTIONS)
        ]
        rows = [
            await _row(f"{APPLIANCES} appliances ÷ the floor, one connection", Pair(ours.block, one), AT_LEAST),
            await _row(f"÷ the floor saturated, {CONNECTIONS} connections", Pair(ours.block, many), OF_SATURATED),
        ]
        memory = resident_mb(bench.pid, "VmHWM")
        port, some = bench.peer(), senders[:PEERED]
        few = Arriving(await load.lines(bench.port, PEERED), some, OURS, ours.turn)
        for way, name, at_least in (("orm", "add_all", OF_ADD_ALL), ("bulk", "bulk insert", OF_BULK)):
            await admin.execute("TRUNCATE peer_logs, peer_bundles")
            theirs = Arriving(await load.lines(port, PEERED), some, f"/{way}/{{epoch}}/entries")
            rows.append(
                await _row(f"{PEERED} ÷ FastAPI + SQLAlchemy, {name}", Pair(few.block, theirs.block), at_least, PEERED)
            )
        await admin.close()
        return [*rows, bounded("ingest", "server: resident at most, one worker", memory, MEMORY_MB, "MB")]


async def _row(what: str, pair: Pair, at_least: float, appliances: int = APPLIANCES) -> Result:
    return faster("ingest", what, await times(pair, ROUNDS), at_least, appliances * LINES)


def run() -> list[Result]:
    """Measure from the main thread, because PostgreSQL ends with the thread that started it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure())
