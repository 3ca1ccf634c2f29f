"""Which of two releases is older: a rule over their versions as programs say them."""

import re

_NUMBERS = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?(.*)", re.DOTALL)


def is_older(version: str | None, than: str) -> bool:
    """Return whether a version comes before another one; one that says nothing or nonsense is as old as can be.

    `1.2` is `1.2.0`; what follows the numbers (`1.2.0rc1`, `1.2.0.dev3`) comes before the release itself.
    """
    return _rank(version) < _rank(than)


def _rank(version: str | None) -> tuple[int, int, int, bool, str]:
    match = _NUMBERS.fullmatch(version or "")
    if match is None:
        return (-1, 0, 0, False, "")
    rest = match[4].partition("+")[0]
    return (int(match[1]), int(match[2]), int(match[3] or 0), not rest, rest)
