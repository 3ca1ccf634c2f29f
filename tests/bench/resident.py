"""What the agent takes of a machine that has other things to do: memory, processor when idle, how soon it says status.

A real agent, enrolled at a real server, with the checks of this machine; Linux tells what it took.
"""

import asyncio
import compileall
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

import ccagent
import ccshared
from ccserver import localpg, migrate
from tests.bench.measure import Result, bounded, resident_mb
from tests.e2e.processes import Clinic, wait_until

SETTLED_S, IDLE_S, ASKED = 20.0, 45.0, 7
STEADY_MB, PEAK_MB, IDLE_PERCENT, STATUS_S = 60, 80, 0.5, 0.10
PACKAGES = (ccagent, ccshared, click)


def run() -> list[Result]:
    """Measure on the disk that holds the working directory."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as made:
        folder = Path(made)
        with localpg.start(folder / "postgres") as server:
            urls = server.create_database("cc_bench")
            asyncio.run(migrate.run(urls.owner, lambda _: None))
            clinic = Clinic.prepare(urls, folder)
            try:
                return _measured(clinic)
            finally:
                clinic.stop()


def _measured(clinic: Clinic) -> list[Result]:
    clinic.serve()
    clinic.enroll()
    clinic.agent.start("--config", str(clinic.config), "run")
    wait_until(lambda: _is_settled(clinic), 180)
    time.sleep(SETTLED_S)
    assert clinic.agent.process is not None
    pid = clinic.agent.process.pid
    before = _processor_s(pid)
    time.sleep(IDLE_S)
    idle = (_processor_s(pid) - before) / IDLE_S * 100
    files = [*_files(), *clinic.config.parent.joinpath("agent").rglob("*")]
    asked = statistics.median(_status_s(clinic, files) for _ in range(ASKED))
    return [
        bounded("resident", "agent: memory, steady", resident_mb(pid), STEADY_MB, "MB"),
        bounded("resident", "agent: memory, at most", resident_mb(pid, "VmHWM"), PEAK_MB, "MB"),
        bounded("resident", "agent: one processor's share when idle", idle, IDLE_PERCENT, "%"),
        bounded("resident", "cc-agent status, its files not in the page cache", asked, STATUS_S, "s"),
    ]


def _is_settled(clinic: Clinic) -> bool:
    """Whether the first round is over, all that it sealed receipted, and the agent has begun to wait for the next."""
    said = clinic.command("status", "--json", code=None)
    told = json.loads(said.stdout) if said.returncode == 0 else {}
    return bool(told.get("last_patrol_at_ms") and told["last_receipt_at_ms"]) and told["waiting"] == 0


def _status_s(clinic: Clinic, files: list[Path]) -> float:
    for path in files:
        if path.is_file():
            _evict(path)
    began = time.perf_counter()
    clinic.command("status")
    return time.perf_counter() - began


def _files() -> Iterator[Path]:
    """Return the files of the programs that are asked; Python's own library is everybody's, and stays."""
    for package in PACKAGES:
        folder = Path(str(package.__file__)).parent
        compileall.compile_dir(folder, quiet=2)
        yield from folder.rglob("*.pyc")
        yield from folder.rglob("*.py")


def _evict(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _processor_s(pid: int) -> float:
    """Return the processor time (s) that a process took so far, with its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
