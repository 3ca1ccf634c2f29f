"""The verifier at full length: `python -m tests.verify [MUTATIONS] [HONEST]`; 1 when one was accepted or refused."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

from ccserver import verify
from tests import exports
from tests.verify import mutations

_AT_ONCE = 100


def _accepted(first: int) -> list[str]:
    """Spoil a rich site and one of another seed by turns; return what was accepted."""
    sites = [mutations.rich_site(), exports.honest(first, plain=True)]
    found = (mutations.accepted(sites[seed // 2 % 2], seed) for seed in range(first, first + _AT_ONCE))
    return [name for name in found if name]


def _unnamed(first: int) -> list[str]:
    site = mutations.rich_site()
    return [name for name in (mutations.unnamed(site, seed) for seed in range(first, first + _AT_ONCE)) if name]


def _refused(first: int) -> list[str]:
    """Verify honest exports, plain and odd ones by turns; return those that were refused, or did not list a fault."""
    found = (_one_refused(seed // 2, plain=seed % 2 == 0) for seed in range(first, first + _AT_ONCE))
    return [text for text in found if text]


def _one_refused(seed: int, plain: bool) -> str | None:
    site = exports.honest(seed, plain)
    found = exports.verified(site, exports.packed(site))
    good = found.verdict == verify.INTACT if plain else found.verdict in (verify.INTACT, verify.INCOMPLETE)
    listed = plain or site.since is not None or site.until is not None or site.wants <= set(found.counts)
    return None if good and listed else f"{seed} plain={plain}: {found.text()}"


def _all(pool: ProcessPoolExecutor, what: str, act: Callable[[int], list[str]], count: int) -> list[str]:
    """Do `count` of something on every core, in hundreds; say every two thousand how far it is."""
    found: list[str] = []
    done: Iterable[list[str]] = pool.map(act, range(0, count, _AT_ONCE))
    for number, names in enumerate(done, 1):
        found += names
        if number % 20 == 0:
            print(f"{what}: {number * _AT_ONCE} of {count}, {len(found)} wrong", file=sys.stderr, flush=True)
    return found


def main(spoilt: int = 20_000, honest: int = 1_000) -> int:
    """Verify spoilt and honest exports; print what should not have been."""
    with ProcessPoolExecutor() as pool:
        accepted = _all(pool, "spoilt", _accepted, spoilt)
        unnamed = _all(pool, "named", _unnamed, spoilt // 10)
        refused = _all(pool, "honest", _refused, honest)
    print(*accepted, *unnamed, *refused, sep="\n")
    said = f"{spoilt} spoilt: {len(accepted)} accepted; {spoilt // 10} flipped entries: {len(unnamed)} not named"
    print(f"{said}; {honest} honest: {len(refused)} refused")
    return 1 if accepted or unnamed or refused else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
