"""Reading a damaged database: whatever of it still proves itself, wherever in its files it stands.

Evidence does not need SQLite to be read. A payload says which log it is of, where it stands and what it follows; in a
row its leaf stands right behind it. So the bytes of database and write-ahead log are searched for payloads that their
leaf is the hash of, in whatever page, in use or not; long ones, which a row keeps in a chain of pages, are put
together first. The other tables are read by SQL as far as it goes, from both ends.
"""

import contextlib
import mmap
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ccshared import entries

DATABASE = "agent.db"
WAL = "agent.db-wal"
KEPT_WAL = "agent.db-wal.kept"  # as it was before SQLite recovered from it

_PAGE = 4096  # what SQLite chooses for a new file, everywhere since 3.12
_FRAME = 24 + _PAGE
_LOCAL = _PAGE - 35  # the longest row that stands in one page (SQLite's file format, 1.6)
_START, _END = b'{"at":', b',"v":1}'
_TAIL = re.compile(
    rb'","log":"([!-~]{1,300})","prev":"([0-9a-f]{64})","salt":"[0-9a-f]{32}","seq":(0|[1-9][0-9]{0,15}),"v":1}\Z'
)
_RECEIPT = re.compile(rb"\n[0-9]{1,16}\n[A-Za-z0-9+/=]{44}\n\n(?:\xe2\x80\x94 [!-~]{1,300} [A-Za-z0-9+/=]{1,200}\n){2}")

# What is kept besides evidence, and how to read it; a row that no longer fits is left behind.
_TABLES = {
    "epochs": "SELECT * FROM epochs ORDER BY epoch",
    "receipts": "SELECT * FROM receipts ORDER BY epoch, size",
    "kept_leaves": "SELECT * FROM kept_leaves ORDER BY epoch, first",
    "erasures": "SELECT * FROM erasures ORDER BY epoch, seq",
    "running": "SELECT * FROM running ORDER BY id",
    "refused": "SELECT * FROM refused ORDER BY id",
    "check_states": "SELECT * FROM check_states ORDER BY host_id, check_name",
    "incidents": "SELECT * FROM incidents ORDER BY rowid",
    "pattern_stats": "SELECT * FROM pattern_stats ORDER BY rowid",
    "pattern_runbooks": "SELECT * FROM pattern_runbooks ORDER BY pattern_signature, action",
    "pattern_sync": "SELECT * FROM pattern_sync ORDER BY id",
    "pattern_orders": "SELECT * FROM pattern_orders ORDER BY pattern_signature, action",
    "attempts": "SELECT * FROM attempts ORDER BY id",
    "suppressions": "SELECT * FROM suppressions ORDER BY host_id, check_name, runbook",
    "orders": "SELECT * FROM orders ORDER BY rowid",
    "refused_orders": "SELECT * FROM refused_orders ORDER BY envelope_sha256",
    "takers": "SELECT * FROM takers ORDER BY order_id",
    "order_clock": "SELECT * FROM order_clock ORDER BY id",
    "policies": "SELECT * FROM policies ORDER BY appliance_id",
}

Row = dict[str, Any]
Piece = tuple[int, int, int]  # file, first byte, end


class Found(NamedTuple):
    """A payload that its leaf proves: what it follows (hex), its leaf, and where its bytes are."""

    prev: str
    leaf: bytes
    pieces: tuple[Piece, ...]


