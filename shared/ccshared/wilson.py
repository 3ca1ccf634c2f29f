"""How sure a share of successes is: few tries prove little."""

import math

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


def lower_bound(successes: int, count: int) -> float:
    """Return the lower end of Wilson's 95 % interval of a share (Wilson 1927); 0 without a try."""
    if count <= 0:
        return 0.0
    share, z2 = successes / count, _Z * _Z
    spread = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return (share + z2 / (2 * count) - spread) / (1 + z2 / count)
