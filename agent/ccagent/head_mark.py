"""The head mark: the newest head of the log, kept outside the database that it bears witness to.

A database restored from an older copy is sound in itself; only something beside it can say that it once was longer.
The mark is written in place after each commit and not synced: a mark that lags behind a power cut claims less, never
more, than the database holds, and syncing it would double the price of every commit. A torn mark fails its checksum.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ccshared import canonical

_LENGTH = 256
_CHECKSUM = 16


@dataclass(frozen=True)
class HeadMark:
    """An epoch `<number>-<8 hex>`, its size in entries, and its last leaf (64 hex)."""

    epoch: str
    size: int
    leaf: str


def read(path: Path) -> HeadMark | None:
    """Return the mark; None when there is none or it is torn. OSError when it cannot be read."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    data, checksum = text[:-_CHECKSUM].rstrip(b" "), text[-_CHECKSUM:]
    if len(text) != _LENGTH or checksum != _sum(data):
        return None
    try:
        members = canonical.read(data)
    except canonical.NotCanonicalError:
        return None
    return HeadMark(members["epoch"], members["size"], members["leaf"])


class MarkFile:
    """The open file of the mark; one writer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file (0600), making it durable in its directory where it is new. OSError when it cannot be."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(descriptor)

    def write(self, mark: HeadMark) -> None:
        """Put the mark in place of the former one, in one write of less than a disk's sector."""
        members = {"epoch": mark.epoch, "leaf": mark.leaf, "size": mark.size}
        data = canonical.write(members)
        os.pwrite(self._descriptor, data.ljust(_LENGTH - _CHECKSUM) + _sum(data), 0)

    def close(self) -> None:
        """Sync and close."""
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:_CHECKSUM].encode()
