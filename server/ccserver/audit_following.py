"""A chain of the audit log read from the database and recomputed, a thousand entries at a time."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from ccserver import audit_chain
from ccserver.audit_chain import Head, Progress
from ccserver.queries import audit_log
from ccserver.scope import PartnerScope, PlatformScope

_AT_ONCE = 1000
AnyScope = PartnerScope | PlatformScope
_START = Progress()


async def follow(
    opened: Callable[[], AbstractAsyncContextManager[AnyScope]],
    head: Head,
    progress: Progress = _START,
    at_most: int | None = None,
) -> Progress:
    """Return how far a chain is good, from `progress` on, each thousand entries in a short transaction of their own.

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
