"""A machine for checks to look at: a tree of real files and a directory of real programs, both in a temporary place."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ccagent.host import Host


@dataclass(frozen=True)
class Machine:
    """Everything is below `place`; nothing of the machine that runs the test is seen."""

    place: Path

    def host(self, *, privileged: bool = True) -> Host:
        """Return what a check is given."""
        return Host("front-desk", self.place / "root", str(self.place / "bin"), privileged)

    def program(self, name: str, output: str = "", code: int = 0, complaint: str = "") -> None:
        """Install a program that notes how it was called, prints and exits."""
        directory = self.place / "bin"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.out").write_text(output)
        (directory / f"{name}.err").write_text(complaint)
        self.script(
            name,
            f'echo "$@" >> {directory}/{name}.calls\n/bin/cat {directory}/{name}.out\n'
            f"/bin/cat {directory}/{name}.err >&2\nexit {code}",
        )

    def script(self, name: str, body: str) -> None:
        """Install a program that runs this shell text."""
        directory = self.place / "bin"
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of each call so far."""
        return (self.place / "bin" / f"{name}.calls").read_text().splitlines()

    def file(self, path: str, content: str | bytes = "", at: datetime | None = None) -> Path:
        """Put a file on the machine, last changed `at`."""
        place = self.place / "root" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        if at is not None:
            os.utime(place, (at.timestamp(), at.timestamp()))
        return place

    def link(self, path: str, target: str) -> None:
        """Put a symbolic link on the machine."""
        place = self.place / "root" / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def unit(self, active: str, load: str = "loaded") -> None:
        """Let systemd say the same of every unit."""
        self.program("systemctl", f"LoadState={load}\nActiveState={active}\n")

    def without_systemd(self) -> None:
        """Let systemctl answer as where systemd did not start the machine."""
        self.program(
            "systemctl",
            code=1,
            complaint="System has not been booted with systemd as init system (PID 1). Can't operate.\n"
            "Failed to connect to bus: Host is down\n",
        )

    def process(self, name: str, state: str = "S") -> None:
        """Show a process in /proc."""
        self.file("/proc/4711/stat", f"4711 ({name}) {state} 1 4711 4711 0 -1 4194560 0")
