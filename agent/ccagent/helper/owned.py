"""Whose files these are: root must not be led by a path that somebody else can change."""

import os
import stat
from pathlib import Path


class NotOursError(Exception):
    """A path that the helper relies on can be changed by somebody else; the message says which, and what to do."""


def check_directory(path: Path) -> None:
    """Refuse a directory unless only this user (or root) can change it or any directory above it."""
    for one in (path, *path.parents):
        about = one.lstat()
        if not stat.S_ISDIR(about.st_mode):
            raise NotOursError(f"{one} is no directory: name the place itself, without links")
        _check(one, about, sticky=one != path)


def check_file(path: Path) -> None:
    """Refuse a file unless only this user (or root) can change it or any directory above it."""
    real = Path(os.path.realpath(path))  # a link is as good as what it leads through
    check_directory(real.parent)
    about = real.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise NotOursError(f"{real} is no file: put the settings there")
    _check(real, about, sticky=False)


def make_private(path: Path) -> None:
    """Make a directory that only this user can enter, where it is missing; refuse one that is another's."""
    real = Path(os.path.realpath(path.parent))
    check_directory(real)
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise NotOursError(f"{path} is not a private directory of this user: chown it to root with mode 0700")


def _check(path: Path, about: os.stat_result, *, sticky: bool) -> None:
    if about.st_uid not in (0, os.geteuid()):
        raise NotOursError(f"{path} belongs to uid {about.st_uid}: give it to root, or name another place")
    # In a sticky directory such as /tmp others can add, but not replace what is ours.
    if about.st_mode & 0o022 and not (sticky and about.st_mode & stat.S_ISVTX):
        raise NotOursError(f"{path} can be written by others: chmod go-w it, or name another place")
