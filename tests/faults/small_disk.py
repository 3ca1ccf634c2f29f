"""The real agent on a real file system of a few MiB that somebody fills and empties: it goes on, and recovers alone.

`python -m tests.faults.small_disk DIRECTORY` runs where a mount concerns nobody else (its own mount namespace); it says
as JSON what it saw.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ccagent.places import Places
from ccshared import canonical
from ccshared.vocabulary import Kind
from tests.agent.witness_app import Witness, running
from tests.faults.rows import Row

_ROOT = Path(__file__).parents[2]
_SIZE = "24m"
_FULL_FOR_S = 15.0
_RECOVERED_WITHIN_S = 60.0
# Another state at each look, so that each look has something to prove.
_RESTLESS = """#!/bin/sh
if [ -e {mark} ]; then rm {mark}; echo odd; exit 2; fi
: > {mark}; echo even
"""


def run(directory: Path, row: Row, enrol: Callable[[Path, Witness], Places]) -> None:
    """Fill the disk below a running agent, give it room again, and compare the witness's log with what is here."""
    directory.mkdir()
    with running(Witness()) as witness:
        enrol(directory / "enrolled", witness)
        own = ["--user", "--map-root-user"] if os.geteuid() else []
        command = ["unshare", *own, "--mount", sys.executable, "-m", "tests.faults.small_disk", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, check=False, timeout=300)
        if done.returncode:
            row.expect(False, f"no small disk could be mounted, or the agent stopped: {done.stderr.strip()[-300:]}")
            return
        told = json.loads(done.stdout.splitlines()[-1])
        lines = [line for log in witness.logs.values() for line in log.lines]
    _judge(row, told, [canonical.read(line) for line in lines])


def _judge(row: Row, told: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    gaps = sum(one["body"]["count"] for one in entries if one["kind"] == Kind.GAP and one["body"]["reason"] == "full")
    row.count("refused on a real disk", told["refused"])
    row.count("s until it recovered by itself", round(told["recovered_s"]))
    row.expect(told["refused"] > 0, "a real disk that was full refused nothing")
    row.expect(told["waiting"] == 0, "nothing was delivered while the disk was full")
    row.expect(gaps >= told["refused"], f"{told['refused']} were refused on a real disk, its gaps say {gaps}")
    row.expect(told["recovered_s"] <= _RECOVERED_WITHIN_S, f"it recovered after {told['recovered_s']:.0f} s")
    row.expect(told["whole"], "after the disk was full the logs are not what was receipted")
    row.expect(len({one["id"] for one in entries}) == len(entries), "an entry stands twice on the server")


def main(directory: Path) -> dict[str, Any]:
    disk = directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(disk)], check=True)
    state = disk / "state"
    shutil.copytree(directory / "enrolled", state)
    with _agent(directory, state) as ask:
        _until(lambda: ask("status")["receipted"] > 5)
        _fill(disk / "others")
        _until(lambda: ask("queue")["refused"] > 0)
        time.sleep(_FULL_FOR_S)
        waiting = min(ask("status")["waiting"] for _ in range(20))
        full, size = ask("queue"), ask("status")["size"]
        (disk / "others").unlink()
        began = time.monotonic()
        _until(lambda: ask("queue")["refused"] == 0 and ask("status")["size"] > size + 1)
        recovered_s = time.monotonic() - began
        _until(lambda: ask("status")["waiting"] == 0)
        whole = ask("verify")["whole"]
    return {"refused": full["refused"], "waiting": waiting, "recovered_s": recovered_s, "whole": whole}


def _fill(path: Path) -> None:
    """Take what room there is, as others do: large pieces first, and then what is left in small ones."""
    with path.open("wb", buffering=0) as file:
        for piece in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\1" * piece)


@contextlib.contextmanager
def _agent(directory: Path, state: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Run the agent, whose plug-in answers otherwise each second; yield how to ask it."""
    restless, config = directory / "restless", directory / "config.toml"
    restless.write_text(_RESTLESS.format(mark=directory / "mark"))
    restless.chmod(0o755)
    config.write_text(
        f'[agent]\nstate_dir = "{state}"\npatrol_interval_s = 1\n'
        f'[[checks.plugin]]\nname = "restless"\nargv = ["{restless}"]\n'
    )
    command = [str(Path(sys.executable).with_name("cc-agent")), "--config", str(config)]

    def ask(what: str) -> dict[str, Any]:
        done = subprocess.run([*command, what, "--json"], capture_output=True, text=True, check=False, timeout=60)
        return dict(json.loads(done.stdout))

    with subprocess.Popen([*command, "run"], stderr=(directory / "agent.log").open("w")) as running_agent:
        try:
            _until((state / "control.sock").exists)
            yield ask
            assert running_agent.poll() is None, "the agent stopped"
        finally:
            running_agent.terminate()


def _until(holds: Callable[[], bool], within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
