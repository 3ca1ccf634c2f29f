"""What a user would pick instead: its libraries live in an environment of their own and run as processes of it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path(os.environ.get("RIVALS", ".tools/rivals")).absolute()
PYTHON = HOME / "bin/python"
QUEUES = ("persist-queue", "litequeue", "huey")
REPOSITORY = Path(__file__).parents[2]


def check() -> None:
    """Say what to do when the rivals are not there."""
    if not PYTHON.exists():
        raise SystemExit(f"{HOME} is not there: `make bench` makes it, from tests/bench/rivals.txt.")


class Queue:
    """A queue of the field that waits for what to do."""

    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self._running = running

    def seconds(self, producers: int, entries: int) -> float:
        """Return how long so many producers take to keep so many payloads together."""
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        print(producers, entries, file=self._running.stdin, flush=True)
        return float(self._running.stdout.readline())


@contextmanager
def queue(name: str, folder: Path, size: int) -> Iterator[Queue]:
    """Run one of QUEUES with payloads of `size` bytes."""
    check()
    folder.mkdir()
    script = Path(__file__).with_name("rival_queues.py")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [PYTHON, script, name, folder, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as running:
        yield Queue(running)
