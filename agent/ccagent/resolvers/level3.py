"""L3: a person. Always answers, and the answer is that somebody has to look; they are told all that was tried."""

from collections.abc import Sequence
from typing import Any

from ccagent.resolvers import Proposal

MAX_ATTEMPTS = 20
NOBODY = "nothing here repairs by itself"


def history(why: str, mode: str, attempts: Sequence[dict[str, Any]], would: Proposal | None = None) -> dict[str, Any]:
    """Return what a person is told with the incident: why they are asked, what was tried, what would have been."""
    told: dict[str, Any] = {"why": why, "mode": mode, "attempts": list(attempts)[-MAX_ATTEMPTS:]}
    return told if would is None else {**told, "would": would.shown()}
