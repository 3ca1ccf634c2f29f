"""What people do about incidents, by the API and on pages alike: each act is written down where it is done."""

from collections.abc import Awaitable, Callable

from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.listing import Page
from ccserver.queries import audit_log, incident_comments, incidents, planner
from ccserver.queries.audit_log import Act
from ccserver.queries.incident_comments import Comment
from ccserver.queries.incidents import Filter, IncidentDetail
from ccserver.scope import PartnerScope, SiteScope
from ccshared import ids

_Change = Callable[[SiteScope, str, int, str], Awaitable[IncidentDetail | None]]


async def page(scope: PartnerScope | SiteScope, wanted: Filter, asked: Page) -> list[IncidentDetail]:
    """Return a page of the scope's incidents, newest first, by the index that fits what is wanted."""
    await planner.read_in_order(scope)
    if isinstance(scope, SiteScope):
        return await incidents.newest_of_site(scope, wanted, asked)
    return await (incidents.newest_open if wanted.is_open else incidents.newest)(scope, wanted, asked)


async def acknowledge(scope: SiteScope, actor: str, incident_id: str, revision: int) -> IncidentDetail:
    """Say that somebody looks after an incident; the first who said so stays.

    NotFoundError without it, ChangedMeanwhileError when people did more since `revision` was read.
    """
    return await _change(scope, Act(actor, "incident.acknowledge", incident_id, {}), incidents.acknowledge, revision)


async def resolve(scope: SiteScope, actor: str, incident_id: str, revision: int) -> IncidentDetail:
    """Close an incident by hand; what its appliance says of it stays as it is. Errors as for `acknowledge`."""
    return await _change(scope, Act(actor, "incident.resolve", incident_id, {}), incidents.close_by_hand, revision)


async def comment(scope: SiteScope, actor: str, incident_id: str, body: str) -> Comment:
    """Add a comment to an incident; NotFoundError without it."""
    if await incidents.find(scope, incident_id) is None:
        raise NotFoundError
    made = await incident_comments.insert(scope, incident_id, ids.new_id(), actor, body)
    await audit_log.append(scope, Act(actor, "incident.comment", incident_id, {}))
    return made


async def _change(scope: SiteScope, act: Act, change: _Change, revision: int) -> IncidentDetail:
    if await incidents.find(scope, act.target) is None:
        raise NotFoundError
    changed = await change(scope, act.target, revision, act.actor)
    if changed is None:
        raise ChangedMeanwhileError
    await audit_log.append(scope, Act(act.actor, act.action, act.target, {"site": scope.site_id}))
    return changed
