"""A hostile network between the agent's own client and the real server on a real PostgreSQL, everything on loopback.

Nothing but a receipt that the server gave may acknowledge, each entry stands there once, and no answer, however long,
makes the agent large. How often a failing append is tried is counted on a loop whose hours pass at once.
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import logging
import math
import os
import random
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ccagent import enrolment, identity, queue
from ccagent.client import Cause, Client, ProtocolError, RequestError, TransientError
from ccagent.identity import DeviceKey, Enrolment
from ccagent.places import Places
from ccagent.simulation.simulated_time import SimulatedLoop
from ccagent.store import Store
from ccagent.uploader import Pace, Uploader
from ccshared import notes
from ccshared.messages import Head
from tests.devices import Running
from tests.faults import appliance, real_server
from tests.faults.hostile_line import FAULTS, Line
from tests.faults.memory_server import MemoryServer
from tests.faults.rows import Row, most_kib, scratch, seeded

MAX_TRIES, MAX_MEAN = 70, 56
MAX_GROWTH_KIB = 64 * 1024
_DAY_S = 86_400.0
_FULL = 300


def run(seed: int, n: int) -> Row:
    """Send through a line with n faults, then count the tries of a day so often."""
    logging.disable(logging.CRITICAL)
    row, chance = Row(), seeded(seed, "network")
    with scratch() as folder:
        asyncio.run(_through_the_line(folder, row, chance, n))
    # What the line did depends on how fast this machine is; the days must not.
    _tries_in_a_day(row, seeded(seed, "days"), 100 if n >= _FULL else 6)
    return row


async def _through_the_line(folder: Path, row: Row, chance: random.Random, n: int) -> None:
    async with real_server.serving(folder) as server:
        places = appliance.Places(folder / "agent")
        await enrolment.enroll(
            places, enrolment.Server(server.url), str(await server.code("acme", "acme-clinic")), "box"
        )
        who = identity.load_enrolment(places)
        assert who is not None
        name = next(iter(who.identity.witnesses))
        storm = _Storm(chance, n)
        upstream = int(server.url.rpartition(":")[2])
        line = Line(upstream, storm.next_fault, lambda receipt: _by_another_key(receipt, name))
        with contextlib.closing(Store.open(places)) as store:
            async with line.open():
                await _storm(store, line, storm, who, row)
            await _certificates(store, who, (folder, line), row)
        await _judge(server, places, line, row)


@dataclass
class _Storm:
    """So many faults, each kind once before chance chooses."""

    chance: random.Random
    left: int
    due: list[str] = field(default_factory=lambda: list(FAULTS))

    def next_fault(self) -> str:
        if self.left <= 0:
            return ""
        self.left -= 1
        if self.due and self.chance.random() < 0.5:
            return self.due.pop()
        return self.chance.choice(FAULTS) if self.chance.random() < 0.5 else ""


async def _storm(store: Store, line: Line, storm: _Storm, who: Enrolment, row: Row) -> None:
    # Agent, line and server share this process: what any of them keeps counts.
    before_kib, number = most_kib(), 0
    async with Client(f"http://127.0.0.1:{line.port}", enrolment.device(who), timeout_s=0.25) as client:
        uploader = _uploader(store, client, who)
        while storm.left > 0 or store.read(queue.status).waiting:
            with contextlib.suppress(RequestError):
                await enrolment.ensure_epoch(store, appliance.Places(store.places.state_dir), client, appliance.STAMP)
            if store.read(queue.current) is not None and storm.left > 0:
                for _ in range(storm.chance.randint(0, 6)):
                    number += 1
                    await store.write(queue.append, appliance.draft(number, 1200))
            with contextlib.suppress(RequestError):
                await uploader.look(now=storm.chance.random() < 0.2)
                await uploader.drain()
            _believes_only_the_server(store, line, row)
    row.expect(most_kib() - before_kib < MAX_GROWTH_KIB, f"the agent grew by {most_kib() - before_kib} KiB")
    row.count("requests", line.requests)
    row.count("KiB grown", max(most_kib() - before_kib, 0))
    row.count("forged receipts", line.forged)
    row.expect(line.forged > 0, "no forged receipt came by")
    row.count("kinds of fault", len(line.met) - 1)
    for name in FAULTS:
        row.expect(line.met.get(name, 0) > 0, f"no request met {name!r}")


def _uploader(store: Store, client: Client, who: Enrolment) -> Uploader:
    return Uploader(store, client, who, Pace(uniform=lambda low, high: 0.01, step_s=0.01))


def _believes_only_the_server(store: Store, line: Line, row: Row) -> None:
    held = store.read(lambda tx: tx.execute("SELECT receipt FROM receipts").fetchall())
    row.expect({one[0] for one in held} <= line.issued, "a receipt was believed that the server never gave")
    row.expect(len(store.read(queue.all_epochs)) <= 1, "the log ended because of the line")


def _by_another_key(receipt: str, name: str) -> str:
    """Return the receipt as a server would give it that has the name and not the key."""
    text, _, lines = receipt.partition("\n\n")
    ours = lines.split("\n")[0]
    return notes.cosign(f"{text}\n\n{ours}\n", name, b"x" * 32, 1_800_000_000)


async def _judge(server: Running, places: Places, line: Line, row: Row) -> None:
    """Each entry stands on the server once, in its place."""
    async with server.db.platform() as scope:
        rows = await scope.conn.fetch("SELECT seq, bundle_hash FROM evidence_bundles ORDER BY seq")
    with contextlib.closing(Store.open(places)) as store:
        (epoch,) = store.read(queue.all_epochs)
        here = [leaf.hex() for _, _, leaf in store.read(appliance.rows_of, epoch.epoch)]
        _believes_only_the_server(store, line, row)
    row.count("entries", len(here))
    row.expect([one["seq"] for one in rows] == list(range(len(here))), "an entry is missing or stands twice")
    row.expect([one["bundle_hash"].hex() for one in rows] == here, "the server has other entries")


async def _certificates(store: Store, who: Enrolment, where: tuple[Path, Line], row: Row) -> None:
    """A server that cannot prove who it is hears nothing; the next that can is believed."""
    folder, before = where
    authority = _Authority(folder)
    await store.write(queue.append, appliance.draft(900_000))
    watermark = store.read(queue.status).watermark
    with _trusting(authority.file):
        for name in ("expired", "other name", "other authority", "right"):
            line = Line(before.upstream, str, before.forge, tls=authority.context(name), issued=before.issued)
            async with line.open():
                async with Client(f"https://127.0.0.1:{line.port}", enrolment.device(who), timeout_s=2) as client:
                    error = await _failure(_uploader(store, client, who))
            row.count("certificates")
            now = store.read(queue.status)
            if name == "right":
                row.expect(error is None and now.waiting == 0, f"the right certificate was refused: {error}")
                continue
            told = error is not None and error.cause == Cause.CONFIGURATION
            row.expect(told, f"{name}: {error}")
            row.expect(line.requests == 0 and now.watermark == watermark, f"{name}: something was sent or believed")


async def _failure(uploader: Uploader) -> RequestError | None:
    try:
        await uploader.drain()
    except RequestError as error:
        return error
    return None


@contextlib.contextmanager
def _trusting(file: Path) -> Iterator[None]:
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(file)
    try:
        yield
    finally:
        os.environ.pop("SSL_CERT_FILE")
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


class _Authority:
    """A private authority, and certificates that are right or wrong in one way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / "authority.pem"
        self.file.write_bytes(_pem(self._certify(self.key, "authority", 1, None)))

    def context(self, kind: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        host = (
            x509.DNSName("other.example") if kind == "other name" else x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        )
        signer = ec.generate_private_key(ec.SECP256R1()) if kind == "other authority" else self.key
        made = self._certify(key, "server", -1 if kind == "expired" else 1, host, signer)
        file = self.folder / "server.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(secret + _pem(made))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certify(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        days: int,
        host: x509.GeneralName | None,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        day = dt.timedelta(days=1)
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, "authority"))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - 9 * day).not_valid_after(now + days * day)
        builder = builder.add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        return builder.sign(signer or self.key, hashes.SHA256())


