"""Every process that came of this one: a step's grandchildren too, however they hid from their process group.

Whoever loses its parent comes to us (PR_SET_CHILD_SUBREAPER, prctl(2)), so the tree below us is complete.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_GIVE_UP_S = 5.0
_LIBC = ctypes.CDLL(None, use_errno=True)

Process = tuple[int, str]  # number and start time (ticks since boot): numbers are used again, pairs are not


def adopt() -> None:
    """Become who orphans below this process come to."""
    if _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; called between fork and exec."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def below(spared: AbstractSet[Process] = frozenset()) -> set[Process]:
    """Return all living descendants but the spared ones and what came of those."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        seen = _look(entry)
        if seen is not None:
            children.setdefault(seen[1], []).append(seen[0])
    found: set[Process] = set()
    waiting = [os.getpid()]
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), []) if child not in spared and child not in found]
        found.update(fresh)
        waiting += [number for number, _ in fresh]
    return found


def end(spared: AbstractSet[Process] = frozenset()) -> bool:
    """Kill all descendants but the spared ones; return whether none is left.

    Again and again, because a process may fork between a look and the kill. One stuck in the kernel outlives that.
    """
    until = time.monotonic() + _GIVE_UP_S
    while left := below(spared):
        for number, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        _reap(number for number, _ in left)
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _reap(numbers: Iterable[int]) -> None:
    for number in numbers:
        with contextlib.suppress(ChildProcessError):  # not our own child, but a child's
            os.waitpid(number, os.WNOHANG)


def _look(entry: Path) -> tuple[Process, int] | None:
    """Return a process and its parent's number (proc(5), stat); None for one that is gone."""
    try:
        text = (entry / "stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"X", b"x"):
        return None
    return (int(entry.name), fields[19].decode()), int(fields[1])
