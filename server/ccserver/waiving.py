"""Waivers are made with a reason and an end, and ended by hand; each act is written down where it is done."""

from datetime import UTC, datetime, timedelta

from ccserver.errors import BadBodyError, ChangedMeanwhileError, NotFoundError
from ccserver.queries import audit_log, waivers
from ccserver.queries.audit_log import Act
from ccserver.queries.waivers import Draft, Waiver
from ccserver.scope import SiteScope
from ccshared import ids

LONGEST = timedelta(days=366)


async def make(scope: SiteScope, actor: str, draft: Draft) -> Waiver:
    """Let a check not count for a while; BadBodyError unless it ends in the future, and within 366 days."""
    now = datetime.now(UTC)
    if not now < draft.expires_at <= now + LONGEST:
        raise BadBodyError("expires_at: in the future, and within 366 days.")
    made = await waivers.insert(scope, ids.new_id(), draft, actor)
    await audit_log.append(scope, Act(actor, "waiver.create", made.id, {}))
    return made


async def revoke(scope: SiteScope, actor: str, waiver_id: str, revision: int) -> Waiver:
    """End a waiver now: its check counts again. NotFoundError, ChangedMeanwhileError."""
    if await waivers.find(scope, waiver_id) is None:
        raise NotFoundError
    ended = await waivers.revoke(scope, waiver_id, revision)
    if ended is None:
        raise ChangedMeanwhileError
    await audit_log.append(scope, Act(actor, "waiver.revoke", waiver_id, {"site": scope.site_id}))
    return ended
