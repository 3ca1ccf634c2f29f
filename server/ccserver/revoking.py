"""The end of an appliance's service, by the API and on pages alike."""

from ccserver.errors import NotFoundError
from ccserver.queries import appliances, audit_log
from ccserver.queries.appliances import ApplianceDetail
from ccserver.queries.audit_log import Act
from ccserver.scope import SiteScope


async def revoke_appliance(scope: SiteScope, actor: str, appliance_id: str) -> ApplianceDetail:
    """Refuse an appliance from now on; what it proved stays. Again changes nothing. NotFoundError without it."""
    changed = await appliances.revoke(scope, appliance_id)
    found = await appliances.find(scope, appliance_id)
    if found is None:
        raise NotFoundError
    if changed:
        await audit_log.append(scope, Act(actor, "appliance.revoke", appliance_id, {"site": scope.site_id}))
    return found
