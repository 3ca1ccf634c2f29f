"""Running one step: an argument vector in a session of its own, with a limit that ends all that came of it."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

from ccagent.helper import descendants

MAX_OUTPUT = 64 * 1024
TERM_S = 2.0  # between the request to end and the end
DRAIN_S = 0.5
LOOK_S = 0.05
HALT_S = 0.3

# Nothing of our own environment: what stands in it may be secret, or mislead a program.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "LANG": "C",
    "DEBIAN_FRONTEND": "noninteractive",
}


class Ending(StrEnum):
    """How a step ended: by itself, at its limit, because the helper stops, or it could not be started."""

    ENDED = "ended"
    TOO_LONG = "too_long"
    STOPPED = "stopped"
    UNSTARTED = "unstarted"


@dataclass(frozen=True)
class Done:
    """What became of a step; `exit_code` is negative for a signal, None when it never ran; `output` is plain text."""

    about: str
    exit_code: int | None
    output: str
    ending: Ending

    @property
    def fine(self) -> bool:
        """Whether it ended by itself with 0."""
        return self.ending is Ending.ENDED and self.exit_code == 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is kept and answered."""
        return {
            "about": self.about,
            "exit_code": self.exit_code,
            "output": self.output,
            "ending": str(self.ending),
        }


@dataclass(frozen=True)
class Limits:
    """How long a step may take (s), how much of its output is kept (bytes), and the descriptor that ends it early.

    `halt` becomes readable when the helper stops or has died.
    """

    time_s: float
    halt: int
    output: int = MAX_OUTPUT


def run(argv: Sequence[str], about: str, limits: Limits) -> Done:
    """Run a step and return what became of it.

    What a good step leaves running stays, for a service may be started that way. What a failed one leaves is killed:
    its whole tree, not only its group.
    """
    spared = descendants.below()
    try:
        process = _start(argv)
    except OSError as error:
        return Done(about, None, f"cannot be started: {error.strerror}", Ending.UNSTARTED)
    kept = _Kept(limits.output)
    with _stdout(process):
        ending = _watch(process, kept, limits)
        if ending is not Ending.ENDED:
            _ask_to_end(process)
        if ending is not Ending.ENDED or process.returncode != 0:
            descendants.end(spared)
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: it is left there
            process.wait(DRAIN_S)
        _drain(_stdout(process), kept)
    return Done(about, process.returncode, kept.text(), ending)


def halted(halt: int, within_s: float = 0) -> bool:
    """Return whether the helper stops or has died, now or within so long (s)."""
    return bool(select.select([halt], [], [], within_s)[0])


def _start(argv: Sequence[str]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=ENVIRONMENT,
        close_fds=True,
        start_new_session=True,
        umask=0o022,
        preexec_fn=descendants.die_with_parent,  # noqa: PLW1509 - this process has one thread, so the fork is safe
    )
    os.set_blocking(_stdout(process).fileno(), False)
    return process


def _watch(process: "subprocess.Popen[bytes]", kept: "_Kept", limits: Limits) -> Ending:
    """Read until the step ends, its time is up, or the helper stops; the end of its output is not its end."""
    until = time.monotonic() + limits.time_s
    stdout = _stdout(process).fileno()
    poll = select.poll()
    for descriptor in (limits.halt, stdout):
        poll.register(descriptor, select.POLLIN)
    with _end_of(process) as ended:
        if ended is not None:
            poll.register(ended, select.POLLIN)
        while (left := until - time.monotonic()) > 0:
            ready = {
                descriptor for descriptor, _ in poll.poll(1 + 1000 * min(left, 60.0 if ended is not None else LOOK_S))
            }
            if limits.halt in ready:
                return Ending.STOPPED
            if (code := process.poll()) is not None:
                # Who stops a whole unit signals step and helper at once; the step is no failure then.
                return Ending.STOPPED if code < 0 and halted(limits.halt, HALT_S) else Ending.ENDED
            if stdout in ready and not kept.read(_stdout(process)):
                poll.unregister(stdout)
    return Ending.TOO_LONG


@contextlib.contextmanager
def _end_of(process: "subprocess.Popen[bytes]") -> Iterator[int | None]:
    """Yield a descriptor that becomes readable at its end; None where the kernel has none (before Linux 5.3)."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """Let it put its things in order; a package manager does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERM_S)


def _drain(stdout: IO[bytes], kept: "_Kept") -> None:
    """Take what is in the pipe still; something left running may hold it open for ever, and write for ever."""
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until and kept.read(stdout) and kept.got:
        pass


def _stdout(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    if process.stdout is None:
        raise AssertionError("a step has a pipe")
    return process.stdout


class _Kept:
    """The first and the last half of what was said, up to a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0
        self.got = False

    def read(self, stdout: IO[bytes]) -> bool:
        """Read once; return whether more may come. `got` says whether there was something."""
        try:
            data = os.read(stdout.fileno(), 65536)
        except BlockingIOError:
            self.got = False
            return True
        self.got = bool(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        surplus = max(0, len(self._tail) - self._half)
        del self._tail[:surplus]
        self._left_out += surplus
        return bool(data)

    def text(self) -> str:
        """Return it as lines of printable text, which can be scrubbed as any other text."""
        gap = f"\n[{self._left_out} bytes left out]\n".encode() if self._left_out else b""
        text = bytes(self._head + gap + self._tail).decode("utf-8", "replace").replace("\r\n", "\n").replace("\t", " ")
        return "".join(c if c == "\n" or c.isprintable() else "�" for c in text)
