"""Orders for many appliances: the list, one with how far it came, and one to be made: shown whole, then confirmed."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, fleets, listing, ordering
from ccserver.errors import BadBodyError, NotFoundError, NotPendingError
from ccserver.fleets import Means
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import MAX_OFFSET, Cursor, ListQuery
from ccserver.ordering import Checked
from ccserver.pages import forms, render, runbook_view
from ccserver.queries import fleet_orders
from ccserver.queries.fleet_orders import Target
from ccserver.scope import PartnerScope
from ccshared import ids
from ccshared.messages import Id, Message, Prose, Word

_FORESEEN = 20
_MEMBERS = 50
_Act = Callable[[PartnerScope, str], Awaitable[None]]


class ListedQuery(Message):
    """Where the page of the list begins."""

    cursor: Cursor | None = None


class ChoiceQuery(Message):
    """The runbook that was chosen."""

    runbook: Word | None = None


class MembersQuery(Message):
    """Where the page of the appliances begins."""

    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0


class Asked(runbook_view.Asked):
    """An order for many as the form asks for it: for the `sites` by their ids, those with a `tag`, or `all` as yes."""

    sites: Prose = ""
    tag: Word | None = None
    all: str = ""
    canary: Id | None = None

    def target(self) -> Target:
        """Return for whom it is; BadBodyError unless one of the three is said."""
        site_ids = [*dict.fromkeys(self.sites.split())]
        if (bool(site_ids), self.tag is not None, self.all == "yes").count(True) != 1:
            raise BadBodyError("Say for whom: sites by their ids, or a tag, or all.")
        if len(site_ids) > 1000 or not all(map(ids.is_id, site_ids)):
            raise BadBodyError("sites: at most 1000, by their ids, with spaces in between.")
        return Target(site_ids or None, self.tag, self.canary)


async def show_list(request: Request) -> Response:
    """List the partner's orders for many, newest first."""
    asked, key = read_query(request, ListedQuery), context.of(request).cursor_key
    async with auth.partner_scope(request) as scope:
        name = f"fleet-orders:{scope.partner_id}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        rows = await fleet_orders.newest(scope, page)
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    values = {"fleets": found.items, "next": found.next, "asked": asked}
    return render.page(request, "fleet_orders.html", values)


async def show(request: Request) -> Response:
    """Show an order for many: how far it came, and what became of each appliance."""
    return await _page(request, read_query(request, MembersQuery).offset)


async def _page(request: Request, offset: int, refused: str | None = None) -> Response:
    fleet_order_id = path_id(request, "fleet_order")
    async with auth.partner_scope(request) as scope:
        fleet = await fleet_orders.find(scope, fleet_order_id)
        if fleet is None:
            raise NotFoundError
        progress = await fleet_orders.progress(scope, fleet_order_id)
        members = await fleet_orders.members(scope, fleet_order_id, _MEMBERS + 1, offset)
    who = ordering.who(request.state.principal)
    values = {
        "fleet": fleet,
        "progress": progress,
        "members": members[:_MEMBERS],
        "more": len(members) > _MEMBERS,
        "offset": offset,
        "step": _MEMBERS,
        "runbook": context.of(request).catalogue.get(fleet.runbook_id),
        "share": fleets.SHARE_PERCENT,
        "mine": bool({who.actor, who.person} & {fleet.created_by, fleet.creator}),
        "refused": refused,
    }
    return render.page(request, "fleet_order.html", values, 409 if refused else 200)


async def choose(request: Request) -> Response:
    """Choose the runbook, and say its parameters and for whom it is."""
    asked, catalogue = read_query(request, ChoiceQuery), context.of(request).catalogue
    async with auth.partner_scope(request):
        pass  # a platform admin says of which partner
    values = {
        "asked": asked,
    } | runbook_view.choice(catalogue, asked.runbook)
    return render.page(request, "fleet_choice.html", values)


async def preview(request: Request) -> Response:
    """Show exactly what would run, and for whom; nothing is ordered yet."""
    asked, checked = await _read(request)
    return await _preview(request, asked, checked)


async def create(request: Request) -> Response:
    """Order what the preview showed; the same form again leads to the same order for many."""
    asked, checked = await _read(request)
    if not runbook_view.is_same(checked.runbook, asked):
        return await _preview(request, asked, checked, refused=runbook_view.CHANGED)
    who = ordering.who(request.state.principal)
    async with auth.partner_scope(request) as scope:
        made = await fleets.begin(scope, _means(request), checked, asked.target(), who)
    return render.redirect(render.addresses(request)(f"/fleet-orders/{made}"))


async def approve(request: Request) -> Response:
    """Let one of high risk begin, as its second person."""
    who = ordering.second(request.state.principal)
    return await _done(request, lambda scope, one: fleets.approve(scope, _means(request), one, who))


async def pause(request: Request) -> Response:
    """Stop one until it is resumed."""
    return await _done(request, lambda scope, one: fleets.pause(scope, one, request.state.principal.actor))


async def resume(request: Request) -> Response:
    """Let one go on that was paused."""
    actor = request.state.principal.actor
    return await _done(request, lambda scope, one: fleets.resume(scope, _means(request), one, actor))


async def cancel(request: Request) -> Response:
    """End one; what no appliance has taken yet is taken back."""
    return await _done(request, lambda scope, one: fleets.cancel(scope, one, request.state.principal.actor))


async def _done(request: Request, act: _Act) -> Response:
    fleet_order_id = path_id(request, "fleet_order")
    try:
        async with auth.partner_scope(request) as scope:
            await act(scope, fleet_order_id)
    except NotPendingError as error:
        return await _page(request, 0, f"Nothing was changed. {error}")
    return render.redirect(render.addresses(request)(f"/fleet-orders/{fleet_order_id}"))


async def _read(request: Request) -> tuple[Asked, Checked]:
    fields = await forms.read_form(request, forms.LONG_BYTES, runbook_view.FIELDS)
    asked, catalogue = forms.message_of(fields, Asked), context.of(request).catalogue
    return asked, ordering.check(catalogue, runbook_view.wanted(catalogue, asked, fields))


async def _preview(request: Request, asked: Asked, checked: Checked, refused: str | None = None) -> Response:
    async with auth.partner_scope(request) as scope:
        found = await fleet_orders.foresee(scope, asked.target(), _FORESEEN)
    values = runbook_view.shown(checked.runbook, checked.parameters) | {
        "found": found,
        "total": found[0].total if found else 0,
        "asked": asked,
        "needs_approval": checked.needs_approval,
        "share": fleets.SHARE_PERCENT,
        "failures": fleets.FAILURES,
        "refused": refused,
    }
    return render.page(request, "fleet_preview.html", values, 412 if refused else 200)


def _means(request: Request) -> Means:
    ctx = context.of(request)
    return Means(ctx.keys, ctx.catalogue)


_NEW = "/fleet-order"
_ONE = "/fleet-orders/{fleet_order}"
ENDPOINTS = [
    Endpoint("GET", "/fleet-orders", show_list, Caller.READ),
    Endpoint("GET", _NEW, choose, Caller.OPERATE),
    Endpoint("POST", _NEW + "/preview", preview, Caller.OPERATE),
    Endpoint("POST", _NEW, create, Caller.OPERATE),
    Endpoint("GET", _ONE, show, Caller.READ),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE),
    Endpoint("POST", _ONE + "/pause", pause, Caller.OPERATE),
    Endpoint("POST", _ONE + "/resume", resume, Caller.OPERATE),
    Endpoint("POST", _ONE + "/cancel", cancel, Caller.OPERATE),
]
