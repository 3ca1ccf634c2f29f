"""Orders: the list, one with what was signed and answered, and one to be made: chosen, shown whole, then confirmed."""

import base64
import binascii
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ccserver import auth, context, listing, ordering
from ccserver.errors import NotFoundError, NotPendingError
from ccserver.http import Caller, Endpoint, path_id, read_query
from ccserver.listing import Cursor, ListQuery
from ccserver.ordering import Checked
from ccserver.pages import forms, render, runbook_view
from ccserver.queries import appliances, orders, sites
from ccserver.queries.orders import Filter
from ccserver.scope import SiteScope
from ccshared.messages import Id, Message, Word
from ccshared.runbooks import Runbook
from ccshared.vocabulary import OrderStatus

_LOOKED_THROUGH = 2_000  # newest entries of a site, for the evidence of an order


class OrdersQuery(Message):
    """Which orders are listed, and where the page begins."""

    site: Id | None = None
    appliance: Id | None = None
    status: OrderStatus | None = None
    cursor: Cursor | None = None


class ChoiceQuery(Message):
    """What was chosen so far: the appliance, the runbook, and the incident that it is for."""

    appliance: Id | None = None
    runbook: Word | None = None
    incident: Id | None = None


class Asked(runbook_view.Asked):
    """An order as the form asks for it."""

    appliance: Id
    incident: Id | None = None


async def show_list(request: Request) -> Response:
    """List the partner's orders, or one site's, newest first, fifty to a page."""
    asked = read_query(request, OrdersQuery, of_form=True)
    key, wanted = context.of(request).cursor_key, Filter(asked.appliance, asked.status)
    async with auth.scope_asked(request, asked.site) as scope:
        name = f"orders:{scope.partner_id}:{asked.site or ''}"
        page = listing.page_of(ListQuery(cursor=asked.cursor), key, name)
        if isinstance(scope, SiteScope):
            rows = await orders.newest_of_site(scope, wanted, page)
        else:
            rows = await orders.newest(scope, wanted, page)
        names = await sites.names(scope, [*{row.site_id for row in rows}, *filter(None, [asked.site])])
    found = listing.listing(rows, page, lambda row: (row.created_at, row.id), key, name)
    query = {"site": asked.site, "appliance": asked.appliance, "status": asked.status}
    values = {"orders": found.items, "next": found.next, "names": names, "asked": asked, "query": query}
    return render.page(request, "orders.html", values | {"statuses": list(OrderStatus)})


async def show(request: Request) -> Response:
    """Show an order: what was signed, how it goes, what its appliance answered."""
    return await _page(request)


async def _page(request: Request, refused: str | None = None) -> Response:
    async with auth.site_scope(request) as scope:
        story = await orders.story(scope, path_id(request, "order"), _LOOKED_THROUGH)
    if story is None:
        raise NotFoundError
    runbook = context.of(request).catalogue.get(story.detail.order.runbook_id)
    who = ordering.who(request.state.principal)
    mine = bool({who.actor, who.person} & {story.detail.order.created_by, story.detail.order.creator})
    values = {"story": story, "runbook": runbook, "signature": _signature(story.envelope), "mine": mine}
    said = {"looked_through": _LOOKED_THROUGH, "refused": refused}
    return render.page(request, "order.html", values | said, 409 if refused else 200)


def _signature(envelope: bytes | None) -> dict[str, Any] | None:
    """Return what the envelope says: its text, and by which keys; None before an order was signed."""
    if envelope is None:
        return None
    said = orjson.loads(envelope)
    try:
        text = base64.b64decode(said["payload"]).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = said["payload"]
    return {
        "keys": [each.get("keyid", "") for each in said["signatures"]],
        "payload": text,
        "type": said["payloadType"],
    }


