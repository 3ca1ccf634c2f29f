"""An evidence export's bytes: one spelling of a ZIP, the members of each log, the manifest and its signature.

The same content always makes the same file: fixed times, members in order of their names, nothing of the moment. It is
written as it comes, a part of a log at a time, so its memory is that of one part, however long the log is.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from ccserver import verify
from ccserver.witness import Log
from ccshared import canonical, merkle

Write = Callable[[bytes], object]
Sign = Callable[[dict[str, Any]], dict[str, Any]]
_META_BYTES = 16 * 1024 * 1024
_MANIFEST_BYTES = 256 * 1024 * 1024
_STORED = frozenset({"manifest.json", "signature.json"})


@dataclass(frozen=True)
class Equivocation:
    """What an appliance signed for a place where another entry is stored; `leaf` are 32 bytes."""

    seq: int
    leaf: bytes
    payload: bytes | None
    checkpoint: str


@dataclass(frozen=True)
class Shown:
    """A log as an export shows it: its row, its newest receipt, places `first` up to `end` are in the range."""

    log: Log
    receipt: str | None
    first: int
    end: int
    forks: tuple[Equivocation, ...] = ()

    @property
    def place(self) -> str:
        """The folder of its parts."""
        _, _, appliance, epoch = self.log.origin.split("/")
        return f"logs/{appliance}/{epoch}"

    def shows(self, seq: int) -> bool:
        """Whether an entry is shown: those of the range, those that prove its ends, the log's first and last."""
        return self.first - 1 <= seq <= self.end or seq in (0, self.log.size - 1)

    def meta(self) -> dict[str, Any]:
        """Return what the log's .json says."""
        return {
            "v": 1,
            "origin": self.log.origin,
            "public_key": self.log.public_key.hex(),
            "size": self.log.size,
            "first": self.first,
            "end": self.end,
            "receipt": self.receipt,
            "checkpoint": self.log.checkpoint if self.receipt is None else None,
            "equivocations": [_fork(fork) for fork in self.forks],
        }


def _fork(fork: Equivocation) -> dict[str, Any]:
    payload = fork.payload.decode() if fork.payload is not None else None
    return {"seq": fork.seq, "leaf": fork.leaf.hex(), "payload": payload, "checkpoint": fork.checkpoint}


class Pack:
    """An export being written through `write`, member after member, in order of their names."""

    def __init__(self, write: Write) -> None:
        self._write, self._offset = write, 0
        self._members: list[verify.Member] = []
        self.listed: list[dict[str, Any]] = []
        self.logs = self.entries = self.payloads = 0

    def add(self, name: str, content: bytes) -> None:
        """Write a member."""
        method = 0 if name in _STORED else 8
        packed = _deflate(content) if method else content
        member = verify.Member(name, method, zlib.crc32(content), len(packed), len(content), self._offset)
        self._put(verify.local_header(member) + packed)
        self._members.append(member)
        self.listed.append(
            {
                "name": name,
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "packed": len(packed),
                "packed_sha256": hashlib.sha256(packed).hexdigest(),
            }
        )

    def finish(self, about: dict[str, Any], sign: Sign) -> None:
        """Write the manifest, what `sign` makes of it, and the ZIP's directory.

        `about` says server, partner, site, from and to.
        """
        manifest = {"v": 1, "format": verify.FORMAT, **about, "members": list(self.listed)}
        manifest |= {"logs": self.logs, "entries": self.entries, "payloads": self.payloads}
        text = canonical.write(manifest, _MANIFEST_BYTES)
        self.add("manifest.json", text)
        signed = sign({"manifest": hashlib.sha256(text).hexdigest(), "server": about["server"]})
        self.add("signature.json", plain(signed))
        directory = b"".join(map(verify.central_header, self._members))
        end = verify.end_records(len(self._members), len(directory), self._offset)
        self._put(directory + end)

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._offset += len(data)


