"""Redaction: what should never have been sealed is erased once two persons said so. Leaf, place and kind stay for ever.

This is the server's side. The appliance's own payload goes by an order of its own type (`erasing`): until
`appliance_erased_at` is set, the redaction waits on the appliance, and a verifier says of the bare leaf that no
redaction entry explains it.
"""

from ccserver.errors import BadBodyError, NotFoundError, NotPendingError, SecondPersonNeededError
from ccserver.queries import audit_log, redactions
from ccserver.queries.audit_log import Act
from ccserver.queries.redactions import Copy, Redaction
from ccserver.scope import SiteScope
from ccshared import ids
from ccshared.canonical import Json
from ccshared.vocabulary import Kind

KEPT = frozenset({Kind.GENESIS, Kind.KEY_ROTATION, Kind.REDACTION})  # verifiers need them


async def request(scope: SiteScope, origin: str, seq: int, reason: str, who: str) -> tuple[Redaction, list[Copy]]:
    """Ask for a redaction; return it, and where else the same entry lies because it was carried into a later log.

    NotFoundError when no payload is there, BadBodyError for a kind that verifiers need, NotPendingError when somebody
    asked already.
    """
    target = await redactions.find_target(scope, origin, seq)
    if target is None:
        raise NotFoundError(f"Entry {seq} of {origin} is not at this site, or has no payload.")
    if target.kind in KEPT:
        raise BadBodyError(f"An entry of kind {target.kind} names keys or erasures, and stays: verifiers need it.")
    redaction_id = ids.new_id()
    if not await redactions.insert(scope, redaction_id, target, reason, who):
        raise NotPendingError("Its redaction was asked for already: `ccserver evidence redactions` shows it.")
    found = await _find(scope, redaction_id)
    others = await redactions.copies(scope, target.leaf)
    await _note(scope, "evidence.redact.request", found, who)
    return found, others


async def approve(scope: SiteScope, redaction_id: str, who: str) -> Redaction:
    """Erase the payload of a redaction that another person asked for, in the caller's transaction.

    SecondPersonNeededError when it is the same one, NotPendingError when it was approved already.
    """
    asked = await _find(scope, redaction_id)
    if asked.requested_by == who:
        raise SecondPersonNeededError
    if not await redactions.approve(scope, redaction_id, who):
        raise NotPendingError("The redaction was approved already.")
    await redactions.erase(scope, redaction_id)
    await redactions.forget_state(scope, redaction_id)
    found = await _find(scope, redaction_id)
    await _note(scope, "evidence.redact", found, who)
    return found


async def _find(scope: SiteScope, redaction_id: str) -> Redaction:
    found = await redactions.find(scope, redaction_id)
    if found is None:
        raise NotFoundError(f"There is no redaction {redaction_id} at this site.")
    return found


async def _note(scope: SiteScope, action: str, found: Redaction, who: str) -> None:
    detail: dict[str, Json] = {"site": found.site_id, "log": found.origin, "seq": found.seq, "reason": found.reason}
    detail["leaf"] = found.leaf
    await audit_log.append(scope, Act(who, action, f"redaction:{found.id}", detail))
