"""Sites: list, show, create, rename, and what became of their incidents."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, closing, naming
from ccserver.closing import Closing
from ccserver.errors import BadBodyError, BadQueryError, NotFoundError
from ccserver.http import Caller, Endpoint, if_match, read, read_query, reply_value
from ccserver.listing import Listing, ListQuery, Moment
from ccserver.queries import incidents, site_totals, sites
from ccserver.queries.incidents import Statistics
from ccserver.queries.site_totals import Totals
from ccserver.queries.sites import SiteDetail
from ccserver.routes.api import creating, lists
from ccserver.scope import PartnerScope
from ccshared import ids
from ccshared.messages import Hex32, Id, Message, Name, Word

WINDOW_DAYS = 30  # of statistics, unless asked otherwise
MAX_WINDOW = timedelta(days=366)
SiteName = Annotated[Name, StringConstraints(max_length=200)]


class NewSite(Message):
    """A site to be made; without an id it gets one."""

    id: Id | None = None
    name: SiteName


class SiteChange(Message):
    """A site's new name, or its new tags, by which orders for many name it: what is left out stays."""

    name: SiteName | None = None
    tags: Annotated[list[Word], Field(max_length=naming.MAX_TAGS)] | None = None


class WindowQuery(Message):
    """From `since` up to `until`, which is not in it: by default the last 30 days, at most 366."""

    since: Moment | None = None
    until: Moment | None = None


@dataclass(frozen=True)
class SiteStatistics:
    """A site's incidents that began in the window, and its totals since it began."""

    since: datetime
    until: datetime
    window: Statistics
    totals: Totals


async def list_sites(request: Request) -> Response:
    """List the partner's sites, newest first."""
    asked = read_query(request, ListQuery)
    async with auth.partner_scope(request) as scope:
        source = lists.Source(
            name=f"sites:{scope.partner_id}",
            kind=SiteDetail,
            fetch=lambda page: sites.newest(scope, page),
            count=lambda: sites.count(scope),
            place=lambda site: (site.created_at, site.id),
        )
        return await lists.answer(request, asked, source)


async def show(request: Request) -> Response:
    """Show a site."""
    async with auth.site_scope(request) as scope:
        site = await sites.find(scope, scope.site_id)
    if site is None:
        raise NotFoundError
    return reply_value(SiteDetail, site, revision=site.revision)


async def create(request: Request) -> Response:
    """Make a site of the partner."""
    asked = await read(request, NewSite)
    async with auth.partner_scope(request) as scope:
        creation = creating.Creation(request, asked, SiteDetail, "site.create")
        site = await creating.once(scope, creation, lambda: _insert(scope, asked))
    return reply_value(SiteDetail, site, 201, revision=site.revision)


async def _insert(scope: PartnerScope, asked: NewSite) -> tuple[str, SiteDetail]:
    site_id = asked.id or ids.new_id()
    await sites.insert(scope, site_id, asked.name)
    made = await sites.find(scope, site_id)
    assert made is not None  # noqa: S101  inserted just above
    return site_id, made


async def change(request: Request) -> Response:
    """Give a site another name, or other tags; If-Match says which one was read."""
    revision, asked = if_match(request), await read(request, SiteChange)
    async with auth.site_scope(request) as scope:
        site = await naming.change_site(scope, request.state.principal.actor, revision, asked.name, asked.tags)
    return reply_value(SiteDetail, site, revision=site.revision)


async def show_statistics(request: Request) -> Response:
    """Count a site's incidents of a bounded window by how they were settled, beside its totals since it began."""
    since, until = _window(read_query(request, WindowQuery))
    async with auth.site_scope(request) as scope:
        window = await incidents.statistics(scope, since, until)
        totals = await site_totals.find(scope)
    return reply_value(SiteStatistics, SiteStatistics(since, until, window, totals))


def _window(asked: WindowQuery) -> tuple[datetime, datetime]:
    until = asked.until or datetime.now(UTC)
    since = asked.since or until - timedelta(days=WINDOW_DAYS)
    if not since < until or until - since > MAX_WINDOW:
        raise BadQueryError("since: before until, and at most 366 days before it.")
    return since, until


class Close(Message):
    """Says once more which site is meant, and which export of it was kept (hex SHA-256): closing cannot be undone."""

    confirm: Id
    export_sha256: Hex32 | None = None


async def close(request: Request) -> Response:
    """Close a site for good: appliances are revoked, codes and orders cancelled; what is stored stays readable."""
    asked = await read(request, Close)
    async with auth.site_scope(request) as scope:
        if asked.confirm != scope.site_id:
            raise BadBodyError("confirm: must be the id of the site that is to be closed.")
        ended = await closing.close(scope, request.state.principal.actor, asked.export_sha256)
    return reply_value(Closing, ended)


_LIST = "/api/v1/sites"
_ONE = "/api/v1/sites/{site}"
ENDPOINTS = [
    Endpoint("GET", _LIST, list_sites, Caller.READ, None, {200: Listing[SiteDetail]}, ListQuery),
    Endpoint("POST", _LIST, create, Caller.OPERATE, NewSite, {201: SiteDetail}, headers=("Idempotency-Key",)),
    Endpoint("GET", _ONE, show, Caller.AUDIT, None, {200: SiteDetail}),
    Endpoint("POST", _ONE + "/close", close, Caller.OWN, Close, {200: Closing}),
    Endpoint("PATCH", _ONE, change, Caller.OPERATE, SiteChange, {200: SiteDetail}, headers=("If-Match",)),
    Endpoint("GET", _ONE + "/statistics", show_statistics, Caller.AUDIT, None, {200: SiteStatistics}, WindowQuery),
]
