"""Orders."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from ccserver import catalogue, keys, ordering
from ccserver.commands import fleet, reaching
from ccserver.commands.calling import AsJson, actor, current, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Partner, Site
from ccserver.errors import NotFoundError
from ccserver.ordering import Wanted, Who
from ccserver.queries import orders
from ccserver.queries.orders import Filter, Order, OrderDetail
from ccserver.scope import Database, SiteScope
from ccshared.vocabulary import OrderStatus


@click.group("order")
def command() -> None:
    """Orders: runbooks to be run by one appliance, or by many."""


command.add_command(fleet.command)


@command.command("push")
@Site
@click.option("--appliance", "appliance_id", required=True, help="The appliance of this site that is to run it.")
@fleet.asked
@AsJson
def push(site_id: str, appliance_id: str, wanted: Wanted, as_json: bool) -> None:
    """Order a runbook; one of high risk waits for somebody else's approval, any other is released at once."""
    checked, signing, me = ordering.check(catalogue.load(), wanted), keys.load(current().key_file), actor()

    async def act(db: Database) -> OrderDetail:
        async with reaching.site_scope(db, site_id) as scope:
            made = await ordering.push(scope, signing, appliance_id, checked, Who(me, me))
            return await _found(scope, made)

    found: OrderDetail = with_database(act)
    said = "it waits for approval by somebody else" if found.order.issued_at is None else "released"
    show(asdict(found), as_json, f"order {found.order.id}: {said}")


@command.command("approve")
@click.argument("order_id")
@Site
@AsJson
def approve(order_id: str, site_id: str, as_json: bool) -> None:
    """Release an order of high risk, as another person than the one who ordered it."""
    known, signing, me = catalogue.load(), keys.load(current().key_file), actor()

    async def act(db: Database) -> OrderDetail:
        async with reaching.site_scope(db, site_id) as scope:
            await ordering.approve(scope, signing, known, order_id, Who(me, me))
            return await _found(scope, order_id)

    found: OrderDetail = with_database(act)
    show(asdict(found), as_json, f"order {order_id} is released")


@command.command("list")
@Partner
@click.option("--status", type=click.Choice([str(each) for each in OrderStatus]))
@click.option("--appliance", "appliance_id")
@AsJson
def list_orders(partner_id: str, status: str | None, appliance_id: str | None, as_json: bool) -> None:
    """List a partner's newest orders."""

    async def act(db: Database) -> list[Order]:
        async with db.partner(partner_id) as scope:
            return await orders.newest(scope, Filter(appliance_id, status), NEWEST)

    found: list[Order] = with_database(act)
    show(reaching.values(found), as_json, "\n".join(_lines(found)) or "no orders")


def _lines(found: Iterable[Order]) -> list[str]:
    return [f"{row.id}  {row.runbook_id}  {_state(row)}  appliance {row.appliance_id}" for row in found]


def _state(row: Order) -> str:
    waits = row.issued_at is None and row.status == OrderStatus.PENDING
    return "waits for approval" if waits else row.status


@command.command("show")
@click.argument("order_id")
@Site
@AsJson
def show_one(order_id: str, site_id: str, as_json: bool) -> None:
    """Show an order with its parameters and its appliance's answer."""

    async def act(db: Database) -> OrderDetail:
        async with reaching.site_scope(db, site_id) as scope:
            return await _found(scope, order_id)

    found: OrderDetail = with_database(act)
    shown: dict[str, Any] = asdict(found.order) | {"parameters": found.parameters, "result": found.result}
    show(asdict(found), as_json, "\n".join(f"{name}: {value}" for name, value in shown.items()))


@command.command("cancel")
@click.argument("order_id")
@Site
@reaching.destroys
@AsJson
def cancel(order_id: str, site_id: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Cancel an order that no appliance has taken yet."""
    consent = Consent(yes, dry_run)
    consent.ask(f"cancel order {order_id}")

    async def act(db: Database) -> None:
        async with reaching.keeping(reaching.site_scope(db, site_id), consent) as scope:
            await ordering.cancel(scope, order_id, actor())

    with_database(act)
    show({"id": order_id, "dry_run": dry_run}, as_json, consent.say(f"order {order_id} is cancelled"))


async def _found(scope: SiteScope, order_id: str) -> OrderDetail:
    found = await orders.find(scope, order_id)
    if found is None:
        raise NotFoundError(f"There is no order {order_id} at this site.")
    return found
