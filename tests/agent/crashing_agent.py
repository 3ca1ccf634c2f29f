"""The agent as `cc-agent` is, but killed with SIGKILL at one place: argv[1] is `before:module.function` or `after:…`.

`during:…` lets the function go on for half a second.
"""

import functools
import importlib
import inspect
import os
import signal
import sys
import threading
from typing import Any

from ccagent.cli import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_at(place: str) -> None:
    when, _, where = place.partition(":")
    module_name, _, name = where.rpartition(".")
    module = importlib.import_module(f"ccagent.{module_name}")
    real = getattr(module, name)

    def early() -> None:
        if when == "before":
            die()
        if when == "during":
            threading.Timer(0.5, die).start()

    @functools.wraps(real)
    async def later(*args: Any, **more: Any) -> Any:
        early()
        answer = await real(*args, **more)
        die()
        return answer

    @functools.wraps(real)
    def now(*args: Any, **more: Any) -> Any:
        early()
        answer = real(*args, **more)
        die()
        return answer

    setattr(module, name, later if inspect.iscoroutinefunction(real) else now)


if __name__ == "__main__":
    crash_at(sys.argv.pop(1))
    main()
