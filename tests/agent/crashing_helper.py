"""A root helper that is killed at a chosen line of its own code while it answers: the crash matrix's other half.

The file `kill` beside the settings says at which line, counted from the request on, and whether the process that
answers dies alone ("one") or with its parent ("all"). Without it nothing is killed.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

WATCHED = {f"{name}.py" for name in ("serving", "answering", "running", "journal", "steps", "request", "pinned")}


@dataclass
class Killer:
    """Counts the lines of one process, which is `here`."""

    here: int
    at: int
    with_parent: bool
    seen: int = 0

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        del arg
        if not self.watches(frame):
            return None
        self.seen += event == "line"
        if self.seen == self.at:
            if self.with_parent:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(self.here, signal.SIGKILL)
        return self.trace

    def watches(self, frame: FrameType) -> bool:
        place = Path(frame.f_code.co_filename)
        return place.name in WATCHED and place.parent.name == "helper" and os.getpid() == self.here


def arm() -> None:
    """Count lines from here on, in the process that was just forked to answer."""
    if sys.gettrace() is not None or not KILL.exists():  # a step's fork inherits the trace and answers nobody
        return
    at, who = KILL.read_text().split()
    killer = Killer(os.getpid(), int(at), who == "all")
    sys.settrace(killer.trace)
    frame = sys._getframe(1)  # the function that forked: its lines count too
    frame.f_trace = killer.trace if killer.watches(frame) else None


if __name__ == "__main__":
    from ccagent.cli import main

    KILL = Path(sys.argv[sys.argv.index("--config") + 1]).with_name("kill")
    os.register_at_fork(after_in_child=arm)
    main()
