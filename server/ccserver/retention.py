"""How long what is kept: terms in days, each with the least that may be configured."""

from dataclasses import dataclass, fields

# Documentation is kept six years (45 CFR 164.316(b)(2)(i)), leap days included.
SIX_YEARS = 2192


@dataclass(frozen=True)
class Terms:
    """Days that each kind of row is kept after it ended; what has no term here is kept for ever."""

    evidence: int = SIX_YEARS
    waivers: int = SIX_YEARS
    incidents: int = 1096
    snapshots: int = 1096
    check_states: int = 90
    codes: int = 30
    invitations: int = 30
    problems: int = 90


LEAST = Terms(incidents=90, snapshots=90, check_states=7, codes=1, invitations=1, problems=7)
NAMES = tuple(field.name for field in fields(Terms))


@dataclass(frozen=True)
class Swept:
    """What one bounded statement did: rows that it chose, and of these the rows that it changed."""

    chosen: int
    done: int