@dataclass
class Wreck:
    """The files of a damaged database, mapped into memory, and what was found in them."""

    files: list[bytes | mmap.mmap]
    logs: dict[str, dict[int, list[Found]]] = field(default_factory=dict)

    def read(self, found: Found) -> bytes:
        """Return a payload's bytes."""
        return b"".join(self.files[file][first:end] for file, first, end in found.pieces)

    def keep(self, pieces: Sequence[Piece], payload: bytes, leaf: bytes) -> None:
        """Remember a payload, once however often it was found."""
        match = _TAIL.search(payload[-600:])
        if match is None:
            return
        places = self.logs.setdefault(match[1].decode(), {}).setdefault(int(match[3]), [])
        if all(other.leaf != leaf for other in places):
            places.append(Found(match[2].decode(), leaf, tuple(pieces)))


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Wreck]:
    """Yield what the database and write-ahead log in a directory hold of evidence. OSError when they cannot be read."""
    with contextlib.ExitStack() as stack:
        wreck = Wreck([_mapped(stack, directory / name) for name in (DATABASE, KEPT_WAL, WAL)])
        for number, data in enumerate(wreck.files):
            for first, end in _whole_entries(data):
                wreck.keep([(number, first, end)], data[first:end], data[end : end + 32])
        for pieces, payload, leaf in _chained_entries(wreck.files):
            wreck.keep(pieces, payload, leaf)
        yield wreck


def chain(places: dict[int, list[Found]], newest_leaf: Callable[[int], bytes | None]) -> dict[int, Found]:
    """Return which of what was found stands at each place of one log.

    What a transaction that was undone left in the files can claim a place too. From the end on, the entry is the one
    that the next one follows; `newest_leaf` says for a place without a next what leaf is known to stand there.
    """
    chosen: dict[int, Found] = {}
    for seq in sorted(places, reverse=True):
        after = chosen.get(seq + 1)
        wanted = bytes.fromhex(after.prev) if after is not None else newest_leaf(seq)
        fitting = [found for found in places[seq] if found.leaf == wanted]
        if fitting or after is None:
            chosen[seq] = (fitting or places[seq])[-1]
    return chosen


def receipts(wreck: Wreck, origin: str) -> list[str]:
    """Return what look like receipts of a log, newest first; whether they are must be verified."""
    found: set[str] = set()
    name = origin.encode()
    for data in wreck.files:
        at = data.find(name + b"\n")
        while at >= 0:
            match = _RECEIPT.match(data, at + len(name))
            if match is not None:
                found.add(bytes(data[at : match.end()]).decode("utf-8"))
            at = data.find(name + b"\n", at + 1)
    return sorted(found, key=lambda text: int(text.split("\n", 2)[1]), reverse=True)


