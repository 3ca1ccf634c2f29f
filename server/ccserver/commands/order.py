"""Orders."""

from dataclasses import asdict

import click

from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, show, with_database
from ccserver.commands.reaching import NEWEST, Consent, Partner, Site
from ccserver.errors import NotFoundError, NotPendingError
from ccserver.queries import orders
from ccserver.queries.orders import Filter, Order, OrderDetail
from ccserver.scope import Database
from ccshared.vocabulary import OrderStatus


@click.group("order")
def command() -> None:
    """Orders: runbooks to be run by one appliance."""


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
    lines = [f"{row.id}  {row.runbook_id}  {row.status}  appliance {row.appliance_id}" for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no orders")


@command.command("show")
@click.argument("order_id")
@Site
@AsJson
def show_one(order_id: str, site_id: str, as_json: bool) -> None:
    """Show an order with its parameters and its appliance's answer."""

    async def act(db: Database) -> OrderDetail | None:
        async with reaching.site_scope(db, site_id) as scope:
            return await orders.find(scope, order_id)

    found: OrderDetail | None = with_database(act)
    if found is None:
        raise NotFoundError(f"There is no order {order_id} at this site.")
    shown = asdict(found.order) | {"parameters": found.parameters, "result": found.result}
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
            if not await orders.cancel(scope, order_id, actor()):
                raise NotPendingError(f"There is no order {order_id} at this site that still waits.")
            await reaching.note(scope, "order.cancel", order_id, site=site_id)

    with_database(act)
    show({"id": order_id, "dry_run": dry_run}, as_json, consent.say(f"order {order_id} is cancelled"))
