"""A fleet by `cc-agent simulate` against the real server and PostgreSQL: the scenarios of `tests/bench/scenarios`."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ccserver import localpg, migrate
from tests.bench.forwarding import Forwarder, forwarding
from tests.bench.measure import Result
from tests.faults import central

SCENARIOS = Path(__file__).parent / "scenarios"
SIZES = (500, 1000, 2000, 4000, 8000, 10_000)
TRIAL_S = 90
RESTARTS_AT_S, APART_S = 35.0, 20.0
SLOW_S = 0.05
_DOUBLED = "SELECT count(*) - count(DISTINCT (site_id, log_id, seq)) AS n FROM evidence_bundles"
_STORED = "SELECT count(*) AS n FROM evidence_bundles"


@dataclass
class Stand:
    """Where a scenario is played: folder, servers behind one address, and how many appliances have a code by now."""

    folder: Path
    url: str
    urls: localpg.Urls
    processes: list[central.Process]
    front: Forwarder
    coded: int = 0
    codes: list[str] = field(default_factory=list)

    def play(self, name: str, **changes: object) -> "Told":
        """Play a scenario with these lines changed."""
        text = (SCENARIOS / f"{name}.toml").read_text("utf-8")
        for key, value in {"server_url": self.url, **changes}.items():
            text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text, count=1)
        file, codes = self.folder / f"{name}.toml", self.folder / "codes"
        file.write_text(text, "utf-8")
        self._make_codes(int(re.findall(r"(?m)^appliances = (\d+)", text)[0]))
        codes.write_text("\n".join(self.codes), "utf-8")
        command = [central.BIN / "cc-agent", "simulate", file, "--state", self.folder / "fleet", "--json"]
        before = sum(_processor_s(one) for one in self.processes)
        done = subprocess.run([*command, "--codes-file", codes], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):
            raise RuntimeError(f"the scenario {name} was not played: {done.returncode}")
        server_s = sum(_processor_s(one) for one in self.processes) - before
        return Told(**json.loads(done.stdout), server_s=server_s)

    def _make_codes(self, count: int) -> None:
        if count > self.coded:
            self.codes = asyncio.run(_codes(self.processes[0], count - self.coded))
            self.coded = count


@dataclass(frozen=True)
class Told:
    """What `cc-agent simulate --json` said, and how long the servers' processors were busy meanwhile (s)."""

    summary: dict[str, Any]
    objectives: list[dict[str, Any]]
    interrupted: bool
    held: bool
    server_s: float

    def result(self, name: str) -> Result:
        """Return it as a row."""
        one = self.summary
        counted = f"{one['appliances']:,} appliances, {one['requests']:,} requests, {one['errors']} errors"
        what = f"{counted}, p99 {one['p99_ms']:.0f} ms"
        failed = [f"{each['objective']} {each['got']}" for each in self.objectives if not each["held"]]
        target = ", ".join(f"{each['objective']} {each['wanted']}" for each in self.objectives)
        return Result(name, what, None, None, None, target + "".join(f"; got {each}" for each in failed), self.held)


@contextlib.contextmanager
def stand(servers: int = 1, slow_s: float = 0.0) -> Iterator[Stand]:
    """Start PostgreSQL, durable on disk, and so many servers of it behind one address."""
    with contextlib.ExitStack() as stack:
        folder = Path(os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix="cc-"))))
        postgres = stack.enter_context(localpg.start(folder / "pg", durable=True))
        urls = postgres.create_database(central.LIVE)
        asyncio.run(migrate.run(urls.owner, lambda _: None))
        if slow_s:
            urls = replace(urls, server=stack.enter_context(_slow(folder, urls.server, slow_s)))
        made = central.settings(folder)
        front = made if servers == 1 else central.settings_at(made)
        processes = []
        for _ in range(servers):
            one = made if servers == 1 else central.settings_at(made)
            processes.append(central.Process(one, urls, {"CCSERVER_PUBLIC_URL": front.public_url, **central.UNLIMITED}))
        forwarder = Forwarder([one.made.port for one in processes])
        if servers > 1:
            stack.enter_context(forwarding(forwarder, front.port))
        for one in processes:
            one.start()
            stack.callback(one.kill, signal.SIGTERM)
            asyncio.run(one.ready())
        yield Stand(folder, front.public_url, urls, processes, forwarder)


