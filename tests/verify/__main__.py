"""The verifier at full length: `python -m tests.verify [MUTATIONS] [HONEST]`; 1 when one was accepted or refused."""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from ccserver import verify
from tests import exports
from tests.verify import mutations

_AT_ONCE = 250


def _accepted(first: int) -> list[str]:
    """Spoil a rich site and one of another seed by turns; return what was accepted."""
    sites = [mutations.rich_site(), exports.honest(first, plain=True)]
    found = (mutations.accepted(sites[seed // 2 % 2], seed) for seed in range(first, first + _AT_ONCE))
    return [name for name in found if name]


def _refused(seed: int, plain: bool) -> str | None:
    site = exports.honest(seed, plain)
    found = exports.verified(site, exports.packed(site))
    good = found.verdict == verify.INTACT if plain else found.verdict in (verify.INTACT, verify.INCOMPLETE)
    listed = plain or site.since is not None or site.until is not None or site.wants <= set(found.counts)
    return None if good and listed else f"{seed} plain={plain}: {found.text()}"


def main(spoilt: int = 20_000, honest: int = 1_000) -> int:
    """Verify spoilt and honest exports; print what should not have been."""
    with ProcessPoolExecutor() as pool:
        accepted = [name for names in pool.map(_accepted, range(0, spoilt, _AT_ONCE)) for name in names]
        refused = [
            text
            for plain in (True, False)
            for text in pool.map(partial(_refused, plain=plain), range(honest // 2), chunksize=25)
            if text
        ]
    print(*accepted, *refused, sep="\n")
    print(f"{spoilt} spoilt: {len(accepted)} accepted; {honest} honest: {len(refused)} refused")
    return 1 if accepted or refused else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
