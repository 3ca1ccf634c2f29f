"""Room on the disk: how large the database may become, and the ballast that is given up when there is none left."""

import contextlib
import os
from pathlib import Path

BUDGET_BYTES = 2 * 1024**3
BALLAST_BYTES = 1024 * 1024
# The ballast is put back only when that leaves well more than itself.
ROOM_FOR_BALLAST = 4 * BALLAST_BYTES


def budget_bytes(own: int, free: int) -> int:
    """Return how large a database of `own` bytes may become where `free` bytes are left: at most half of both."""
    return min(BUDGET_BYTES, (own + free) // 2)


def free_bytes(directory: Path) -> int:
    """Return how many bytes this user may still write there. OSError when it cannot be told."""
    about = os.statvfs(directory)
    return about.f_bavail * about.f_frsize


class Ballast:
    """A file that holds a mebibyte of the disk, to be given up when the last of the rest is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_there(self) -> bool:
        """Whether it is whole."""
        try:
            return self._path.stat().st_size == BALLAST_BYTES
        except OSError:
            return False

    def give_up(self) -> bool:
        """Free its room; return whether there was any. OSError when the disk refuses even that."""
        if not self._path.exists():
            return False
        self._path.unlink()
        return True

    def put_back(self) -> bool:
        """Make it again where there is room, and return whether it is there."""
        if self.is_there:
            return True
        try:
            if free_bytes(self._path.parent) < ROOM_FOR_BALLAST:
                return False
            _fill(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            return False
        return True


def _fill(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Random, because a file of zeros may take no room where the file system is clever.
        left = memoryview(os.urandom(BALLAST_BYTES))
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
