"""The witness's mark in a file beside the key file: what the newest database that this server worked on had reached.

A database can be put back from an old copy, the file beside the keys is not. Its mark ahead of the database's says that
receipts were given that the database knows nothing of. A file that lags is normal; one that cannot be written costs
only that sign.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from ccserver import files
from ccserver.errors import BadConfigError

_log = logging.getLogger("ccserver")


@dataclass
class Marks:
    """The highest mark that this process knows of; `given`: a receipt was given since the mark last moved."""

    path: Path
    known: int
    given: bool = False
    written: int = -1


def beside(key_file: Path) -> Path:
    """Return the mark's file for a key file."""
    return key_file.with_name(key_file.name + ".mark")


def load(key_file: Path) -> Marks:
    """Return what the file says; mark 0 where there is none or it cannot be read."""
    path = beside(key_file)
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))["mark"]
    except FileNotFoundError:
        return Marks(path, 0)
    except (OSError, ValueError, KeyError, TypeError):
        _log.warning("%s cannot be read: a database restored from an old backup would not be told by it", path)
        return Marks(path, 0)
    return Marks(path, mark if type(mark) is int else 0)


def save(marks: Marks) -> None:
    """Write the known mark, if it is newer than what was written, whole and on the disk."""
    if marks.written >= marks.known:
        return
    try:
        with files.replaced(marks.path) as file:
            file.write(json.dumps({"mark": max(marks.known, load_mark(marks.path))}).encode())
    except BadConfigError as error:
        if marks.written < 0:
            _log.warning("%s A database restored from an old backup will not be told by it.", error)
    marks.written = marks.known


def load_mark(path: Path) -> int:
    """Return the mark in a file that another process may have written meanwhile."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
