"""Going on in a new epoch where a log cannot be gone on with: rollback, clone, corruption.

The new log keeps the key. Its genesis says why it began, gaps say what is missing of the old ones, and what of those
the server has no receipt for is carried over, so that it is still proved and still counts once.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ccagent import evidence, identity, queue
from ccagent.evidence import Beginning, Stamp
from ccagent.identity import Identity, IdentityUnusableError
from ccagent.places import Places
from ccagent.queue import Epoch
from ccagent.store import Store, Tx
from ccshared.entries import Draft

_RANGES_AT_ONCE = 4000  # of missing entries in one gap, to stay well below a payload's limit

Ranges = list[tuple[int, int]]
Recovered = Callable[[bytes], Draft]
Carry = Callable[[Tx, Recovered], object]


@dataclass(frozen=True)
class Ended:
    """A log that ends, and the places in it, as (first, last), of which nothing is left here."""

    epoch: Epoch
    missing: Ranges


def begin(store: Store, stamp: Stamp, reason: str, ended: Sequence[Ended], carry: Carry) -> Epoch | None:
    """Close the open log, open the one that follows, and carry over: one commit.

    `carry(tx, recovered)` appends what is carried; `recovered` makes the entry that carries a payload. Return the new
    epoch, None when this appliance never had a log.
    """
    begun = _successor(store.places, [one.epoch for one in ended], stamp)
    if begun is None:
        return None
    newest = [one.epoch.receipt for one in ended if one.epoch.receipt]
    beginning = Beginning(
        reason=reason,
        public_key=begun.public_key,
        previous=newest[-1] if newest else None,
        running_since_ms=store.write_now(queue.running_since, stamp[0]),
        version=identity.version(),
    )
    gaps = [gap for one in ended for gap in _gaps(stamp, reason, one)]
    first = [evidence.genesis(stamp, beginning), *gaps]
    store.write_now(_go_on, begun, first, reason, lambda tx: carry(tx, lambda old: evidence.recovered(stamp, old)))
    return begun


def ranges(places: Iterable[int]) -> Ranges:
    """Return ascending numbers as (first, last) of each run."""
    found: Ranges = []
    for seq in places:
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


def origin_of(places: Places, name: str, others: Sequence[str]) -> str | None:
    """Return the origin of this appliance's epoch `name`, told by its identity or another log's; None when neither."""
    known = known_identity(places)
    if known is not None:
        return known.origins + name
    return f"{others[-1].rpartition('/')[0]}/{name}" if others else None


def known_identity(places: Places) -> Identity | None:
    """Return who this appliance is; None before enrolment and when its file is spoilt."""
    try:
        return identity.load(places)
    except IdentityUnusableError:
        return None


def _go_on(tx: Tx, begun: Epoch, first: Sequence[Draft], reason: str, carry: Callable[[Tx], object]) -> None:
    before = queue.current(tx)
    if before is not None:
        queue.close_epoch(tx, before.epoch, begun.opened_at_ms, reason)
    queue.open_epoch(tx, begun, first[0])
    for gap in first[1:]:
        queue.append(tx, gap)
    carry(tx)


def _gaps(stamp: Stamp, reason: str, one: Ended) -> list[Draft]:
    parts = (one.missing[at : at + _RANGES_AT_ONCE] for at in range(0, len(one.missing), _RANGES_AT_ONCE))
    return [evidence.gap(stamp, _told(reason, one.epoch, part)) for part in parts]


def _told(reason: str, epoch: Epoch, part: Ranges) -> dict[str, object]:
    return {
        "reason": reason,
        "log": epoch.origin,
        "count": sum(last - first + 1 for first, last in part),
        "first": part[0][0],
        "last": part[-1][1],
        "missing": [list(pair) for pair in part],
        "receipted": epoch.watermark,
    }


def _successor(places: Places, old: Sequence[Epoch], stamp: Stamp) -> Epoch | None:
    """Return the epoch that follows; its number is used up on the disk first, so that no two logs get the same."""
    known = known_identity(places)
    if known is None and not old:
        return None
    if known is None:
        name = f"{max(one.number for one in old) + 1}-{secrets.token_hex(4)}"
        return Epoch(name, f"{old[-1].origin.rpartition('/')[0]}/{name}", old[-1].public_key, stamp[0])
    name = identity.use_number(places, known, (one.number for one in old))
    return Epoch(name, known.origins + name, known.public_key, stamp[0])
