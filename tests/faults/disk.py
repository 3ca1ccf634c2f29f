"""A disk that keeps what it was told to keep and nothing else: images of it as a power cut may leave them.

What was not synced is there sector by sector, or not, in any order; a file's name is there once its directory was
synced. What is before the cut in the record was done, what is behind it was not.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_HEAD = struct.Struct("<cQQI")
# How likely an unsynced sector is on the disk after all: from a disk that writes nothing unasked to one that is quick.
_CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Op:
    """One thing done: its type as in shim.c, the file, a number, and data."""

    type: str
    inode: int
    number: int
    data: bytes


@dataclass
class File:
    """A file: what is on the disk, and what was written since."""

    durable: bytearray
    pending: list[Op] = field(default_factory=list)


def read_log(path: Path) -> list[Op]:
    """Return a record's operations."""
    data, at, ops = path.read_bytes(), 0, []
    while at + _HEAD.size <= len(data):
        kind, inode, number, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        ops.append(Op(kind.decode(), inode, number, data[at : at + length]))
        at += length
    return ops


class Disk:
    """The disk below one directory, as operations are done to it."""

    def __init__(self, before: Path, root: Path, inodes: dict[str, int]) -> None:
        """Begin with a copy of the directory, all of it durable; operations name files below `root` and by inode."""
        self._root = str(root)
        self._files: list[File] = []
        self._by_inode: dict[int, int] = {}
        self._now: dict[str, int] = {}
        self._durable: dict[str, int] = {}
        self._pending: list[tuple[str, Op, int]] = []  # directory, what was done to a name, file
        for path in sorted(before.rglob("*")):
            name = str(path.relative_to(before))
            file = -1 if path.is_dir() else self._new(inodes[name], path.read_bytes())
            self._now[str(root / name)] = file
        self._durable = dict(self._now)

    def do(self, op: Op) -> None:
        """Do the next operation."""
        match op.type:
            case "W" | "T":
                self._file(op).pending.append(op)
            case "F":
                file = self._file(op)
                for one in file.pending:
                    _apply(file.durable, one, None, 1.0)
                file.pending.clear()
            case "f":  # the kernel calls these pages clean now, and never writes them
                self._file(op).pending.clear()
            case "D":
                self._sync_names(op.data.decode())
            case "C" | "K" | "R" | "L" | "U":
                self._name(op)

    def image(self, chance: random.Random, target: Path) -> None:
        """Write what a power cut now may leave."""
        names = dict(self._durable)
        directories = {directory for directory, _, _ in self._pending}
        for directory in sorted(directories):
            ops = [(op, file) for one, op, file in self._pending if one == directory]
            for op, file in ops[: chance.choice((0, chance.randint(0, len(ops)), len(ops)))]:
                _rename(names, op, file)
        likely = chance.choice(_CHANCES)
        written: dict[int, Path] = {}
        for name, file in sorted(names.items()):
            path = target / name[len(self._root) + 1 :]
            if not path.parent.is_dir():
                continue  # its directory itself is not there
            if file < 0:
                path.mkdir(exist_ok=True)
            else:
                self._write(file, path, written, (chance, likely))

    def _write(self, file: int, path: Path, written: dict[int, Path], luck: tuple[random.Random, float]) -> None:
        if file in written:
            path.hardlink_to(written[file])
            return
        data = bytearray(self._files[file].durable)
        for op in self._files[file].pending:
            _apply(data, op, *luck)
        path.write_bytes(data)
        written[file] = path

    def _file(self, op: Op) -> File:
        return self._files[self._by_inode[op.inode]]

    def _new(self, inode: int, data: bytes) -> int:
        self._files.append(File(bytearray(data)))
        self._by_inode[inode] = len(self._files) - 1
        return len(self._files) - 1

    def _name(self, op: Op) -> None:
        names = op.data.decode().split("\0")
        file = -1
        if op.type == "C":
            file = self._new(op.inode, b"")
        elif op.type in "RL":
            file = self._now[names[0]]
        _rename(self._now, op, file)
        for directory in dict.fromkeys(name.rpartition("/")[0] for name in (names[-1], names[0])):
            self._pending.append((directory, op, file))

    def _sync_names(self, directory: str) -> None:
        for one, op, file in self._pending:
            if one == directory:
                _rename(self._durable, op, file)
        self._pending = [one for one in self._pending if one[0] != directory]


def _rename(names: dict[str, int], op: Op, file: int) -> None:
    old, new = (op.data.decode().split("\0") * 2)[:2]
    if op.type in "UR":
        names.pop(old, None)
    if op.type != "U":
        names[new] = file


def _apply(data: bytearray, op: Op, chance: random.Random | None, likely: float) -> None:
    if op.type == "T":
        if chance is None or chance.random() < likely:
            del data[op.number :]
            data.extend(bytes(op.number - len(data)))
        return
    for at, end in _sectors(op):
        if chance is None or chance.random() < likely:
            if len(data) < end:
                data.extend(bytes(end - len(data)))
            data[at:end] = op.data[at - op.number : end - op.number]


def _sectors(op: Op) -> Iterator[tuple[int, int]]:
    at, last = op.number, op.number + len(op.data)
    while at < last:
        end = min((at // SECTOR + 1) * SECTOR, last)
        yield at, end
        at = end
