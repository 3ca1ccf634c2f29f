"""What people do about problems, by the API and on pages alike: each act is written down where it is done."""

from datetime import datetime

from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.queries import audit_log, problems
from ccserver.queries.audit_log import Act
from ccserver.queries.problems import Trouble
from ccserver.scope import PartnerScope


async def find(scope: PartnerScope, problem_id: str) -> Trouble:
    """Return a problem; NotFoundError without it."""
    found = await problems.find(scope, problem_id)
    if found is None:
        raise NotFoundError
    return found


async def acknowledge(scope: PartnerScope, actor: str, problem_id: str, revision: int) -> Trouble:
    """Say that somebody looks after a problem: nobody is reminded of it any more.

    NotFoundError without it, ChangedMeanwhileError when people did more since `revision` was read.
    """
    await find(scope, problem_id)
    if not await problems.acknowledge(scope, problem_id, revision, actor):
        raise ChangedMeanwhileError
    await audit_log.append(scope, Act(actor, "problem.acknowledge", problem_id, {}))
    return await find(scope, problem_id)


async def snooze(scope: PartnerScope, actor: str, problem_id: str, revision: int, until: datetime | None) -> Trouble:
    """Tell nobody of a problem until then, or (None) tell again. Errors as for `acknowledge`."""
    await find(scope, problem_id)
    if not await problems.snooze(scope, problem_id, revision, until):
        raise ChangedMeanwhileError
    said = until.isoformat() if until else None
    await audit_log.append(scope, Act(actor, "problem.snooze", problem_id, {"until": said}))
    return await find(scope, problem_id)