class LogPack:
    """A log being written into a pack, line after line; afterwards `proofs` are those of its sample."""

    def __init__(self, pack: Pack, shown: Shown, sample: int) -> None:
        self._pack, self._shown = pack, shown
        self._lines: list[bytes] = []
        self._length = self._first = self._seq = 0
        self._sample = Sample(shown.log.size, places(shown, sample) if shown.receipt else [])
        pack.add(shown.place + ".json", canonical.write(shown.meta(), _META_BYTES))
        pack.logs += 1
        pack.entries += shown.log.size

    def line(self, leaf: bytes, payload: bytes | None, why: str | None) -> bool:
        """Take the next entry: its leaf, and its payload or the reason why there is none; true once a part is full."""
        shown = self._shown.shows(self._seq)
        if payload is not None and shown:
            text = payload
            self._pack.payloads += 1
        else:
            text = b'{"leaf":"%b","why":"%b"}' % (leaf.hex().encode(), ((shown and why) or "out_of_range").encode())
        self._sample.add(leaf)
        self._lines.append(text)
        self._length += len(text) + 1
        self._seq += 1
        return self._length >= verify.PART_BYTES

    def flush(self) -> None:
        """Write what was taken as a part."""
        if self._lines:
            text = b"\n".join(self._lines) + b"\n"
            self._pack.add(f"{self._shown.place}/{self._first:012d}.ndjson", text)
        self._lines, self._length, self._first = [], 0, self._seq

    def proofs(self) -> list[bytes]:
        """Return the sample's inclusion proofs in the receipt's tree, a line each."""
        origin = self._shown.log.origin
        return [
            canonical.write({"log": origin, "seq": seq, "leaf": leaf.hex(), "hashes": [each.hex() for each in path]})
            for seq, leaf, path in self._sample.paths()
        ]


class Sample:
    """Inclusion proofs of a few leaves of a tree whose leaves come one after the other, in order."""

    def __init__(self, size: int, chosen: Iterable[int]) -> None:
        self._size = size
        self._chosen = {seq: _siblings(seq, size) for seq in chosen}
        self._wanted = {each for path in self._chosen.values() for each in path} | {(s, s + 1) for s in self._chosen}
        self._found: dict[tuple[int, int], bytes] = {}
        self._edge: list[tuple[int, int, bytes]] = []
        self._seq = 0

    def add(self, leaf: bytes) -> None:
        """Take the next leaf."""
        if not self._chosen:
            return
        start, end, node = self._seq, self._seq + 1, leaf
        self._keep(start, end, node)
        while self._edge and self._edge[-1][1] - self._edge[-1][0] == end - start:
            start, _, left = self._edge.pop()
            node = merkle.node_hash(left, node)
            self._keep(start, end, node)
        self._edge.append((start, end, node))
        self._seq += 1

    def _keep(self, start: int, end: int, node: bytes) -> None:
        if (start, end) in self._wanted:
            self._found[start, end] = node

    def paths(self) -> list[tuple[int, bytes, list[bytes]]]:
        """Return (place, leaf, audit path) of each chosen leaf."""
        return [
            (seq, self._found[seq, seq + 1], [self._node(each) for each in path])
            for seq, path in sorted(self._chosen.items())
        ]

    def _node(self, span: tuple[int, int]) -> bytes:
        found = self._found.get(span)
        return found if found is not None else merkle.root_of([node for at, _, node in self._edge if at >= span[0]])


def places(shown: Shown, count: int) -> list[int]:
    """Return which entries of a log are proved one by one: its last, and others spread evenly over the range."""
    first, end = shown.first, shown.end
    if not shown.log.size or count <= 0:
        return []
    spread = {first + (end - first) * part // count for part in range(count)} if end > first else set()
    return sorted({*spread, shown.log.size - 1})


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Return the spans of an audit path's nodes, nearest sibling first (RFC 6962, 2.1.1)."""
    path, low, high = [], 0, size
    while high - low > 1:
        split = low + (1 << (high - low - 1).bit_length() - 1)
        if index < split:
            path.append((split, high))
            high = split
        else:
            path.append((low, split))
            low = split
    return path[::-1]


def plain(value: dict[str, Any]) -> bytes:
    """Return JSON in the one spelling, with keys that canonical JSON does not allow (those of DSSE)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()
