"""Rows side by side, each as a process of its own: a line when it is done, and all that it said where it fails."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[2]
_END_S = 20.0  # what an interrupted row may take to end its servers and to remove its files


@dataclass
class Running:
    """A row's process, in a session of its own, and what it says."""

    name: str
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace").rstrip("\n")

    def end(self) -> None:
        """Interrupt it; what it leaves running is killed with its whole group."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(names: list[str], form: list[str], jobs: int) -> int:
    """Run the rows, so many at a time, in this order; return 0 when all passed, 1 when one did not."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began, failed, waiting = time.monotonic(), [], list(names)
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0), form))
            for one in _done(running):
                print(one.said(), flush=True)
                if one.process.returncode:
                    failed.append(one.name)
                    print(f"FAIL  {one.name:<10} ended with {one.process.returncode}", flush=True)
            time.sleep(0.05)
    finally:
        for one in running:
            one.end()
    told = f"failed: {', '.join(failed)}" if failed else "all passed"
    print(f"{len(names)} rows, {told}  ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


def _start(name: str, form: list[str]) -> Running:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    command = [sys.executable, "-m", "tests.faults", *form, name]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )
    return Running(name, process, output)


def _done(running: list[Running]) -> Iterator[Running]:
    """Take those out that have ended."""
    for one in [each for each in running if each.process.poll() is not None]:
        running.remove(one)
        with one.output:
            yield one
