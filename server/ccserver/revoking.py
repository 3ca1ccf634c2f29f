"""The end of what lets somebody in, by the API and on pages alike: each is written down where it is done."""

from ccserver import ownership
from ccserver.auth import Principal
from ccserver.errors import CodeUsedError, ForbiddenError, NotFoundError
from ccserver.queries import api_keys, appliances, audit_log, enrollment_codes, sessions
from ccserver.queries.api_keys import ApiKey
from ccserver.queries.appliances import ApplianceDetail
from ccserver.queries.audit_log import Act
from ccserver.queries.enrollment_codes import CodeDetail
from ccserver.queries.users import User
from ccserver.scope import PartnerScope, SiteScope


async def revoke_appliance(scope: SiteScope, actor: str, appliance_id: str) -> ApplianceDetail:
    """Refuse an appliance from now on; what it proved stays. Again changes nothing. NotFoundError without it."""
    changed = await appliances.revoke(scope, appliance_id)
    found = await appliances.find(scope, appliance_id)
    if found is None:
        raise NotFoundError
    if changed:
        await audit_log.append(scope, Act(actor, "appliance.revoke", appliance_id, {"site": scope.site_id}))
    return found


async def revoke_code(scope: SiteScope, actor: str, code_id: str) -> CodeDetail:
    """Make an enrolment code useless; again changes nothing. NotFoundError without it, CodeUsedError after its use."""
    changed = await enrollment_codes.revoke(scope, code_id)
    code = await enrollment_codes.find(scope, code_id)
    if code is None:
        raise NotFoundError
    if code.used_at is not None:
        raise CodeUsedError("This code was used: revoke the appliance that it made.")
    if changed:
        await audit_log.append(scope, Act(actor, "code.revoke", code_id, {"site": scope.site_id}))
    return code


async def revoke_key(scope: PartnerScope, actor: str, key_id: str) -> ApiKey:
    """Revoke an API key at once and for good; NotFoundError without it."""
    found = await api_keys.revoke(scope, scope.partner_id, key_id)
    await audit_log.append(scope, Act(actor, "api_key.revoke", f"key:{found.id}", {}))
    return found


async def disable_person(scope: PartnerScope, who: Principal, user_id: str) -> User:
    """Keep a person from signing in; their sessions end at once.

    ForbiddenError for who would disable themselves, NotFoundError without the person, LastOwnerError for the last one.
    """
    if who.user is not None and who.user.id == user_id:
        raise ForbiddenError("Nobody disables their own account: ask another owner.")
    user = await ownership.disable(scope, user_id)
    await audit_log.append(scope, Act(who.actor, "user.disable", f"user:{user.id}", {"login": user.login}))
    return user


async def end_session(scope: PartnerScope, user: User, session_id: str) -> None:
    """End a session of a person's own; NotFoundError without it."""
    if not await sessions.end(scope, user.id, session_id):
        raise NotFoundError
    await audit_log.append(scope, Act(f"user:{user.login}", "session.revoke", f"session:{session_id}", {}))
