"""Measuring side by side: warm-up, rounds in turn, the median of the rounds' ratios and how far they spread."""

import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Block = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Result:
    """One row: what was compared, the median ratio, the middle half of the rounds' ratios, the bound, the verdict.

    `absolute` is what this machine did, for reading only.
    """

    row: str
    what: str
    ratio: float | None
    low: float | None
    high: float | None
    target: str
    reached: bool
    absolute: str = ""


@dataclass(frozen=True)
class Pair:
    """Two blocks of the same work, ours and the one that it is compared with."""

    ours: Block
    other: Block


async def ratios(pair: Pair, rounds: int) -> list[float]:
    """Return ours ÷ other in seconds for each round."""
    return [ours / other for ours, other in await times(pair, rounds)]


async def times(pair: Pair, rounds: int) -> list[tuple[float, float]]:
    """Return ours and other in seconds of each round, after two rounds that do not count; who begins alternates."""
    found = []
    for number in range(rounds + 2):
        blocks = (pair.ours, pair.other) if number % 2 else (pair.other, pair.ours)
        first, second = [await seconds(block) for block in blocks]
        found.append((first, second) if number % 2 else (second, first))
    return found[2:]


def quickest(found: Sequence[tuple[float, float]]) -> float:
    """Return ours ÷ other of their first quartiles: what it costs while nothing else keeps the machine busy."""
    ours, other = [statistics.quantiles(each, n=4)[0] for each in zip(*found, strict=True)]
    return ours / other


@contextmanager
def on_one_processor() -> Iterator[None]:
    """Keep to one processor, with every process that is started within; where the system cannot, do nothing.

    Two connections are two processes, and which of them shares a processor with us decides more than what they do.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


async def seconds(block: Block) -> float:
    """Return how long a block takes."""
    began = time.perf_counter()
    await block()
    return time.perf_counter() - began


def judged(row: str, what: str, found: Sequence[float], at_most: float) -> Result:
    """Return the row of a ratio that may be at most so much."""
    low, middle, high = statistics.quantiles(found, n=4)
    return Result(row, what, middle, low, high, f"at most {at_most:.2f}", middle <= at_most)


def faster(row: str, what: str, found: Sequence[tuple[float, float]], at_least: float, count: int = 0) -> Result:
    """Return the row of a speed ÷ another's, from the seconds (ours, other) of rounds of `count` things each."""
    low, middle, high = statistics.quantiles([other / ours for ours, other in found], n=4)
    ours, other = [statistics.median(each) for each in zip(*found, strict=True)]
    absolute = f"{count / ours:,.0f}/s : {count / other:,.0f}/s" if count else ""
    return Result(row, what, middle, low, high, f"at least {at_least:.2f}", middle >= at_least, absolute)


def no_slower(row: str, what: str, found: Sequence[tuple[float, float]], at_most: float, or_at_most_s: float) -> Result:
    """Return the row of a time ÷ another's, which may be at most so much, or so short that it does not matter."""
    low, middle, high = statistics.quantiles([ours / other for ours, other in found], n=4)
    ours, other = [statistics.median(each) for each in zip(*found, strict=True)]
    absolute = f"{ours * 1000:.3g} ms : {other * 1000:.3g} ms"
    target = f"at most {at_most:.2f}, or {or_at_most_s * 1e6:.0f} µs"
    return Result(row, what, middle, low, high, target, middle <= at_most or ours <= or_at_most_s, absolute)


def bounded(row: str, what: str, value: float, at_most: float, unit: str) -> Result:
    """Return the row of a plain number that may be at most so much."""
    return Result(row, what, None, None, None, f"at most {at_most:g} {unit}", value <= at_most, f"{value:.3g} {unit}")


def resident_mb(pid: int, which: str = "VmRSS") -> float:
    """Return a process's resident memory (MB) as Linux tells it: VmRSS now, VmHWM at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(which))


def machine() -> str:
    """Return what measured: ratios of another machine differ."""
    return f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def table(results: Sequence[Result]) -> str:
    """Return the rows as a table."""
    lines = [f"{'row':9} {'what':66} {'ratio':>7} {'middle half':>15}  {'here, ours : other':28}  target"]
    for each in results:
        ratio = f"{each.ratio:7.2f}" if each.ratio is not None else "      -"
        spread = f"{each.low:.2f} – {each.high:.2f}" if each.low is not None else ""
        verdict = "reached" if each.reached else "MISSED"
        lines.append(f"{each.row:9} {each.what:66} {ratio} {spread:>15}  {each.absolute:28}  {each.target}: {verdict}")
    return "\n".join(lines)