def _pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


@dataclass
class Refusing(MemoryServer):
    """A server that answers whatever is asked, and fails at what is sent."""

    why: str = ""
    tries: int = 0

    async def append(self, epoch: str, body: bytes) -> Head:
        self.tries += 1
        if self.why == "no receipt":
            return Head(epoch=epoch, size=1, receipt=None)
        error = _WHY[self.why]()
        raise error


def _silent() -> RequestError:
    error = TransientError("it did not answer in time")
    error.timed_out = True
    return error


def _named(kind: type[RequestError], status: int, retry_after_s: float | None = None) -> RequestError:
    error = kind("x")
    error.silence, error.status = False, status
    if isinstance(error, TransientError):
        error.retry_after_s = retry_after_s
    return error


_WHY: dict[str, Callable[[], RequestError]] = {
    "time-out": _silent,
    "500": lambda: _named(TransientError, 500),
    "503, retry after 30 s": lambda: _named(TransientError, 503, 30.0),
    "503, retry after 1 s": lambda: _named(TransientError, 503, 1.0),
    "409": lambda: _named(ProtocolError, 409),
}


def _tries_in_a_day(row: Row, chance: random.Random, n: int) -> None:
    """Let append fail for a day in every way; the real loop decides when it is tried again."""
    most, worst = 0, 0.0
    for why in [*_WHY, "no receipt"]:
        seeds = [chance.getrandbits(32) for _ in range(n)]
        tries = {one: _day(why, one) for one in seeds}
        seed, highest = max(tries.items(), key=lambda day: day[1])
        mean = sum(tries.values()) / len(tries)
        row.expect(highest <= MAX_TRIES, f"{why}: {highest} tries in a day, by seed {seed}")
        row.expect(mean <= MAX_MEAN, f"{why}: {mean:.1f} tries a day in the mean")
        row.count("days of failing appends", len(tries))
        most, worst = max(most, highest), max(worst, mean)
    row.count("tries a day at most", most)
    row.count("tries a day in the worst mean", math.ceil(worst))


def _day(why: str, seed: int) -> int:
    server = Refusing(why=why)
    with scratch() as folder, contextlib.closing(appliance.open_store(appliance.settle_in(folder))) as store:
        appliance.begin(store)
        with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
            runner.run(_fail_all_day(store, server, seed))
    return server.tries


async def _fail_all_day(store: Store, server: MemoryServer, seed: int) -> None:
    known = identity.load(store.places)
    assert known is not None
    uniform, time = random.Random(seed).uniform, asyncio.get_running_loop().time
    pace = Pace(uniform=uniform, boottime=time, now_ms=lambda: appliance.STAMP[0] + round(time() * 1000), step_s=300.0)
    who = Enrolment(known, DeviceKey(appliance.DEVICE))
    task = asyncio.create_task(Uploader(store, cast("Client", server), who, pace).run())
    await asyncio.sleep(_DAY_S)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
