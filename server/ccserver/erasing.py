"""The appliance's side of redactions: the order that erases the payload there too, and that it did.

An approved redaction has one order that lives as long as an order may; while its appliance has not answered that it is
erased, another is made once the one before is over. The row is held meanwhile, so two servers never make two.
"""

import logging

from ccserver import ordering
from ccserver.errors import CentralCommandError
from ccserver.keys import ServerKeys
from ccserver.ordering import MAX_LIFE_S, Checked, Who
from ccserver.queries import orders, redactions
from ccserver.queries.redactions import Waiting
from ccserver.scope import Database, SiteScope
from ccshared import erasure
from ccshared.erasure import Erasure

_AT_ONCE = 200  # redactions that one round looks at
log = logging.getLogger("ccserver.erasing")


async def follow(scope: SiteScope, keys: ServerKeys, redaction_id: str) -> bool:
    """Carry one redaction on: write that its appliance erased, or release the next order; False when neither is due."""
    if await redactions.settle(scope, redaction_id, erasure.RUNBOOK.id):
        return True
    wanted = await redactions.lock_to_erase(scope, redaction_id, erasure.RUNBOOK.id)
    if wanted is None:
        return False
    named = erasure.parameters(Erasure(wanted.epoch, wanted.seq, wanted.leaf, redaction_id))
    asked = Who(wanted.requested_by, wanted.requested_by)
    draft = ordering.draft_of(
        Checked(erasure.RUNBOOK, dict(named), MAX_LIFE_S), scope.site_id, wanted.appliance_id, asked
    )
    await orders.insert(scope, draft)
    await ordering.release(scope, keys, draft, wanted.approved_by)
    return True


async def follow_all(db: Database, keys: ServerKeys) -> int:
    """Do one round, each redaction in a transaction of its own; return how many were carried on."""
    async with db.platform() as platform:
        waiting = await redactions.to_follow(platform, erasure.RUNBOOK.id, _AT_ONCE)
    return sum([await _one(db, keys, each) for each in waiting])


async def _one(db: Database, keys: ServerKeys, each: Waiting) -> bool:
    try:
        async with db.site(each.partner_id, each.site_id) as scope:
            return await follow(scope, keys, each.id)
    except CentralCommandError as error:
        log.warning("a redaction waits for the next round: %s", error)
        return False
