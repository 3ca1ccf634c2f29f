"""The head mark: the newest head of the log, kept outside the database that it bears witness to.

A database restored from an older copy is sound in itself; only something beside it can say that it once was longer.
The mark is written in place after each commit, to two slots in turn, so that one torn by a power cut leaves the other.
It is synced twice a minute only: a mark that lags behind claims less, never more, than the database holds, and syncing
each would double the price of every commit.
"""

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ccshared import canonical

SYNC_EVERY_S = 60.0

_SLOT = 512  # a disk's sector: a torn write spoils one slot and not the other
_CHECKSUM = 16


@dataclass(frozen=True)
class HeadMark:
    """An epoch `<number>-<8 hex>`, its size in entries, and its last leaf (64 hex)."""

    epoch: str
    size: int
    leaf: str


def read(path: Path) -> HeadMark | None:
    """Return the newest mark; None when there is none or both slots are torn. OSError when it cannot be read."""
    newest = _newest(path)
    return newest[1] if newest else None


class MarkFile:
    """The open file of the mark; one writer."""

    def __init__(self, descriptor: int, turn: int) -> None:
        self._descriptor = descriptor
        self._turn = turn
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file (0600), making it durable in its directory where it is new. OSError when it cannot be."""
        newest = _newest(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(descriptor, newest[0] if newest else 0)

    def write(self, mark: HeadMark) -> None:
        """Put the mark in the slot of the older one, in one write of a disk's sector, and sync now and then."""
        turn = self._turn + 1
        # Canonical as it stands; walking it each time would cost a tenth of what an append costs the processor.
        data = b'{"epoch":"%b","leaf":"%b","size":%d,"turn":%d}' % (
            mark.epoch.encode(),
            mark.leaf.encode(),
            mark.size,
            turn,
        )
        os.pwrite(self._descriptor, data.ljust(_SLOT - _CHECKSUM) + _sum(data), turn % 2 * _SLOT)
        self._turn = turn
        if time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Make the mark durable. OSError when the disk refuses."""
        os.fsync(self._descriptor)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


def _newest(path: Path) -> tuple[int, HeadMark] | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    slots = [_parse(data[at : at + _SLOT]) for at in (0, _SLOT)]
    return max((slot for slot in slots if slot is not None), key=lambda slot: slot[0], default=None)


def _parse(slot: bytes) -> tuple[int, HeadMark] | None:
    data, checksum = slot[:-_CHECKSUM].rstrip(b" "), slot[-_CHECKSUM:]
    if len(slot) != _SLOT or checksum != _sum(data):
        return None
    try:
        members: dict[str, Any] = canonical.read(data)
    except canonical.NotCanonicalError:
        return None
    return members["turn"], HeadMark(members["epoch"], members["size"], members["leaf"])


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:_CHECKSUM].encode()
