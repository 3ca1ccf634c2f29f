"""Break everything that can break, a line per row: `python -m tests.faults [--quick] [--seed N] [--jobs N] [row …]`."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import (
    clock,
    copies,
    disk_errors,
    flips,
    full,
    healing,
    herd,
    hostile,
    keys,
    kill,
    network,
    offline,
    poison,
    power,
    server,
    side_by_side,
)
from tests.faults.rows import Row
from tests.faults.shim import NoCompilerError


@dataclass(frozen=True)
class Listed:
    """A row of the table: `run(seed, n)` breaks n things; how many in the quick form, and at full length."""

    run: Callable[[int, int], Row]
    quick: int
    full: int


# Longest first, so that none of them is left alone at the end.
TABLE: dict[str, Listed] = {
    "kill": Listed(kill.run, 6, 500),
    "power": Listed(power.run, 150, 10_000),
    "herd": Listed(herd.run, 64, 1_000),
    "healing": Listed(healing.run, 20, 2_000),
    "copies": Listed(copies.run, 80, 5_000),
    "flips": Listed(flips.run, 60, 4_000),
    "keys": Listed(keys.run, 1, 20),
    "hostile": Listed(hostile.run, 120, 4_000),
    "network": Listed(network.run, 40, 600),
    "offline": Listed(offline.run, 2_100, 280_000),
    "server": Listed(server.run, 1, 150),
    "full": Listed(full.run, 8, 400),
    "clock": Listed(clock.run, 1, 12),
    "errors": Listed(disk_errors.run, 60, 4_000),
    "poison": Listed(poison.run, 60, 10_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *TABLE], metavar="row", help=", ".join(TABLE))
    parser.add_argument("--quick", action="store_true", help="the short form that is part of the tests")
    parser.add_argument("--seed", type=int, default=1, help="the same seed breaks the same things")
    most = min(os.cpu_count() or 1, 2)
    parser.add_argument("--jobs", type=int, default=most, help="how many rows at a time; by default one a core, of two")
    asked = parser.parse_args()
    if len(asked.rows) == 1:
        return _run(asked.rows[0], asked.seed, quick=asked.quick)
    form = ["--seed", str(asked.seed), *(["--quick"] if asked.quick else [])]
    names = [name for name in TABLE if not asked.rows or name in asked.rows]
    return side_by_side.run(names, form, max(asked.jobs, 1))


def _run(name: str, seed: int, *, quick: bool) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would not hear of it
    began, listed = time.monotonic(), TABLE[name]
    row = listed.run(seed, listed.quick if quick else listed.full)
    print(f"{row.line(name)}  ({time.monotonic() - began:.0f} s)", flush=True)
    return 0 if row.passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoCompilerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
