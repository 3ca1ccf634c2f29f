"""What a check may use of the machine: reading files and running programs. It never changes anything."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ccagent import helper_client
from ccagent.helper_client import HelperAbsentError, HelperRefusedError

MAX_OUTPUT = 1024 * 1024
MAX_TEXT = 1024 * 1024
# A service's PATH often lacks these, and there live nft, cryptsetup and their like.
SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/run/current-system/sw/bin")

_NOT_IN_A_HOST_NAME = re.compile(r"[^a-z0-9._-]")


def _search_path() -> str:
    ours = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([*ours, *SYSTEM_DIRECTORIES]))


class ProgramMissingError(Exception):
    """The program is not on this machine, or cannot be started."""


@dataclass(frozen=True)
class Output:
    """What a program left: exit code (negative: killed by that signal), text, whether the limits cut it short.

    `as_root` says whether it ran as root, here or at the helper.
    """

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False
    cut: bool = False
    as_root: bool = False

    @property
    def complete(self) -> bool:
        """Whether the program ended by itself with 0 and all that it said was kept."""
        return self.code == 0 and not self.timed_out and not self.cut

    def complaint(self) -> str:
        """Return the last line of what it complained, or how it ended."""
        if self.timed_out:
            return "took too long"
        if self.cut:
            return f"said more than {MAX_OUTPUT} bytes"
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1] if lines else f"ended with {self.code}"


@dataclass(frozen=True)
class Host:
    """The machine checked: its name, where its files begin, where its programs are, and whether we are root there.

    `helper` is the socket of the root helper, which is asked for what needs root when we are not.
    """

    host_id: str
    root: Path = Path("/")
    path: str = field(default_factory=_search_path)
    privileged: bool = field(default_factory=lambda: os.geteuid() == 0)
    helper: Path | None = None

    @classmethod
    def here(cls, helper: Path | None = None) -> "Host":
        """Return this machine under its host name, with the root helper's socket."""
        name = _NOT_IN_A_HOST_NAME.sub("-", socket.gethostname().lower())[:253]
        return cls(host_id=name or "unnamed", helper=helper)

    def which(self, name: str) -> str | None:
        """Return where the program is, None when it is not on this machine."""
        return shutil.which(name, path=self.path)

    async def run_as_root(
        self, what: str, argv: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None
    ) -> Output:
        """Run a program that needs root: at the helper, when we are not root and `what` on its list runs just this.

        Without a helper it is tried here, and its own complaint tells what that lacked.
        """
        told = await self._told(what)
        for said in told.get("ran", []):
            if said["argv"] == list(argv):
                if said["code"] is None:
                    raise ProgramMissingError(f"{argv[0]} is not installed")
                return Output(**{name: value for name, value in said.items() if name != "argv"}, as_root=True)
        return await self.run(argv, timeout_s, env)

    async def read_as_root(self, what: str) -> str | None:
        """Return the text that `what` on the helper's list stands for; None where it does not tell it."""
        text = (await self._told(what)).get("text")
        return text if isinstance(text, str) else None

    async def _told(self, what: str) -> dict[str, Any]:
        if self.privileged or self.helper is None:
            return {}
        try:
            answer = await helper_client.ask(self.helper, {"ask": "read", "what": what})
        except (HelperAbsentError, HelperRefusedError):
            return {}
        output = answer.get("output")
        return output if isinstance(output, dict) else {}

    async def run(self, argv: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None) -> Output:
        """Run a program, never through a shell, and return what it said, at most 1 MiB of each stream.

        At the limit, or when the caller is cancelled, it is killed with its process group. ProgramMissingError when
        it is not there.
        """
        program = self.which(argv[0])
        if program is None:
            raise ProgramMissingError(f"{argv[0]} is not installed")
        async with _reading() as (out, out_fd), _reading() as (err, err_fd):
            try:
                process = await asyncio.create_subprocess_exec(
                    program,
                    *argv[1:],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out_fd,
                    stderr=err_fd,
                    env=self._environment(env),
                    start_new_session=True,
                )
            except OSError as error:
                raise ProgramMissingError(f"{argv[0]} cannot be started: {error}") from error
            finally:
                os.close(out_fd)
                os.close(err_fd)
            in_time = await _finish(process, timeout_s)
            await _drained(out, err)
        return Output(
            code=process.returncode if process.returncode is not None else -signal.SIGKILL,
            stdout=out.text(),
            stderr=err.text(),
            timed_out=not in_time,
            cut=out.cut or err.cut,
            as_root=self.privileged,
        )

    def place(self, path: str | Path) -> Path:
        """Return where an absolute path of the machine is seen from here."""
        return self.root / str(path).lstrip("/")

    def read_text(self, path: str | Path, limit: int = MAX_TEXT) -> str:
        """Return a file's text; OSError when it cannot be read, is no file, or is longer than `limit` bytes."""
        data = _read(self.place(path), limit + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return data.decode("utf-8", "replace")

    def read_tail(self, path: str | Path, limit: int = MAX_TEXT) -> str:
        """Return the last `limit` bytes of a file as text; OSError when it cannot be read."""
        return _read(self.place(path), limit, from_end=True).decode("utf-8", "replace")

    def exists(self, path: str | Path) -> bool:
        """Return whether something is there that we may see."""
        try:
            return self.place(path).exists()
        except OSError:
            return False

    def link(self, path: str | Path) -> str | None:
        """Return what a symbolic link says, None when there is none."""
        try:
            return str(self.place(path).readlink())
        except OSError:
            return None

    def changed(self, path: str | Path) -> datetime | None:
        """Return when a file, or a link itself, was last changed (UTC), None when it is not to be seen."""
        try:
            return datetime.fromtimestamp(self.place(path).lstat().st_mtime, UTC)
        except OSError:
            return None

    def newest(self, *patterns: str) -> datetime | None:
        """Return the newest modification time (UTC) of what matches the globs below the root, None for nothing."""
        times = []
        for pattern in patterns:
            for found in self.root.glob(pattern.lstrip("/")):
                with contextlib.suppress(OSError):
                    times.append(found.lstat().st_mtime)
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        """A program gets no more of our environment than it needs: what stands in ours may be secret."""
        kept = {name: os.environ[name] for name in ("HOME", "TZ") if name in os.environ}
        return {"PATH": self.path, "LC_ALL": "C", "LANG": "C", **kept, **(extra or {})}


def _read(place: Path, limit: int, *, from_end: bool = False) -> bytes:
    # Not blocking, because a FIFO put where a file is expected would hold the agent for ever.
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(place))
        if from_end:
            file.seek(max(0, about.st_size - limit))
        return file.read(limit)


