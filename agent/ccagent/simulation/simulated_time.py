"""An event loop whose time jumps to the next timer when everything sleeps, so that days pass in seconds.

Timers, time-outs and `asyncio.sleep` go by the loop's time, so whatever runs on it needs no change: give it
`loop.time` where it asks for the seconds since boot.
"""

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any


class Calendar(selectors.DefaultSelector):
    """What the loop waits with: `now` (s) jumps unless something real is on its way, which takes the time it takes.

    `speed` is how many times as fast as real time it may run at most; None: as fast as this machine can.
    """

    def __init__(self, speed: float | None = None) -> None:
        super().__init__()
        self.now = 0.0
        self.speed = speed
        self.held = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return which sockets are ready; wait for them, or let `timeout` seconds pass at once."""
        if timeout is not None and timeout <= 0:
            return super().select(0)
        began = time.monotonic()
        if self.held or timeout is None:
            found = super().select(timeout)
            self.now += time.monotonic() - began
            return found
        found = super().select(timeout / self.speed if self.speed else 0)
        passed = (time.monotonic() - began) * self.speed if self.speed else 0.0
        self.now += min(passed, timeout) if found else timeout
        return found


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop on a calendar. What it is asked to run in a thread runs at once instead: a thread's time would be another.

    `asyncio.run` of Python 3.11 takes none, `asyncio.Runner(loop_factory=SimulatedLoop)` does.
    """

    def __init__(self, speed: float | None = None) -> None:
        self.calendar = Calendar(speed)
        super().__init__(self.calendar)

    def time(self) -> float:
        """Return the seconds since the simulation began."""
        return self.calendar.now

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let time pass as it really does while something outside this process is awaited."""
        self.calendar.held += 1
        try:
            yield
        finally:
            self.calendar.held -= 1

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func(*args)` in the loop's next turn and return its outcome as a future."""
        return self.create_task(_outcome(func, *args))


async def _outcome(func: Callable[..., Any], *args: Any) -> Any:
    return func(*args)
