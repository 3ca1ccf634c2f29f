"""The body of an append: a header line, then a line per entry, each a payload or a stub, each ended by a line feed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccshared import canonical
from ccshared.entries import MAX_RECOVERED_BYTES
from ccshared.notes import MAX_NUMBER
from ccshared.vocabulary import StubReason

MAX_LINES = 500
MAX_BYTES = 8 * 1024 * 1024

_LEAF = re.compile(r"[0-9a-f]{64}")
_REASONS = frozenset(StubReason)


class BadBatchError(ValueError):
    """The body is not a header and as many lines as it counts."""

    def __init__(self, why: str, seq: int | None = None) -> None:
        super().__init__(why)
        self.seq = seq


@dataclass(frozen=True)
class Stub:
    """A bare 32-byte leaf that stands for a payload not sent, and why."""

    leaf: bytes
    why: StubReason

    @property
    def line(self) -> bytes:
        """The stub as it travels."""
        return canonical.write({"leaf": self.leaf.hex(), "why": str(self.why)})


@dataclass(frozen=True)
class Batch:
    """Entries `first` … `first + len(lines) - 1` of a log, with the signed checkpoint of exactly that size.

    `held` is the newest receipt that the sender holds. A line is a payload's bytes, or a stub.
    """

    checkpoint: str
    first: int
    held: str | None
    lines: Sequence[bytes | Stub]

    @property
    def end(self) -> int:
        """The log's size once these lines are in it."""
        return self.first + len(self.lines)


def write(batch: Batch) -> bytes:
    """Return the body, not compressed."""
    header = {
        "checkpoint": batch.checkpoint,
        "count": len(batch.lines),
        "first": batch.first,
        "held": batch.held,
    }
    lines = [line.line if isinstance(line, Stub) else line for line in batch.lines]
    return b"".join(line + b"\n" for line in [canonical.write(header), *lines])


def read(body: bytes) -> Batch:
    """Return the batch in a body; BadBatchError names the entry's `seq` where one is at fault.

    Payloads are not looked into: what belongs at their place is for the witness to judge.
    """
    if len(body) > MAX_BYTES:
        raise BadBatchError(f"longer than {MAX_BYTES} bytes")
    head, *lines = body.split(b"\n")
    if not lines or lines.pop() != b"":
        raise BadBatchError("the last line is not ended")
    header = _read_header(head)
    first = header["first"]
    if len(lines) != header["count"]:
        raise BadBatchError(f"{len(lines)} lines where the header counts {header['count']}")
    return Batch(
        checkpoint=header["checkpoint"],
        first=first,
        held=header["held"],
        lines=[_read_line(line, first + place) for place, line in enumerate(lines)],
    )


def _read_header(line: bytes) -> dict[str, Any]:
    try:
        header = canonical.read(line)
    except canonical.NotCanonicalError as error:
        raise BadBatchError(f"the header is not canonical JSON: {error}") from error
    count, first = header.get("count"), header.get("first")
    if type(count) is not int or not 1 <= count <= MAX_LINES:
        raise BadBatchError(f"count is not an integer from 1 to {MAX_LINES}")
    if type(first) is not int or not 0 <= first < MAX_NUMBER - MAX_LINES:
        raise BadBatchError("first is not an integer of 0 or more")
    if type(header.get("checkpoint")) is not str:
        raise BadBatchError("checkpoint is not text")
    if header.setdefault("held", None) is not None and type(header["held"]) is not str:
        raise BadBatchError("held is neither text nor null")
    return header


def _read_line(line: bytes, seq: int) -> bytes | Stub:
    if b'"leaf":' not in line:
        return line
    try:
        members = canonical.read(line, MAX_RECOVERED_BYTES)
    except canonical.NotCanonicalError as error:
        raise BadBatchError(f"not canonical JSON: {error}", seq) from error
    if "leaf" not in members:
        return line
    leaf, why = members["leaf"], members.get("why")
    if type(leaf) is not str or not _LEAF.fullmatch(leaf):
        raise BadBatchError("a stub's leaf is not 64 hex digits", seq)
    if type(why) is not str or why not in _REASONS:
        raise BadBatchError("a stub gives no known reason", seq)
    return Stub(bytes.fromhex(leaf), StubReason(why))
