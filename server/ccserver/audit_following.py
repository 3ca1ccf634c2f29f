"""A chain of the audit log read from the database and recomputed, five thousand entries at a time."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from ccserver import audit_chain, listing
from ccserver.audit_chain import Head, Progress
from ccserver.listing import ListQuery
from ccserver.queries import audit_log
from ccserver.scope import PartnerScope, PlatformScope

AT_ONCE = 5_000  # entries followed in one call: tens of milliseconds, in which nobody else is served
_AT_ONCE = 5_000
AnyScope = PartnerScope | PlatformScope
_START = Progress()


@dataclass(frozen=True)
class Verification:
    """How far a chain is good. `good` is None while `next`, the cursor to go on with, says that more is to follow.

    `size` counts the entries of the chain and `verified` those that are good; `head` is its newest hash as 64 hex.
    """

    good: bool | None
    size: int
    verified: int
    head: str
    first_bad_seq: int | None
    reason: str | None
    next: str | None


async def follow(
    opened: Callable[[], AbstractAsyncContextManager[AnyScope]],
    head: Head,
    progress: Progress = _START,
    at_most: int | None = None,
) -> Progress:
    """Return how far a chain is good, from `progress` on, each five thousand entries in a transaction of their own.

    Compared with the head once all of it is followed; with `at_most`, that many entries at least end this call.
    """
    end = head.size if at_most is None else min(head.size, progress.size + at_most)
    while progress.is_good and progress.size < end:
        async with opened() as scope:
            links = await audit_log.links(scope, head, progress.size, _AT_ONCE)
        if not links:
            break
        progress = audit_chain.follow(progress, links)
    if progress.is_good and progress.size >= end < head.size:
        return progress
    return audit_chain.conclude(progress, head)


async def verify(
    opened: Callable[[], AbstractAsyncContextManager[PartnerScope]],
    key: bytes,
    cursor: str | None,
    head: Head | None = None,
) -> Verification:
    """Return how far the opened partner's chain is good, from where the cursor of a call before says.

    `key` seals cursors; BadCursorError for one that is not this chain's. `head` is its head, if it was read.
    """
    if head is None:
        async with opened() as scope:
            (head,) = await audit_log.heads(scope, scope.partner_id)
    name = f"audit verification:{head.partner_id}"
    begun = _progress(listing.page_of(ListQuery(cursor=cursor), key, name).before_id)
    done = await follow(opened, head, begun, AT_ONCE)
    more = done.is_good and done.size < head.size
    return Verification(
        good=None if more else done.is_good,
        size=head.size,
        verified=done.size,
        head=head.hash.hex(),
        first_bad_seq=done.first_bad_seq,
        reason=done.reason,
        next=listing.seal(datetime.now(UTC), f"{done.size}.{done.hash.hex()}", key, name) if more else None,
    )


def _progress(place: str) -> Progress:
    """Return what a cursor of ours says was followed; without one, the beginning."""
    size, _, hashed = place.partition(".")
    return Progress(int(size), bytes.fromhex(hashed)) if hashed else Progress()
