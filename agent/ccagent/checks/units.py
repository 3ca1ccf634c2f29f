"""Whether a service runs: systemd is asked; where it does not run, the process table may still show the service."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum

from ccagent.host import Host, ProgramMissingError

_STAT = re.compile(r"\d+ \((.*)\) (\S)", re.DOTALL)
_COMM_LENGTH = 15  # the kernel cuts a process's name there (proc(5), comm)


class Running(StrEnum):
    """What can be said of a service."""

    YES = "active"
    NO = "inactive"
    ABSENT = "not_installed"
    UNTOLD = "unknown"


@dataclass(frozen=True)
class Unit:
    """A service, whether it runs, who said so, and why nobody can say if so."""

    name: str
    running: Running
    told_by: str
    why: str = ""


async def look(host: Host, name: str, process: str) -> Unit:
    """Return the state of the unit `name`.

    Without systemd a living process called `process` shows that the service runs; that none is seen shows nothing,
    because other users' processes may be hidden from us and a container sees only its own.
    """
    answer, why = await _ask_systemd(host, name)
    if answer is not None:
        return Unit(name, answer, "systemd")
    if process_runs(host, process):
        return Unit(name, Running.YES, "process")
    return Unit(name, Running.UNTOLD, "nobody", f"{why}, and no process called {process} is seen")


def process_runs(host: Host, name: str) -> bool:
    """Return whether a process of that name is seen alive in /proc."""
    for entry in host.place("/proc").glob("[0-9]*"):
        try:
            text = host.read_text(f"/proc/{entry.name}/stat", 4096)
        except OSError:
            continue
        match = _STAT.match(text)
        if match and match[1] == os.fsencode(name)[:_COMM_LENGTH].decode() and match[2] not in "ZXx":
            return True
    return False


async def _ask_systemd(host: Host, name: str) -> tuple[Running | None, str]:
    argv = ["systemctl", "show", "--property=LoadState,ActiveState", name]
    try:
        output = await host.run(argv, timeout_s=10)
    except ProgramMissingError:
        return None, "systemd is not on this machine"
    if not output.complete:
        offline = "not been booted with systemd" in output.stderr
        return None, "systemd does not run here" if offline else f"systemctl: {output.complaint()}"
    words = dict(line.split("=", 1) for line in output.stdout.splitlines() if "=" in line)
    return _running(words.get("LoadState", ""), words.get("ActiveState", "")), "systemctl said nothing of it"


def _running(load: str, active: str) -> Running | None:
    if load == "not-found":
        return Running.ABSENT
    if active in ("active", "reloading"):
        return Running.YES
    return Running.NO if active else None
