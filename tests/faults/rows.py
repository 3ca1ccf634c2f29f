"""What a row of the table reports, and where its files go."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """How a row came out: what was counted, and the first few of what went wrong."""

    counts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def expect(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.count("faults")
            if len(self.faults) < 5:
                self.faults.append(sentence)

    def line(self, name: str) -> str:
        told = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{'pass' if self.passed else 'FAIL'}  {name:<10} {told}" + "".join(
            f"\n      {one}" for one in self.faults
        )


def seeded(seed: int, name: str) -> random.Random:
    """Return the row's own source of chance, so that a row alone does what it does among the others."""
    return random.Random(f"{seed} {name}")


def most_kib() -> int:
    """Return the most memory this process ever had (KiB), whatever of the row lives in it."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a directory of the row's own, in memory where there is some."""
    memory = "/dev/shm"
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="cc-faults-", dir=place) as made:
        yield Path(os.path.realpath(made))
