"""The server's list of this appliance's logs beside our own: who else wrote under our key, and what the server lost."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ccagent.queue import Epoch
from ccshared.messages import Head


@dataclass(frozen=True)
class Survey:
    """What the lists say: logs of which the server holds less than it receipted, open logs of which it holds more than
    was ever made here, logs under our key that are not ours (`strangers`), numbers that two logs have (`doubled`, as
    the logs' names), and the first number that nobody used.
    """

    behind: tuple[str, ...]
    ahead: tuple[str, ...]
    strangers: tuple[str, ...]
    doubled: tuple[str, ...]
    next_number: int


def compare(ours: Mapping[Epoch, int], theirs: Sequence[Head]) -> Survey:
    """Return what the server's list (`theirs`) says about this appliance's logs, each given with its size here.

    Logs from before the oldest of ours are an earlier life of this appliance: it was installed anew since.
    """
    known = {one.epoch for one in ours}
    oldest = min((one.number for one in ours), default=0)
    newest = max((one.number for one in ours), default=0)
    names: defaultdict[int, set[str]] = defaultdict(set)
    for name in known | {head.epoch for head in theirs}:
        names[_number(name)].add(name)
    sizes = {head.epoch: head.size for head in theirs}
    return Survey(
        behind=behind(ours, theirs),
        ahead=tuple(
            one.epoch for one, size in ours.items() if one.closed_at_ms is None and sizes.get(one.epoch, 0) > size
        ),
        strangers=tuple(sorted(name for name in sizes if name not in known and _number(name) >= newest and known)),
        doubled=tuple(
            sorted(name for number, some in names.items() if number >= oldest and len(some) > 1 for name in some)
        ),
        next_number=max(names, default=0) + 1,
    )


def behind(ours: Iterable[Epoch], theirs: Sequence[Head]) -> tuple[str, ...]:
    """Return the names of our logs of which the server holds less than it receipted."""
    sizes = {head.epoch: head.size for head in theirs}
    return tuple(one.epoch for one in ours if sizes.get(one.epoch, 0) < one.watermark)


def _number(epoch: str) -> int:
    return int(epoch.partition("-")[0])