async def choose(request: Request) -> Response:
    """Choose the runbook and say its parameters."""
    asked, catalogue = read_query(request, ChoiceQuery), context.of(request).catalogue
    async with auth.site_scope(request) as scope:
        boxes = (await appliances.list_of_sites(scope, [scope.site_id])).get(scope.site_id, [])
        names = await sites.names(scope, [scope.site_id])
    values = {
        "site_id": scope.site_id,
        "site_name": names.get(scope.site_id, scope.site_id),
        "appliances": boxes,
        "asked": asked,
    } | runbook_view.choice(catalogue, asked.runbook)
    return render.page(request, "order_choice.html", values)


async def preview(request: Request) -> Response:
    """Show exactly what would run, and on which appliance; nothing is ordered yet."""
    asked, checked = await _read(request)
    return await _preview(request, asked, checked)


async def create(request: Request) -> Response:
    """Order what the preview showed; the same form again leads to the same order."""
    asked, checked = await _read(request)
    if not runbook_view.is_same(checked.runbook, asked):
        return await _preview(request, asked, checked, refused=runbook_view.CHANGED)
    keys, who = context.of(request).keys, ordering.who(request.state.principal)
    async with auth.site_scope(request) as scope:
        made = await ordering.push(scope, keys, asked.appliance, checked, who)
    return render.redirect(render.addresses(request)(f"/sites/{scope.site_id}/orders/{made}"))


async def approve(request: Request) -> Response:
    """Release an order of high risk, as its second person."""
    ctx, who = context.of(request), ordering.second(request.state.principal)
    try:
        async with auth.site_scope(request) as scope:
            await ordering.approve(scope, ctx.keys, ctx.catalogue, path_id(request, "order"), who)
    except NotPendingError as error:
        return await _page(request, f"Nothing was changed. {error}")
    return _to_order(request)


async def cancel(request: Request) -> Response:
    """Cancel an order that no appliance has taken yet."""
    try:
        async with auth.site_scope(request) as scope:
            await ordering.cancel(scope, path_id(request, "order"), request.state.principal.actor)
    except NotPendingError as error:
        return await _page(request, f"Nothing was changed. {error}")
    return _to_order(request)


async def _read(request: Request) -> tuple[Asked, Checked]:
    fields = await forms.read_form(request, forms.LONG_BYTES, runbook_view.FIELDS)
    asked, catalogue = forms.message_of(fields, Asked), context.of(request).catalogue
    return asked, ordering.check(catalogue, runbook_view.wanted(catalogue, asked, fields))


async def _preview(request: Request, asked: Asked, checked: Checked, refused: str | None = None) -> Response:
    runbook: Runbook = checked.runbook
    async with auth.site_scope(request) as scope:
        box = await appliances.find(scope, asked.appliance)
        names = await sites.names(scope, [scope.site_id])
    if box is None or box.revoked_at is not None:
        raise NotFoundError("There is no such appliance in service at this site.")
    values = runbook_view.shown(runbook, checked.parameters) | {
        "site_id": scope.site_id,
        "site_name": names.get(scope.site_id, scope.site_id),
        "appliance": box,
        "asked": asked,
        "needs_approval": checked.needs_approval,
        "refused": refused,
    }
    return render.page(request, "order_preview.html", values, 412 if refused else 200)


def _to_order(request: Request) -> Response:
    place = f"/sites/{path_id(request, 'site')}/orders/{path_id(request, 'order')}"
    return render.redirect(render.addresses(request)(place))


_NEW = "/sites/{site}/order"
_ONE = "/sites/{site}/orders/{order}"
ENDPOINTS = [
    Endpoint("GET", "/orders", show_list, Caller.READ),
    Endpoint("GET", _NEW, choose, Caller.OPERATE),
    Endpoint("POST", _NEW + "/preview", preview, Caller.OPERATE),
    Endpoint("POST", _NEW, create, Caller.OPERATE),
    Endpoint("GET", _ONE, show, Caller.READ),
    Endpoint("POST", _ONE + "/approve", approve, Caller.OPERATE),
    Endpoint("POST", _ONE + "/cancel", cancel, Caller.OPERATE),
]
