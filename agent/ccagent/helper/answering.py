"""What the helper answers to one line: a read, or an order or repair that it verified itself, or why not."""

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any

from ccagent.config import Config
from ccagent.helper import pinned, reads, running
from ccagent.helper.journal import JournalUnusableError, TooOftenError
from ccagent.helper.pinned import PinUnusableError
from ccagent.helper.places import HelperPlaces
from ccagent.helper.reads import NotReadError
from ccagent.helper.request import BadRequestError, Keys, Order, Outcome, Read, Repair, Request, parse
from ccagent.helper.running import RefusedError
from ccagent.host import Host

log = logging.getLogger(__name__)

_SPOKEN = (RefusedError, NotReadError, BadRequestError, PinUnusableError, JournalUnusableError, TooOftenError)


@dataclass(frozen=True)
class Desk:
    """What an answer is made from; `halt` becomes readable when the helper stops or has died."""

    config: Config
    places: HelperPlaces
    halt: int


def answer(desk: Desk, line: bytes) -> bytes:
    """Return the answer to a line (without its line end), with its line end; it never raises."""
    told: dict[str, Any]
    try:
        told = {"ok": True, **_answer(desk, parse(line))}
    except _SPOKEN as error:
        log.info("refused: %s", error)
        told = refusal(str(error))
    except Exception:  # whatever goes wrong with one request must not end the helper, nor tell what it saw
        log.exception("a request could not be answered")
        told = refusal("could not be answered: the helper's log says why")
    return encode(told)


def refusal(reason: str) -> dict[str, Any]:
    """Return an answer that refuses."""
    return {"ok": False, "reason": reason}


def encode(told: dict[str, Any]) -> bytes:
    """Return an answer as one line."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _answer(desk: Desk, request: Request) -> dict[str, Any]:
    match request:
        case Read(what=what):
            return {"output": asyncio.run(reads.read(what, Host.here(), desk.config.checks))}
        case Keys(statements=statements):
            return {"keys": sorted(pinned.follow(desk.places.pinned, statements).order_keys)}
        case Order():
            log.info("an order is looked at")
            return running.order(desk.places, request, desk.halt)
        case Repair():
            log.info("a repair by %s is looked at", request.runbook)
            return running.repair(desk.places, request, desk.halt)
        case Outcome(id=run_id):
            return _outcome(desk, run_id)


def _outcome(desk: Desk, run_id: str) -> dict[str, Any]:
    pinned.load(desk.places.pinned)  # before that there is no journal, and the sentence is another
    for kind in ("order", "repair"):
        known = running.recorded(desk.places, kind, run_id)
        if known is not None:
            return known
    raise RefusedError("nothing of this id was begun")
