"""A Debian that boots: a tree made once, a layer above it that is thrown away, systemd-nspawn around both."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap", "nsenter": "util-linux"}
MIRROR = "http://deb.debian.org/debian"
# What a machine has before ours comes: systemd, a PostgreSQL, and what the packages say that they need.
INSIDE = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,postgresql,libexpat1,libstdc++6,zlib1g,procps"
BOOT_S = 90.0


class ContainerError(Exception):
    """The container does not do what a machine would; the message says what."""


def tree(suite: str, cache: Path) -> Path:
    """Return a Debian of this suite, made when there is none yet."""
    ready = cache / suite
    if not (ready / ".whole").exists():
        shutil.rmtree(ready, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={INSIDE}", suite, str(ready), MIRROR],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ContainerError(
                f"debootstrap ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
            )
        (ready / ".whole").touch()
    return ready


@dataclass
class Container:
    """A booted machine. `run` is a command there, as root."""

    root: Path
    log: Path
    nspawn: "subprocess.Popen[bytes]"
    leader: int = field(default=0)

    def run(self, *argv: str, given: str | None = None, code: int | None = 0, env: Sequence[str] = ()) -> str:
        """Run a command and return what it prints on both outputs; ContainerError when it ends otherwise."""
        inside = [
            "nsenter",
            f"--target={self.leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
        ]
        clean = [
            "/usr/bin/env",
            "-C",
            "/",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL=C.UTF-8",
            "HOME=/root",
            *env,
        ]
        done = subprocess.run(
            [*inside, *clean, *argv],
            input=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, check=False,
        )  # fmt: skip
        if code is not None and done.returncode != code:
            raise ContainerError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout[-3000:]}")
        return done.stdout

    def until(self, what: str, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something holds; ContainerError when it does not in time."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise ContainerError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.5)

    def write(self, path: str, text: str, owner: str = "root:root", mode: str = "0644") -> None:
        """Write a file there."""
        self.run("sh", "-c", f"install -D -m {mode} /dev/stdin {path} && chown {owner} {path}", given=text)

    def property(self, unit: str, name: str) -> str:
        """Return what systemd says of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def wait_until_booted(self) -> None:
        """Find the first process of the machine, and wait until systemd has come up."""
        self.until("a first process", self._found, BOOT_S)
        self.until("systemd is up", lambda: self._state() in ("running", "degraded"), BOOT_S)

    def reboot(self) -> None:
        """Let the machine stop by itself and start again on the same files."""
        self.run("systemctl", "--no-block", "reboot", code=None)
        self.until("the machine stops", lambda: self.nspawn.poll() is not None, BOOT_S)
        self.nspawn = _boot(self.root, self.log)
        self.wait_until_booted()

    def _found(self) -> bool:
        if self.nspawn.poll() is not None:
            raise ContainerError(f"systemd-nspawn ended: {self.log.read_text(errors='replace')[-2000:]}")
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        booting = [int(pid) for pid in children if _is_init(int(pid))]
        self.leader = booting[0] if booting else 0
        return bool(booting)

    def _state(self) -> str:
        try:
            return self.run("systemctl", "is-system-running", code=None).strip().splitlines()[-1]
        except (IndexError, subprocess.TimeoutExpired):
            return ""


@contextlib.contextmanager
def booted(base: Path, log: Path, bring: Sequence[Path]) -> Iterator[Container]:
    """Boot a copy of a tree with files in its /root, and leave nothing of it behind."""
    with tempfile.TemporaryDirectory(prefix="cc-nspawn-") as place, _layered(base, Path(place)) as root:
        for path in bring:
            shutil.copy(path, root / "root")
        (root / "etc/machine-id").write_text("")
        log.unlink(missing_ok=True)
        machine = Container(root, log, _boot(root, log))
        try:
            machine.wait_until_booted()
            yield machine
        finally:
            _switch_off(machine.nspawn)


def _boot(root: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start systemd-nspawn; it ends when the machine does, also to start again."""
    options = ("--quiet", "--register=no", "--keep-unit", "--private-network", "--resolv-conf=off", "--boot")
    with log.open("ab") as output:
        return subprocess.Popen(
            ["systemd-nspawn", *options, f"--machine=cc-{os.getpid()}", f"--directory={root}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def _layered(base: Path, place: Path) -> Iterator[Path]:
    """Mount a layer that can be written above a tree; its own mount ends with the block."""
    layer, work, root = (place / name for name in ("layer", "work", "root"))
    for path in (layer, work, root):
        path.mkdir()
    options = f"lowerdir={base},upperdir={layer},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def _switch_off(process: "subprocess.Popen[bytes]") -> None:
    """Let systemd stop all, as the power button does; then end it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_init(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"
    except OSError:
        return False
