"""Files that are replaced whole or not at all, durable once that is said, and readable by their owner only."""

import os
import secrets
from pathlib import Path


def replace(path: Path, data: bytes) -> None:
    """Let `path` (0600) hold `data` durably in place of what was there; OSError when the disk refuses."""
    write_beside(path, data).replace(path)
    sync_directory(path.parent)


def write_beside(path: Path, data: bytes) -> Path:
    """Return a new file beside `path` that holds `data` durably and that only its owner can read."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return temporary


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
