"""The preloaded shim: built when first needed, and driven from within the process that it is loaded into."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

WRITE, SYNC, TRUNCATE, NAME, OPEN = 1, 2, 4, 8, 16
ONCE, FROM_THEN_ON, SHORT_ONCE, SHORT_THEN_FAIL = range(4)


class NoCompilerError(Exception):
    """There is no C compiler here to build the shim with: install gcc."""


@functools.cache
def build(source: Path = SOURCE) -> Path:
    """Return a source's shared object, compiled where it is not there yet."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError(NoCompilerError.__doc__)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir(), f"cc-faults-{os.geteuid()}-{digest}.so")
    if not target.exists() or target.stat().st_uid != os.geteuid():
        made = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
        made.replace(target)
    return target


def run(module: str, *args: str, timeout_s: float = 600) -> str:
    """Run a module of ours with the shim preloaded and return what it printed; CalledProcessError when it fails."""
    root = SOURCE.parents[2]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(root)]))
    environ = {**os.environ, "LD_PRELOAD": str(build()), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        env=environ, cwd=root, stdout=subprocess.PIPE, text=True, check=True, timeout=timeout_s,
    )  # fmt: skip
    return done.stdout


class Shim:
    """The shim in this very process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.shim_seen.restype = ctypes.c_long
        self._library.shim_room.restype = ctypes.c_longlong

    def watch(self, directory: Path, log: Path | None = None) -> None:
        self._library.shim_watch(os.fsencode(directory), os.fsencode(log) if log else None)

    def fail(self, mask: int, nth: int, error: int = 0, mode: int = ONCE) -> None:
        """Let the nth call (1 is the first; 0 none) of these kinds fail from now on."""
        self._library.shim_fail(mask, ctypes.c_long(nth), error, mode)

    @property
    def seen(self) -> int:
        return int(self._library.shim_seen())

    def quota(self, size: int) -> None:
        """Let files grow by so many bytes altogether; -1 for as many as they like."""
        self._library.shim_quota(ctypes.c_longlong(size))

    @property
    def room(self) -> int:
        return int(self._library.shim_room())

    def mark(self, text: str) -> None:
        data = text.encode()
        self._library.shim_mark(data, len(data))