@contextlib.contextmanager
def _slow(folder: Path, url: str, delay_s: float) -> Iterator[str]:
    """Yield the URL of the same database whose answers come late."""
    here = folder / "slow"
    here.mkdir()
    real = re.findall(r"host=([^&]+)", url)[0]
    name = next(Path(real.replace("%2F", "/")).glob(".s.PGSQL.*[0-9]"))
    with forwarding(Forwarder([name], delay_s), here / name.name):
        yield url.replace(real, str(here))


async def _codes(process: central.Process, count: int) -> list[str]:
    async with central.at(process.made, process.urls) as running:
        return [str(await running.code("acme", "acme-clinic")) for _ in range(count)]


def _processor_s(process: central.Process) -> float:
    if process.child is None:
        return 0.0
    fields = Path(f"/proc/{process.child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steady() -> list[Result]:
    """Find the largest fleet that one process and one server carry, and let it go on for five minutes."""
    most = int(os.environ.get("STEADY_MOST", SIZES[-1]))
    carried, told = 0, None
    with stand() as place:
        for size in sorted({min(size, most) for size in SIZES}):
            told = place.play("steady", appliances=size, duration_s=TRIAL_S)
            _say(f"steady: {size:,} for {TRIAL_S} s: {'held' if told.held else 'not held'}; {_burden(told)}")
            if not told.held:
                break
            carried = size
        told = place.play("steady", appliances=max(carried, min(SIZES[0], most)))
        _say(f"steady: {_burden(told)}")
    return [told.result("steady")]


def _burden(told: Told) -> str:
    one = told.summary
    busy, memory = one["processor_s"] / one["real_s"], one["peak_memory_bytes"] / 2**20
    return (
        f"p50 {one['p50_ms']:.0f} ms, p99 {one['p99_ms']:.0f} ms, {one['errors']} errors;"
        f" processors busy: fleet {busy:.0%}, server {told.server_s / one['real_s']:.0%}; fleet {memory:.0f} MiB"
    )


def storm() -> list[Result]:
    """Let all return after 72 hours: in the end every entry is stored once and receipted."""
    with stand() as place:
        told = place.play("storm")
        return [told.result("storm"), _once("storm", place, told)]


def flap() -> list[Result]:
    """Let links flap, appliances be off, and incidents stay open."""
    with stand() as place:
        told = place.play("flap")
        return [told.result("flap"), _once("flap", place, told)]


def slow() -> list[Result]:
    """Let every answer of the database come late."""
    with stand(slow_s=SLOW_S) as place:
        told = place.play("slow")
        return [told.result("slow"), _once("slow", place, told)]


def rolling() -> list[Result]:
    """Restart two servers in turn while the fleet goes on."""
    with stand(servers=2) as place, _beside(lambda: _restart(place)):
        told = place.play("rolling")
        return [told.result("rolling"), _once("rolling", place, told)]


@contextlib.contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(120)


def _restart(place: Stand) -> None:
    """Take each server out of the way of new connections, end it, start it again, and let it in again."""
    until = time.monotonic() + 300
    while not list(place.folder.glob("fleet/*/agent.db-wal")) and time.monotonic() < until:
        time.sleep(0.5)
    time.sleep(RESTARTS_AT_S)
    for one in place.processes:
        place.front.targets.remove(one.made.port)
        one.kill(signal.SIGTERM)
        one.start()
        asyncio.run(one.ready())
        place.front.targets.append(one.made.port)
        _say(f"rolling: the server at {one.made.port} was restarted")
        time.sleep(APART_S)


def _once(name: str, place: Stand, told: Told) -> Result:
    """Expect the database to hold each entry that was receipted once, and no other."""
    stored, doubled = [asyncio.run(central.rows(place.urls, query))[0]["n"] for query in (_STORED, _DOUBLED)]
    receipted = told.summary["receipted"]
    what = f"{receipted:,} entries receipted, {stored:,} stored, {doubled} of them twice"
    return Result(name, what, None, None, None, "each receipted entry once", stored == receipted and not doubled)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
