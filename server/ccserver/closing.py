"""The end of a tenant: a site is closed, a partner off-boarded. What proves something stays as long as it must be kept.

Closing a site revokes its appliances, cancels its codes and pending orders, and lets nothing new begin there; evidence,
incidents and exports stay readable, and retention runs on. It cannot be undone: open another site.
"""

from dataclasses import dataclass

from ccserver.errors import SiteClosedError
from ccserver.queries import api_keys, appliances, audit_log, enrollment_codes, orders, partners, sites, users
from ccserver.queries.audit_log import Act
from ccserver.scope import Database, SiteScope
from ccshared.canonical import Json


@dataclass(frozen=True)
class Closing:
    """What closing a site ends: appliances in service, codes that could be used, orders that are pending.

    `waiting` entries are on its appliances, by their last check-ins, and not here: they are not taken any more.
    """

    site_id: str
    appliances: int
    codes: int
    orders: int
    waiting: int


@dataclass(frozen=True)
class OffBoarding:
    """What off-boarding a partner ends: its open sites, people who can sign in (their sessions too), API keys."""

    partner_id: str
    closed: list[Closing]
    users: int
    api_keys: int


async def foresee(scope: SiteScope) -> Closing:
    """Return what closing the site would end; SiteClosedError when it is closed already."""
    site = await sites.find(scope, scope.site_id)
    if site is None or site.closed_at is not None:
        raise SiteClosedError
    return Closing(
        scope.site_id,
        await appliances.count_in_service(scope),
        await enrollment_codes.count_open(scope),
        await orders.count_pending(scope),
        await appliances.count_waiting(scope),
    )


async def close(scope: SiteScope, actor: str, export_sha256: str | None) -> Closing:
    """Close the site and write down who did, and which export was made of it; SiteClosedError when it is closed."""
    if not await sites.hold_open(scope):
        raise SiteClosedError
    waiting = await appliances.count_waiting(scope)
    ended = Closing(
        scope.site_id,
        await appliances.revoke_all(scope),
        await enrollment_codes.revoke_all(scope),
        await orders.cancel_all(scope, actor),
        waiting,
    )
    await sites.close(scope)
    detail: dict[str, Json] = {"appliances": ended.appliances, "codes": ended.codes, "orders": ended.orders}
    detail["waiting"] = waiting
    act = Act(actor, "site.close", f"site:{scope.site_id}", detail | {"export_sha256": export_sha256})
    await audit_log.append(scope, act)
    return ended


async def close_sites(db: Database, partner_id: str, actor: str) -> list[Closing]:
    """Close a partner's open sites, each in a transaction of its own: what was cut off, the same again carries on."""
    async with db.partner(partner_id) as scope:
        open_sites = await sites.open_ids(scope)
    closed = []
    for site_id in open_sites:
        async with db.site(partner_id, site_id) as site:
            closed.append(await close(site, actor, None))
    return closed


async def off_board(db: Database, partner_id: str, actor: str, closed: list[Closing]) -> OffBoarding:
    """End a partner's people, sessions and keys, once its sites are closed, and write down who did.

    What these people still began meanwhile is closed after it, when nobody can begin anything any more.
    """
    async with db.partner(partner_id) as scope:
        people, revoked = await users.disable_all(scope), await api_keys.revoke_all(scope)
        detail: dict[str, Json] = {"users": people, "api_keys": revoked}
        await audit_log.append(scope, Act(actor, "partner.off_board", f"partner:{partner_id}", detail))
    async with db.platform() as platform:
        await partners.close(platform, partner_id)
    return OffBoarding(partner_id, [*closed, *await close_sites(db, partner_id, actor)], people, revoked)
