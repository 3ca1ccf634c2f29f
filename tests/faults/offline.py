"""Four weeks without a network: 280,000 entries, and a link that comes back.

The weeks pass at once, with the agent's own uploader and shared commits; what waits then goes to the real server on a
real PostgreSQL through the loops of the agent's daemon, while incidents break that somebody must see at once.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ccagent import budget, daemon, enrolment, finding, identity, incidents, queue
from ccagent.client import Client, TransientError
from ccagent.config import AgentSettings, Config
from ccagent.finding import Drift
from ccagent.incidents import Sighting
from ccagent.places import Places
from ccagent.scrubbing import scrub
from ccagent.simulation.simulated_time import SimulatedLoop
from ccagent.store import Store, Tx
from ccagent.uploader import Pace, Uploader
from ccshared import ids
from ccshared.entries import Draft
from ccshared.messages import Epochs, Head
from ccshared.vocabulary import Clock, Kind, Severity
from tests.devices import Running
from tests.faults import appliance, real_server
from tests.faults.hostile_line import Line
from tests.faults.rows import Row, most_kib, scratch, seeded

DAYS = 28
_AT_ONCE = 35  # entries of one patrol, in one shared commit
_OLD_INCIDENTS = 250
_VISIBLE_S = 5.0
_FULL = 100_000
_MAX_GROWTH_KIB = 64 * 1024
_FACTS = {"volumes": [{"device": f"/dev/vol{i}", "cipher": "aes-xts-plain64", "key_bits": 512} for i in range(7)]}


class Silent:
    """A line on which nobody ever answers; `tries` counts those that were not probes: each begins with the list."""

    async def epochs(self) -> Epochs:
        raise TransientError("no network")

    async def head(self, epoch: str) -> Head:
        raise TransientError("no network")


@dataclass
class Weeks:
    """What the weeks cost: commits of the store, those of them that sealed, and tries to deliver."""

    commits: int = 0
    patrols: int = 0
    tries: int = 0
    seconds: float = 0.0


def run(seed: int, n: int) -> Row:
    """Let n entries wait for 28 days, and deliver them."""
    logging.disable(logging.CRITICAL)
    row, chance = Row(), seeded(seed, "offline")
    with scratch() as folder:
        asyncio.run(_four_weeks(folder, row, chance, n))
    return row


async def _four_weeks(folder: Path, row: Row, chance: random.Random, n: int) -> None:
    async with real_server.serving(folder) as server:
        places, line = Places(folder / "agent"), Line(int(server.url.rpartition(":")[2]), str, str)
        await _settle_in(server, places, line)
        weeks = Weeks()
        await asyncio.to_thread(_weeks_pass, places, weeks, (n, chance))
        row.count("commits", weeks.commits)
        row.count("tries", weeks.tries)
        row.count("entries a second", round(n / weeks.seconds))
        row.expect(weeks.tries > 0, "nothing was tried in four weeks")
        extra = weeks.commits - weeks.patrols
        row.expect(extra <= weeks.tries + 2, f"{weeks.tries} tries took {extra} commits")
        with contextlib.closing(appliance.open_store(places)) as store:
            used = store.read(budget.used_percent)
            row.count("percent of the budget", used)
            row.expect(used < 80 and not store.read(budget.refused).count, f"{used} % of the budget is used")
            await _come_back(server, store, line, (row, n))
        await _judge(server, places, row, n)


async def _settle_in(server: Running, places: Places, line: Line) -> None:
    """Enrol while there is a network, and let the agent's way lead through the line from then on."""
    await enrolment.enroll(places, enrolment.Server(server.url), str(await server.code("acme", "acme-clinic")), "box")
    who = identity.load_enrolment(places)
    assert who is not None
    with contextlib.closing(appliance.open_store(places)) as store:
        async with Client(server.url, enrolment.device(who)) as client:
            await enrolment.ensure_epoch(store, places, client, appliance.STAMP)
        for number in range(_OLD_INCIDENTS):
            await _break(store, f"host-{number}", Severity.LOW)
    async with line.open():
        pass  # to have a port
    known = identity.load(places)
    assert known is not None
    identity.save(places, known.model_copy(update={"server_url": f"http://127.0.0.1:{line.port}"}))


