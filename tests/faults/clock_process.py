"""A running agent whose clocks are moved: `python -m tests.faults.clock_process DIRECTORY` is the agent.

It is the agent's own program with all its loops, but for a patrol that comes every second; a preloaded library adds to
its clocks what a file says.
"""

import asyncio
import contextlib
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ccagent import daemon
from ccagent.config import AgentSettings, ChecksSettings, Config
from ccagent.places import Places
from ccshared import canonical
from ccshared.batch import Stub
from tests.agent.witness_app import Witness, running
from tests.faults import kill, shim
from tests.faults.rows import Row

_SOURCE = Path(__file__).with_name("clock_shim.c")
_ROOT = Path(__file__).parents[2]
_YEARS_S = 3652 * 86_400
_SUSPENDED_S = 3 * 86_400
NEXT_TRY_S = 10.0


class Moved:
    """The agent as a process, and how far its clocks are from this machine's (s)."""

    def __init__(self, folder: Path, places: Places) -> None:
        self.file = folder / "clocks"
        self.places = places
        self.wall_s = self.boot_s = 0
        self.process: subprocess.Popen[bytes] | None = None

    def move(self, wall_s: int, boot_s: int = 0) -> None:
        self.wall_s, self.boot_s = self.wall_s + wall_s, self.boot_s + boot_s
        data = struct.pack("<qq", self.wall_s * 10**9, self.boot_s * 10**9)
        if not self.file.exists():
            self.file.write_bytes(data)
        with self.file.open("r+b") as opened:
            opened.write(data)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(_ROOT)]))
        preload = {"LD_PRELOAD": str(shim.build(_SOURCE)), "CC_CLOCK_FILE": str(self.file), "PYTHONPATH": path}
        preload["PATH"] = str(self.places.state_dir)  # no tool is found there, so that the checks are over at once
        command = [sys.executable, "-m", "tests.faults.clock_process", str(self.places.state_dir)]
        with subprocess.Popen(command, cwd=_ROOT, env={**os.environ, **preload}) as self.process:
            try:
                yield
            finally:
                self.process.send_signal(signal.SIGKILL)

    def cpu_s(self) -> float:
        """Return the processor time that the agent has used (s)."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def move_under_a_running_agent(folder: Path, row: Row, *, quick: bool) -> None:
    """Move wall and boot clock of one agent; what it seals must arrive, in order, with its steps told."""
    with running(Witness()) as witness:
        agent = Moved(folder, kill.enrolled(folder / "state", witness))
        agent.move(int(-time.time()) + 20)  # 1970
        with agent.on():
            row.expect(_within(20, lambda: bool(_bodies(witness))), "nothing arrived from a machine in 1970")
            steps = [int(time.time()), _YEARS_S, -2 * _YEARS_S, _YEARS_S, *[-3600] * 6]
            for by_s in steps[: 1 if quick else None]:
                agent.move(by_s)
                row.count("steps of a running agent")
                told = _within(NEXT_TRY_S, lambda by=by_s: abs(_steps(witness)[-1:][0] - by * 1000) < 60_000)
                row.expect(told, f"a step of {by_s} s was not told: {_steps(witness)}")
            _suspend(agent, witness, row)
    _in_order(witness, row)


def _suspend(agent: Moved, witness: Witness, row: Row) -> None:
    """The server fails, the agent waits some minutes, and is suspended for three days."""
    witness.tricks["append"].extend(["503"] * 1)
    before = len(witness.tricks["append"])
    agent.move(-3600)  # something to send
    row.expect(_within(10, lambda: len(witness.tricks["append"]) < before), "a step was not sent")
    used, asked = agent.cpu_s(), witness.calls.count("append")
    time.sleep(1.0)
    row.expect(witness.calls.count("append") == asked, "a failure was followed by a try at once")
    row.expect(agent.cpu_s() - used < 0.8, "the agent is busy while it waits")
    agent.move(_SUSPENDED_S, _SUSPENDED_S)
    row.count("suspensions of a running agent")
    again = _within(NEXT_TRY_S, lambda: witness.calls.count("append") > asked)
    row.expect(again, "no try within 10 s of a suspension of three days")


def _bodies(witness: Witness) -> list[dict[str, object]]:
    lines = [line for log in list(witness.logs.values()) for line in list(log.lines)]
    return [canonical.read(line) for line in lines if not isinstance(line, Stub)]


def _steps(witness: Witness) -> list[int]:
    told = [one["body"]["delta_ms"] for one in _bodies(witness) if one["kind"] == "clock_step"]  # type: ignore[index]
    return [0, *told]


def _in_order(witness: Witness, row: Row) -> None:
    (log,) = witness.logs.values()
    bodies = _bodies(witness)
    row.expect([one["seq"] for one in bodies] == list(range(len(log.lines))), "the order on the server is another")
    clocks = {one["clock"] for one in bodies}
    row.expect("stepped" in clocks, "no entry says that the clock was moved")


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    place = Path(sys.argv[1])
    checks = ChecksSettings()
    config = Config(agent=AgentSettings(state_dir=place, patrol_interval_s=1, checkin_interval_s=5), checks=checks)
    asyncio.run(daemon.run(config, Places(place)))
