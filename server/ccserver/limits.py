"""How often who may call: token buckets in the memory of one process. No I/O, no clock: the time is given.

A bucket refills at `per_second` up to `burst`. The table of a kind is bounded: when it is full, the bucket used longest
ago is forgotten, which gives its owner a full one; an attacker with many addresses cannot have the memory.
"""

import functools
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_MOST = 50_000  # some 10 MB a kind at most


@dataclass(frozen=True)
class Rate:
    """Calls per second that go on for ever, and how many may come at once."""

    per_second: float
    burst: float


@dataclass(frozen=True)
class Rates:
    """The rate of each kind of caller; docs/limits.md says why these."""

    appliance: Rate = Rate(100, 1000)
    anonymous: Rate = Rate(200, 4000)
    password: Rate = Rate(0.5, 60)
    account: Rate = Rate(0.2, 20)
    principal: Rate = Rate(50, 500)
    guess: Rate = Rate(5, 300)


Kind = Literal["appliance", "anonymous", "password", "account", "principal", "guess"]


class Buckets:
    """The buckets of one kind of caller."""

    def __init__(self, rate: Rate, most: int = _MOST) -> None:
        self._rate = rate
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    def __len__(self) -> int:
        return len(self._left)

    def take(self, key: str, now: float, cost: float = 1) -> float:
        """Take `cost` tokens and return 0.0, or take none and return the seconds until there are as many.

        `now` is monotonic, in seconds. A cost of 0 asks whether one token is there.
        """
        tokens = self._tokens(key, now)
        wanted = cost or 1
        if tokens < wanted:
            return (wanted - tokens) / self._rate.per_second
        if cost:
            self._left[key] = (tokens - cost, now)
            self._left.move_to_end(key)
            if len(self._left) > self._most:
                self._left.popitem(last=False)
        return 0.0

    def _tokens(self, key: str, now: float) -> float:
        tokens, at = self._left.get(key, (self._rate.burst, now))
        return min(self._rate.burst, tokens + max(0.0, now - at) * self._rate.per_second)


@dataclass
class Limits:
    """All buckets of a process."""

    rates: Rates
    kinds: dict[str, Buckets] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = {name: Buckets(rate) for name, rate in vars(self.rates).items()}

    def wait_s(self, kind: Kind, key: str, now: float, cost: float = 1) -> int:
        """Return 0 when the call may go on, else in how many whole seconds, at least 1, to come again."""
        wait = self.kinds[kind].take(key, now, cost)
        return max(1, math.ceil(wait)) if wait else 0


@dataclass
class Told:
    """How many of the same events may be told one by one; the others are counted until the next one is told."""

    buckets: Buckets
    held: "OrderedDict[str, int]" = field(default_factory=OrderedDict)

    def tell(self, key: str, now: float) -> int | None:
        """Return how many were held back since the last one told, or None when this one is held back too."""
        if self.buckets.take(key, now):
            self.held[key] = self.held.get(key, 0) + 1
            if len(self.held) > _MOST:
                self.held.popitem(last=False)
            return None
        return self.held.pop(key, 0)


def client(peer: str | None, forwarded: list[str], trusted: tuple[Network, ...]) -> Address | None:
    """Return who calls: the peer, or what a trusted proxy says of it; None for a peer without an address.

    `forwarded` are the values of X-Forwarded-For. Read from the right, past trusted proxies: what stands left of the
    first address that is none of them was written by the caller and says nothing.
    """
    at = _address(peer)
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while at is not None and hops and any(at in network for network in trusted):
        before = _address(hops.pop())
        if before is None:
            break
        at = before
    return at


def may_speak_plainly(peer: str | None, trusted: tuple[Network, ...]) -> bool:
    """Return whether nobody else reads what a peer sends over http: this host itself, or a proxy that is listed."""
    at = _address(peer)
    return at is None or at.is_loopback or any(at in network for network in trusted)


def key_of(address: Address | None) -> str:
    """Return whose bucket an address takes from: an IPv4 address its own, IPv6 addresses one for their /64."""
    if address is None:
        return "local"
    return str(address) if address.version == 4 else address.exploded[:19]


@functools.lru_cache(4096)
def _address(text: str | None) -> Address | None:
    try:
        found = ip_address((text or "").strip("[]"))
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
