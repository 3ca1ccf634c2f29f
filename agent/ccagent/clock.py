"""The agent's clocks, and what is known of the wall clock: it may be wrong, and evidence says so."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ccshared.vocabulary import Clock

MAX_STEP_MS = 5_000
MAX_DISAGREEMENT_MS = 60_000

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_STA_UNSYNC = 0x40


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)); the rest is padding of more than its size on any Linux."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def now_ms() -> int:
    """Return the wall clock, ms since 1970, UTC."""
    return time.time_ns() // 1_000_000


def boottime() -> float:
    """Return the seconds since the machine started, suspended or not; where there is no such clock, a monotonic one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Boot:
    """A moment that no wall clock can spoil: which boot of this machine, and how long after it (ms)."""

    id: str
    ms: int


def boot_id() -> str:
    """Return what this boot of the machine is called; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:64]
    except (OSError, UnicodeDecodeError):
        return ""


def kernel_synchronised() -> bool:
    """Return whether the kernel says that the wall clock is synchronised; False where it cannot be asked."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return False
    timex = _Timex()
    state = adjtimex(ctypes.byref(timex))
    return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC


@dataclass(frozen=True)
class Clocks:
    """Where the time comes from: wall (ms UTC), since boot (s), and whether the kernel calls the wall synchronised."""

    wall: Callable[[], int] = now_ms
    boot: Callable[[], float] = boottime
    synchronised: Callable[[], bool] = kernel_synchronised
    boot_id: Callable[[], str] = boot_id


class ClockWatch:
    """Watches the wall clock against the clock that only runs forward, and against the server's time."""

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or Clocks()
        self._started_ms = self._since_start()
        self._server_ms: int | None = None

    def stamp(self) -> tuple[int, Clock]:
        """Return the wall clock (ms UTC) and what is known of it."""
        now = self._clocks.wall()
        if self.step() is not None:
            return now, Clock.STEPPED
        agrees = self._server_ms is not None and (abs(self._since_start() - self._server_ms) <= MAX_DISAGREEMENT_MS)
        return now, Clock.SYNC if agrees and self._clocks.synchronised() else Clock.UNSYNC

    def boottime(self) -> float:
        """Return the seconds since boot."""
        return self._clocks.boot()

    def boot(self) -> Boot:
        """Return which boot this is, and the ms since."""
        return Boot(self._clocks.boot_id(), round(self._clocks.boot() * 1000))

    def heard_server(self, server_at_ms: int) -> None:
        """Remember what time it just was at the server (ms UTC)."""
        self._server_ms = server_at_ms - round(self._clocks.boot() * 1000)

    def step(self) -> int | None:
        """Return by how many ms the wall clock moved against the clock since boot; None for 5 s or less.

        It is the same answer until `took_step` is told that the step is on record.
        """
        moved = self._since_start() - self._started_ms
        return moved if abs(moved) > MAX_STEP_MS else None

    def took_step(self, delta_ms: int) -> None:
        """Take the wall clock as right again after a step of `delta_ms`."""
        self._started_ms += delta_ms

    def _since_start(self) -> int:
        """The wall clock at boot (ms UTC), as the wall clock has it now; only a step changes it."""
        return self._clocks.wall() - round(self._clocks.boot() * 1000)