def _weeks_pass(places: Places, weeks: Weeks, much: tuple[int, random.Random]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(_live(places, weeks, much))


async def _live(places: Places, weeks: Weeks, much: tuple[int, random.Random]) -> None:
    """Seal n entries in four weeks, a patrol's in one turn of the loop, while the uploader finds nobody."""
    (n, chance), who, began = much, identity.load_enrolment(places), time.monotonic()
    assert who is not None
    loop = asyncio.get_running_loop()
    with contextlib.closing(appliance.open_store(places)) as store:

        def count(statement: str) -> None:
            weeks.commits += statement.startswith(("COMMIT", "END"))

        store.read(lambda tx: tx.connection.set_trace_callback(count))
        pace = Pace(chance.uniform, loop.time, lambda: _now_ms(loop), step_s=120.0)
        task = asyncio.create_task(Uploader(store, cast("Client", Silent()), who, pace).run())
        weeks.patrols = n // _AT_ONCE
        for _ in range(weeks.patrols):
            await asyncio.gather(*(store.write(queue.append, _draft(_now_ms(loop))) for _ in range(_AT_ONCE)))
            await asyncio.sleep(DAYS * 86_400 / weeks.patrols)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        weeks.tries = store.read(queue.destination).retry_count
        store.read(lambda tx: tx.connection.set_trace_callback(None))
    weeks.seconds = time.monotonic() - began


def _now_ms(loop: asyncio.AbstractEventLoop) -> int:
    return appliance.STAMP[0] + round(loop.time() * 1000)


def _draft(at: int) -> Draft:
    """A check run of the length that they have."""
    body = {"check": "encryption", "host": "clinic-gateway", "status": "pass", "severity": "critical", "since": at}
    body |= {"reason": "every configured volume is encrypted", "facts": _FACTS, "hipaa_controls": ["164.312(a)(2)(iv)"]}
    return Draft(Kind.CHECK_RUN, secrets.token_hex(16), at, Clock.SYNC, secrets.token_hex(16), body)


async def _break(store: Store, host: str, severity: Severity) -> str:
    failed = finding.failed("firewall", host, "no ruleset", {}, Drift(severity, "firewall_off"))
    sighting = Sighting(scrub(b"k" * 32, failed), appliance.STAMP[0], ids.new_id(), "acme-clinic")
    await store.write(incidents.see, sighting)
    return sighting.new_id


async def _come_back(server: Running, store: Store, line: Line, what: tuple[Row, int]) -> None:
    """Run the agent's loops: the link comes, goes and comes while the backlog flows, each time with a new incident."""
    row, n = what
    settings = Config(agent=AgentSettings(state_dir=store.places.state_dir))
    agent = daemon.open_agent(settings, store.places, store)
    task = asyncio.create_task(daemon._network(agent))
    seen: list[float] = []
    before_kib = most_kib()
    try:
        for number in range(5 if n >= _FULL else 1):
            await asyncio.sleep(1.0)  # without a link
            broken = await _break(store, f"critical-{number}", Severity.CRITICAL)
            agent.found.set()  # as a patrol does
            agent.mirror_now.set()
            async with line.open():
                daemon.nudge(agent)  # as when the kernel tells of a link
                seen.append(await _visible_after(server, broken))
                await asyncio.sleep(1.0)
        async with line.open():
            daemon.nudge(agent, person=True)
            began = time.monotonic()
            while store.read(queue.status).waiting and time.monotonic() - began < 600:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            row.count("s to deliver", round(time.monotonic() - began))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    # The server is in this process too: neither side may hold the backlog.
    row.count("MiB grown", (most_kib() - before_kib) // 1024)
    row.expect(most_kib() - before_kib < _MAX_GROWTH_KIB, f"grew by {most_kib() - before_kib} KiB while it delivered")
    row.count("links", len(seen))
    row.count("ms until a critical incident is seen", round(statistics.median(seen) * 1000))
    row.expect(n < _FULL or max(seen) <= _VISIBLE_S, f"an incident was seen after {max(seen):.1f} s")


async def _visible_after(server: Running, incident: str) -> float:
    began = time.monotonic()
    async with server.db.platform() as scope:
        while time.monotonic() - began < 60:
            if await scope.conn.fetchval("SELECT count(*) FROM incidents WHERE id = $1", incident):
                break
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def _judge(server: Running, places: Places, row: Row, n: int) -> None:
    """All is on the server, each entry once and in its place."""
    async with server.db.platform() as scope:
        rows = await scope.conn.fetch("SELECT seq, bundle_hash FROM evidence_bundles ORDER BY seq")
        shown = await scope.conn.fetchval("SELECT count(*) FROM incidents")
    with contextlib.closing(appliance.open_store(places)) as store:
        (epoch,) = store.read(queue.all_epochs)
        here = store.read(_leaves, epoch.epoch)
    row.count("entries", len(here))
    row.expect(len(here) >= n - _AT_ONCE, "not all was sealed")
    row.expect([one["seq"] for one in rows] == list(range(len(here))), "an entry is missing or stands twice")
    row.expect([one["bundle_hash"] for one in rows] == here, "the server has other entries")
    row.expect(epoch.watermark == len(here), "not all is receipted")
    row.count("incidents", shown)


def _leaves(tx: Tx, epoch: str) -> list[bytes]:
    return [one[2] for one in appliance.rows_of(tx, epoch)]
