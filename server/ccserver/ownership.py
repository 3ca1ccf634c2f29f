"""What may be changed about a partner's people: another role, an end; but the last owner stays."""

from dataclasses import dataclass

from ccserver.errors import ChangedMeanwhileError, LastOwnerError, NotFoundError
from ccserver.queries import audit_log, user_sites, users
from ccserver.queries.audit_log import Act
from ccserver.queries.users import Account, User
from ccserver.scope import PartnerScope
from ccshared.canonical import Json
from ccshared.vocabulary import Role


@dataclass(frozen=True)
class NewRole:
    """What a person is from now on: `site_ids` are an auditor's; `revision` is of the person as they were read."""

    role: str
    site_ids: list[str]
    revision: int


async def give_role(scope: PartnerScope, actor: str, user_id: str, new: NewRole) -> Account:
    """Give a person another role, an auditor with the sites to read, and write down who did; return the person.

    LastOwnerError, ChangedMeanwhileError when they are not at this revision, NotFoundError for another partner's
    person or site.
    """
    if await users.account(scope, user_id) is None:
        raise NotFoundError
    if new.role != Role.OWNER:
        await _keep_an_owner(scope, user_id)
    if not await users.give_role(scope, user_id, new.role, new.revision):
        raise ChangedMeanwhileError
    await user_sites.assign(scope, user_id, new.site_ids)
    found = await users.account(scope, user_id)
    assert found is not None  # noqa: S101  changed just above
    detail: dict[str, Json] = {"login": found.login, "role": found.role, "sites": [*new.site_ids]}
    await audit_log.append(scope, Act(actor, "user.role", f"user:{user_id}", detail))
    return found


async def disable(scope: PartnerScope, user_id: str) -> User:
    """Keep a person from signing in; LastOwnerError, or NotFoundError when the partner has no such person."""
    await _keep_an_owner(scope, user_id)
    return await users.disable(scope, user_id)


async def _keep_an_owner(scope: PartnerScope, user_id: str) -> None:
    if await users.lock_owners(scope) == [user_id]:
        raise LastOwnerError
