"""Letting the root helper do something, and learning how it ended even if one of the two died meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ccagent.helper_client import HelperAbsentError, HelperRefusedError
from ccshared import phi

MAX_STEPS = 64
MAX_OUTPUT = 2000
MAX_REASON = 500
# A helper that is being started again answers within this; one that does not has been told to stop.
BACK_WITHIN_S = 60.0
AFTER_START_S = 15.0
LOOK_S = 2.0

WITHHELD = "withheld: personal data in it could not be told apart"

# Sends one request to the helper and returns its answer; its errors are those of helper_client.
Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Done:
    """How it ended: succeeded (all steps did), failed, or never begun; why; and what each step said, scrubbed."""

    status: str
    reason: str
    steps: tuple[dict[str, Any], ...] = ()

    @property
    def succeeded(self) -> bool:
        """Whether all steps did what they were to do."""
        return self.status == "succeeded"


INTERRUPTED = Done("failed", "it was interrupted, and what was interrupted is not run again")


async def is_there(ask: Ask, some_id: str) -> bool:
    """Return whether a helper answers: what it knows of an id does not matter."""
    try:
        await ask({"ask": "outcome", "id": some_id})
    except HelperAbsentError:
        return False
    except HelperRefusedError:
        return True
    return True


async def carry_out(ask: Ask, request: dict[str, Any], done_id: str, scrub_key: bytes) -> Done:
    """Ask once; where the answer is lost, ask what became of it and never for the thing itself again."""
    try:
        return _done(await ask(request), scrub_key)
    except HelperRefusedError as error:
        return Done("failed", _said(f"the helper refused: {error}", scrub_key, MAX_REASON))
    except HelperAbsentError:
        return await outcome(ask, done_id, scrub_key)


async def outcome(ask: Ask, done_id: str, scrub_key: bytes, within_s: float | None = None) -> Done:
    """Return what became of something that was begun; what nobody knows the end of has failed.

    While the helper says that it is at it, that is waited for; while it is not there, so long (s) as a restart takes.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + (BACK_WITHIN_S if within_s is None else within_s)
    while True:
        try:
            said = await ask({"ask": "outcome", "id": done_id})
        except HelperRefusedError:
            return INTERRUPTED
        except HelperAbsentError:
            if loop.time() >= until:
                return Done("failed", "no helper says how it ended, and it is not run again")
        else:
            if said.get("status") != "running":
                return _done(said, scrub_key)
            until = loop.time() + BACK_WITHIN_S
        await asyncio.sleep(LOOK_S)


def _done(answer: dict[str, Any], scrub_key: bytes) -> Done:
    status = answer.get("status")
    steps = answer.get("steps")
    told = tuple(_step(one, scrub_key) for one in (steps if isinstance(steps, list) else [])[:MAX_STEPS])
    if status in ("interrupted", "unknown", None):
        return Done("failed", INTERRUPTED.reason, told)
    reason = _said(answer.get("reason") or "", scrub_key, MAX_REASON)
    return Done("succeeded" if status == "succeeded" else "failed", reason, told)


def _step(step: Any, scrub_key: bytes) -> dict[str, Any]:
    if not isinstance(step, dict):
        return {"about": "", "exit_code": None, "output": ""}
    code = step.get("exit_code")
    return {
        "about": _said(step.get("about"), scrub_key, MAX_REASON),
        "exit_code": code if type(code) is int and abs(code) < 2**31 else None,
        "output": _said(step.get("output"), scrub_key, MAX_OUTPUT),
    }


def _said(text: Any, scrub_key: bytes, most: int) -> str:
    """Return text as it may be kept: scrubbed first, then its end, which says how it went, at most so long."""
    try:
        clean = phi.scrub_text(scrub_key, text if isinstance(text, str) else "").replace("\x00", " ")
    except phi.ScrubError:
        return WITHHELD
    return clean if len(clean) <= most else "…" + clean[1 - most :]