def tables(directory: Path) -> dict[str, list[Row]]:
    """Return the rows of the other tables, as far as SQLite can still read them."""
    try:
        connection = sqlite3.connect(f"{(directory / DATABASE).as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error:
        return {}
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    connection.row_factory = sqlite3.Row
    with contextlib.closing(connection):
        return {name: _both_ways(connection, statement) for name, statement in _TABLES.items()}


def _both_ways(connection: sqlite3.Connection, statement: str) -> list[Row]:
    rows, whole = _until_damage(connection, statement)
    if not whole:
        descending = ", ".join(f"{name} DESC" for name in statement.partition("ORDER BY ")[2].split(", "))
        behind, _ = _until_damage(connection, statement.partition("ORDER BY ")[0] + "ORDER BY " + descending)
        rows += [row for row in reversed(behind) if row not in rows]
    return rows


def _until_damage(connection: sqlite3.Connection, statement: str) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    try:
        for row in connection.execute(statement):
            rows.append(dict(row))  # noqa: PERF401 - those read before the damage count
    except (sqlite3.Error, OverflowError, UnicodeDecodeError):
        return rows, False
    return rows, True


def _mapped(stack: contextlib.ExitStack, path: Path) -> bytes | mmap.mmap:
    if not path.exists() or path.stat().st_size == 0:
        return b""
    file = stack.enter_context(path.open("rb"))
    return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _whole_entries(data: bytes | mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield (first byte, end) of each payload that stands in one piece, its leaf right behind it."""
    at = data.find(_START)
    while at >= 0:
        end = _end_of(data, at, at + _PAGE)
        if end:
            yield at, end
        at = data.find(_START, end or at + 1)


def _end_of(data: bytes | mmap.mmap, start: int, limit: int) -> int:
    """Return where the payload ends that begins at `start`, 0 when none is proved before the limit."""
    end = data.find(_END, start, limit)
    while end >= 0:
        end += len(_END)
        if sha256(b"\x00" + data[start:end]).digest() == data[end : end + 32]:
            return end
        end = data.find(_END, end, limit)
    return 0


def _chained_entries(files: Sequence[bytes | mmap.mmap]) -> Iterator[tuple[list[Piece], bytes, bytes]]:
    """Yield (pieces, payload, leaf) of rows too long for a page."""
    pages = list(_pages(files))
    places: dict[int, list[tuple[int, int]]] = {}
    for number, file, at in pages:
        places.setdefault(number, []).append((file, at))
    for number, file, at in pages:
        for cell in _long_cells(files[file], at, number == 1):
            for newest in (-1, 0):
                pieces = _follow(files, places, (file, *cell), newest)
                joined = b"".join(files[one][first:end] for one, first, end in pieces)
                start = joined.find(_START)
                end = _end_of(joined, start, len(joined)) if start >= 0 else 0
                if end:
                    yield _cut(pieces, start, end), joined[start:end], joined[end : end + 32]
                    break


def _pages(files: Sequence[bytes | mmap.mmap]) -> Iterator[tuple[int, int, int]]:
    """Yield (page number, file, first byte) of every page image, oldest first: the database's, then the logs'."""
    for number in range(len(files[0]) // _PAGE):
        yield number + 1, 0, number * _PAGE
    for file, wal in enumerate(files[1:], start=1):
        for at in range(32, len(wal) - _FRAME + 1, _FRAME):
            yield int.from_bytes(wal[at : at + 4], "big"), file, at + 24


def _long_cells(data: bytes | mmap.mmap, page: int, is_first: bool) -> Iterator[tuple[int, int]]:
    """Yield (first byte of the row, its length) of the rows on a page that go on elsewhere."""
    head = page + 100 * is_first
    if data[head] != 0x0D:
        return
    count = int.from_bytes(data[head + 3 : head + 5], "big")
    for i in range(min(count, _PAGE // 4)):
        cell = int.from_bytes(data[head + 8 + 2 * i : head + 10 + 2 * i], "big")
        if not 8 <= cell < _PAGE - 4:
            continue
        length, at = _varint(data, page + cell)
        _, at = _varint(data, at)
        if _LOCAL < length <= 2 * entries.MAX_RECOVERED_BYTES:
            yield at, length


def _follow(
    files: Sequence[bytes | mmap.mmap],
    places: dict[int, list[tuple[int, int]]],
    cell: tuple[int, int, int],
    newest: int,
) -> list[Piece]:
    """Return where the bytes of a long row are, page after page; fewer where a page is not there."""
    file, at, length = cell
    least = (_PAGE - 12) * 32 // 255 - 23
    local = least + (length - least) % (_PAGE - 4)
    local = local if local <= _LOCAL else least
    pieces = [(file, at, at + local)]
    following, left = files[file][at + local : at + local + 4], length - local
    while left > 0:
        images = places.get(int.from_bytes(following, "big"))
        if not images:
            break
        file, at = images[newest]
        taken = min(left, _PAGE - 4)
        pieces.append((file, at + 4, at + 4 + taken))
        following, left = files[file][at : at + 4], left - taken
    return pieces


def _cut(pieces: Sequence[Piece], start: int, end: int) -> list[Piece]:
    """Return the pieces of what lies from `start` to `end` in the joined ones."""
    cut, at = [], 0
    for file, first, last in pieces:
        length = last - first
        low, high = max(start - at, 0), min(end - at, length)
        if low < high:
            cut.append((file, first + low, first + high))
        at += length
    return cut


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Return a variable-length integer (SQLite's file format, 1.6) and where it ends."""
    value = 0
    for _ in range(8):
        byte = data[at] if at < len(data) else 0
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | (data[at] if at < len(data) else 0), at + 1
