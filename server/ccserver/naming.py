"""Sites and appliances get other names, and sites other tags; each act is written down where it is done."""

from collections.abc import Sequence

from ccserver.errors import ChangedMeanwhileError, NotFoundError
from ccserver.queries import appliances, audit_log, sites
from ccserver.queries.appliances import ApplianceDetail
from ccserver.queries.audit_log import Act
from ccserver.queries.sites import SiteDetail
from ccserver.scope import SiteScope

MAX_TAGS = 20


async def change_site(
    scope: SiteScope, actor: str, revision: int, name: str | None, tags: Sequence[str] | None
) -> SiteDetail:
    """Give the scope's site another name or other tags, where they are said; ChangedMeanwhileError."""
    site = await sites.change(scope, name, None if tags is None else sorted(set(tags)), revision)
    if site is None:
        raise ChangedMeanwhileError
    if tags is not None:
        await audit_log.append(scope, Act(actor, "site.tag", site.id, {"tags": list(site.tags)}))
    if name is not None:
        await audit_log.append(scope, Act(actor, "site.rename", site.id, {"name": site.name}))
    return site


async def rename_appliance(
    scope: SiteScope, actor: str, revision: int, appliance_id: str, name: str | None
) -> ApplianceDetail:
    """Give an appliance a name, or take it away. NotFoundError without it, ChangedMeanwhileError."""
    if await appliances.find(scope, appliance_id) is None:
        raise NotFoundError
    found = await appliances.rename(scope, appliance_id, name, revision)
    if found is None:
        raise ChangedMeanwhileError
    await audit_log.append(scope, Act(actor, "appliance.rename", appliance_id, {"site": scope.site_id, "name": name}))
    return found
