"""Break everything that can break, a line per row: `python -m tests.faults [--quick] [--seed N] [row …]`."""

import argparse
import sys
import time
from collections.abc import Callable

from tests.faults import (
    clock,
    copies,
    disk_errors,
    flips,
    full,
    herd,
    hostile,
    keys,
    kill,
    network,
    offline,
    poison,
    power,
    server,
)
from tests.faults.rows import Row
from tests.faults.shim import NoCompilerError

Runner = Callable[[int, int], Row]

# The row, how often in the quick form, and at full length.
TABLE: dict[str, tuple[Runner, int, int]] = {
    "kill": (kill.run, 6, 500),
    "power": (power.run, 150, 10_000),
    "errors": (disk_errors.run, 60, 4_000),
    "full": (full.run, 8, 400),
    "flips": (flips.run, 60, 4_000),
    "clock": (clock.run, 1, 12),
    "network": (network.run, 40, 600),
    "offline": (offline.run, 2_100, 280_000),
    "copies": (copies.run, 80, 5_000),
    "herd": (herd.run, 64, 1_000),
    "server": (server.run, 1, 150),
    "poison": (poison.run, 60, 10_000),
    "keys": (keys.run, 1, 60),
    "hostile": (hostile.run, 120, 4_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *TABLE], metavar="row", help=", ".join(TABLE))
    parser.add_argument("--quick", action="store_true", help="the short form that is part of the tests")
    parser.add_argument("--seed", type=int, default=1, help="the same seed breaks the same things")
    asked = parser.parse_args()
    passed = True
    for name in asked.rows or TABLE:
        run, quick, full = TABLE[name]
        began = time.monotonic()
        row = run(asked.seed, quick if asked.quick else full)
        passed = passed and row.passed
        print(f"{row.line(name)}  ({time.monotonic() - began:.0f} s)", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NoCompilerError as error:
        sys.exit(str(error))
