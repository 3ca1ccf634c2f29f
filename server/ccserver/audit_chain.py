"""The audit log's hash chain, recomputed: a rule over entries in order, which says where the first one is wrong.

hash = SHA-256(previous hash || seq as 8 bytes, big-endian || entry), the first after 32 zero bytes.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ccshared import canonical

_ENTRY_BYTES = 65536


@dataclass(frozen=True)
class Link:
    """An entry as it is stored: the columns that people read, and the bytes that were hashed."""

    seq: int
    at: datetime
    actor: str
    action: str
    target: str
    entry: bytes
    hash: bytes


@dataclass(frozen=True)
class Head:
    """What a chain says of itself: how many entries, and the hash of the last; `last_seq` is the highest stored."""

    partner_id: str
    size: int
    hash: bytes
    last_seq: int | None


@dataclass(frozen=True)
class Progress:
    """How far a chain is good; `first_bad_seq` and `reason` once it is not."""

    size: int = 0
    hash: bytes = bytes(32)
    first_bad_seq: int | None = None
    reason: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether nothing wrong was met so far."""
        return self.first_bad_seq is None


def follow(progress: Progress, links: Iterable[Link]) -> Progress:
    """Return how far the chain is good after the next entries in order of seq; it stops at the first bad one."""
    for link in links:
        if not progress.is_good:
            return progress
        progress = _step(progress, link)
    return progress


def conclude(progress: Progress, head: Head) -> Progress:
    """Return the progress compared with the chain's head, once every entry below its size was followed."""
    if not progress.is_good:
        return progress
    if progress.size < head.size:
        return _bad(progress, progress.size, "missing: the head counts more entries")
    if head.last_seq is not None and head.last_seq >= head.size:
        return _bad(progress, head.size, "the head does not know of it")
    if progress.hash != head.hash:
        return _bad(progress, max(head.size - 1, 0), "the head has another hash")
    return progress


def _step(progress: Progress, link: Link) -> Progress:
    if link.seq != progress.size:
        return _bad(progress, progress.size, "missing")
    made = hashlib.sha256(progress.hash + link.seq.to_bytes(8, "big") + link.entry).digest()
    if made != link.hash:
        return _bad(progress, link.seq, "the hash is not that of the entry and all before it")
    if not _columns_match(link):
        return _bad(progress, link.seq, "the columns do not say what the hashed entry says")
    return Progress(progress.size + 1, made)


def _columns_match(link: Link) -> bool:
    try:
        entry = canonical.read(link.entry, _ENTRY_BYTES)
    except ValueError:
        return False
    at_ms = int(link.at.timestamp() * 1000)
    shown = {"actor": link.actor, "action": link.action, "target": link.target, "at": at_ms}
    return all(entry.get(name) == value for name, value in shown.items())


def _bad(progress: Progress, seq: int, reason: str) -> Progress:
    return Progress(progress.size, progress.hash, seq, reason)
