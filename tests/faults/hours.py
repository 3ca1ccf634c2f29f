"""Hours that pass at once: an event loop whose clock jumps to whatever is due next, so that days take seconds."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any


class _Jump(selectors.DefaultSelector):
    """A selector that lets the loop's clock jump where it would have waited."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("nothing will ever happen again in this loop")
        if timeout and timeout > 0 and not ready:
            self._jump(timeout)
        return ready


class Hours(asyncio.SelectorEventLoop):
    """The loop: `time()` is virtual (s), `turns` counts its jumps. What threads would do is done in turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        super().__init__(_Jump(self._pass))

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]  # in place of a thread, whose seconds would be real
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        done = self.create_future()
        done.set_result(func(*args))
        return done

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.turns += 1


def run(main: Callable[[Hours], Coroutine[Any, Any, None]]) -> None:
    """Run `main(loop)` in a loop of its own to its end."""
    with asyncio.Runner(loop_factory=Hours) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Hours)
        runner.run(main(loop))
