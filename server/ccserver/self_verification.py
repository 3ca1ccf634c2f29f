"""The server verifies its own logs: stored payloads, leaves and the root of each receipt, a chunk at a time."""

import logging
from dataclasses import replace

from ccserver.queries import log_verifications
from ccserver.queries.log_verifications import Pass, Place
from ccserver.retention import Swept
from ccserver.scope import PlatformScope
from ccshared import merkle, notes

log = logging.getLogger("ccserver.self_verification")


async def advance(scope: PlatformScope, rows: int) -> Swept:
    """Verify the next `rows` entries of the log that is due; a fault ends its pass, and is logged as an error."""
    of = await log_verifications.due(scope)
    if of is None:
        return Swept(0, 0)
    end = min(of.log_size, of.size + rows)
    found = await log_verifications.places(scope, of, end)
    size, compact = merkle.extend(of.size, _hashes(of.compact_range), [place.leaf for place in found])
    fault = fault_of(of, found, end) or (root_fault(of, compact) if end == of.log_size else None)
    await log_verifications.store(scope, of, size, compact)
    if fault is not None or end == of.log_size:
        await log_verifications.conclude(scope, of, fault)
    if fault is not None:
        log.error("the stored log %s is not what was receipted: %s", of.origin, fault)
    return Swept(end - of.size, end - of.size)


def at(of: Pass, size: int) -> Pass:
    """Return the pass as it stands once `size` entries were verified."""
    return replace(of, size=size)


def fault_of(of: Pass, found: list[Place], end: int) -> str | None:
    """Return what is wrong with the places of a pass up to `end`, by the first of them; None when nothing is."""
    for seq, place in enumerate(found, of.size):
        if place.seq != seq:
            return f"entry {seq} is missing"
        if not place.is_hashed:
            return f"the payload of entry {seq} is not what was hashed"
    return None if len(found) == end - of.size else f"entry {of.size + len(found)} is missing"


def root_fault(of: Pass, compact: list[bytes]) -> str | None:
    """Return what is wrong with a log's receipt, or with the entries under it, once all of them were read."""
    try:
        signed = notes.read_checkpoint(of.checkpoint, of.public_key)
    except notes.BadNoteError as error:
        return f"its checkpoint is not good: {error}"[:300]
    if (signed.origin, signed.size) != (of.origin, of.log_size):
        return f"its checkpoint is of {signed.size} entries of {signed.origin}"[:300]
    if signed.root != merkle.root_of(compact):
        return f"the leaves do not lead to the root over {of.log_size} entries"
    return None if compact == _hashes(of.log_range) else "the tree that is kept beside it is another"


def _hashes(data: bytes) -> list[bytes]:
    return [data[start : start + 32] for start in range(0, len(data), 32)]
