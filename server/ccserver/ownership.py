"""What may be changed about a partner's people: another role, an end; but the last owner stays."""

from ccserver.errors import ChangedMeanwhileError, LastOwnerError
from ccserver.queries import user_sites, users
from ccserver.queries.users import User
from ccserver.scope import PartnerScope
from ccshared.vocabulary import Role


async def give_role(scope: PartnerScope, user_id: str, role: str, site_ids: list[str], revision: int) -> None:
    """Give a person another role, an auditor with the sites to read.

    LastOwnerError, ChangedMeanwhileError when they are not at this revision, NotFoundError for another partner's site.
    """
    if role != Role.OWNER:
        await _keep_an_owner(scope, user_id)
    if not await users.give_role(scope, user_id, role, revision):
        raise ChangedMeanwhileError
    await user_sites.assign(scope, user_id, site_ids)


async def disable(scope: PartnerScope, user_id: str) -> User:
    """Keep a person from signing in; LastOwnerError, or NotFoundError when the partner has no such person."""
    await _keep_an_owner(scope, user_id)
    return await users.disable(scope, user_id)


async def _keep_an_owner(scope: PartnerScope, user_id: str) -> None:
    if await users.lock_owners(scope) == [user_id]:
        raise LastOwnerError