class _Gathered(asyncio.Protocol):
    """Keeps what comes through a pipe up to the limit, and reads on without keeping it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.cut = False
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        room = MAX_OUTPUT - len(self.data)
        self.data += data[:room]
        self.cut = self.cut or len(data) > room

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def _reading() -> AsyncIterator[tuple[_Gathered, int]]:
    """Yield a reader and the descriptor to write to.

    The pipe is ours, not the process's: it can be closed although a left-over grandchild still holds the other end.
    """
    read_fd, write_fd = os.pipe()
    transport, gathered = await asyncio.get_running_loop().connect_read_pipe(
        _Gathered, os.fdopen(read_fd, "rb", buffering=0)
    )
    try:
        yield gathered, write_fd
    finally:
        transport.close()
        await gathered.ended.wait()


async def _finish(process: asyncio.subprocess.Process, timeout_s: float) -> bool:
    """Wait for the end and return whether it came in time; else, or when cancelled, kill the whole group."""
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:  # only then is its number surely still its own
            await _kill(process)
    return True


async def _kill(process: asyncio.subprocess.Process) -> None:
    """A process stuck in the kernel outlives even SIGKILL; it is left there, not waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await process.wait()


async def _drained(*readers: _Gathered) -> None:
    """Give the last output time to arrive; a program it left running may hold the pipe for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            for reader in readers:
                await reader.ended.wait()
