"""Orders for many appliances, below `order`."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import click

from ccserver import catalogue, fleets, keys, ordering
from ccserver.commands import reaching
from ccserver.commands.calling import AsJson, actor, current, show, with_database
from ccserver.commands.reaching import NEWEST, Partner
from ccserver.errors import NotFoundError
from ccserver.fleets import Means
from ccserver.ordering import LIFE_S, MAX_LIFE_S, Wanted, Who
from ccserver.queries import fleet_orders
from ccserver.queries.fleet_orders import FleetOrder, MemberState, Target
from ccserver.scope import Database, PartnerScope

Act = Callable[[PartnerScope, Means, str], Awaitable[None]]


def asked(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --runbook, --param and --life; it takes them as `wanted`."""

    @functools.wraps(command)
    def whole(runbook_id: str, params: tuple[str, ...], life_s: int, **more: Any) -> Any:
        return command(wanted=Wanted(runbook_id, dict(map(_parameter, params)), life_s), **more)

    for option in (
        click.option("--life", "life_s", type=click.IntRange(60, MAX_LIFE_S), default=LIFE_S, help="Seconds it lives."),
        click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; may be said again."),
        click.option("--runbook", "runbook_id", required=True, help="`ccserver runbook list` shows them."),
    ):
        whole = option(whole)
    return whole


def _parameter(text: str) -> tuple[str, int | str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    return name, int(value) if value.isascii() and value.isdecimal() and len(value) < 16 else value


@click.group("fleet")
def command() -> None:
    """Orders for many: the canary tries it first, then at most 5 % of the partner's appliances run it at once."""


@command.command("push")
@Partner
@asked
@click.option("--site", "sites", multiple=True, help="For the appliances of this site; may be said again.")
@click.option("--tag", help="For those of the sites with this tag.")
@click.option("--all", "everybody", is_flag=True, help="For all of the partner's.")
@click.option("--canary", help="Which appliance tries it first; by default the one that was heard last.")
@AsJson
def push(partner_id: str, wanted: Wanted, as_json: bool, **whom: Any) -> None:
    """Order a runbook for many; one of high risk waits for somebody else's approval."""
    if sum((bool(whom["sites"]), bool(whom["tag"]), whom["everybody"])) != 1:
        raise click.UsageError("Say for whom: one of --site, --tag and --all.")
    target, me = Target(list(whom["sites"]) or None, whom["tag"], whom["canary"]), actor()
    means = _means()
    checked = ordering.check(means.catalogue, wanted)

    async def act(db: Database) -> str:
        async with db.partner(partner_id) as scope:
            return await fleets.begin(scope, means, checked, target, Who(me, me))

    made: str = with_database(act)
    said = "it waits for approval by somebody else" if checked.needs_approval else "the canary begins"
    show({"id": made, "needs_approval": checked.needs_approval}, as_json, f"order for many {made}: {said}")


@command.command("list")
@Partner
@AsJson
def list_all(partner_id: str, as_json: bool) -> None:
    """List a partner's newest orders for many."""

    async def act(db: Database) -> list[FleetOrder]:
        async with db.partner(partner_id) as scope:
            return await fleet_orders.newest(scope, NEWEST)

    found: list[FleetOrder] = with_database(act)
    lines = [f"{row.id}  {row.runbook_id}  {row.status}  {row.pause_reason or ''}".rstrip() for row in found]
    show(reaching.values(found), as_json, "\n".join(lines) or "no orders for many")


@command.command("show")
@click.argument("fleet_order_id")
@Partner
@AsJson
def show_one(fleet_order_id: str, partner_id: str, as_json: bool) -> None:
    """Show how far an order for many came, and what became of each appliance."""

    async def act(db: Database) -> tuple[FleetOrder, fleet_orders.Progress, list[MemberState]]:
        async with db.partner(partner_id) as scope:
            found = await fleet_orders.find(scope, fleet_order_id)
            if found is None:
                raise NotFoundError(f"This partner has no order for many {fleet_order_id}.")
            progress = await fleet_orders.progress(scope, fleet_order_id)
            return found, progress, await fleet_orders.members(scope, fleet_order_id, NEWEST.limit, 0)

    found, progress, members = with_database(act)
    told = {"fleet_order": asdict(found), "progress": asdict(progress), "appliances": reaching.values(members)}
    lines = [f"{found.id}  {found.runbook_id}  {found.status}  {found.pause_reason or ''}".rstrip()]
    lines += [f"  {name}: {value}" for name, value in asdict(progress).items()]
    lines += [f"  {row.site_id} {row.appliance_id}: {row.skipped or row.order_status or 'waits'}" for row in members]
    show(told, as_json, "\n".join(lines))


async def _approve(scope: PartnerScope, means: Means, fleet_order_id: str) -> None:
    await fleets.approve(scope, means, fleet_order_id, Who(actor(), actor()))


async def _pause(scope: PartnerScope, _means: Means, fleet_order_id: str) -> None:
    await fleets.pause(scope, fleet_order_id, actor())


async def _resume(scope: PartnerScope, means: Means, fleet_order_id: str) -> None:
    await fleets.resume(scope, means, fleet_order_id, actor())


async def _cancel(scope: PartnerScope, _means: Means, fleet_order_id: str) -> None:
    await fleets.cancel(scope, fleet_order_id, actor())


def _means() -> Means:
    return Means(keys.load(current().key_file), catalogue.load())


def _verb(name: str, says: str, act: Act) -> click.Command:
    """Return the command that does one thing with an order for many."""

    @click.command(name, help=says)
    @click.argument("fleet_order_id")
    @Partner
    @AsJson
    def done(fleet_order_id: str, partner_id: str, as_json: bool) -> None:
        means = _means()

        async def run(db: Database) -> str:
            async with db.partner(partner_id) as scope:
                await act(scope, means, fleet_order_id)
                found = await fleet_orders.find(scope, fleet_order_id)
                return found.status if found else ""

        status: str = with_database(run)
        show({"id": fleet_order_id, "status": status}, as_json, f"order for many {fleet_order_id} is {status}")

    return done


for _one in (
    _verb("approve", "Let one of high risk begin, as another person than the one who ordered it.", _approve),
    _verb("pause", "Stop one until it is resumed; what no appliance has taken yet is taken back.", _pause),
    _verb("resume", "Let one go on that was paused: failures of before do not count any more.", _resume),
    _verb("cancel", "End one; what no appliance has taken yet is taken back.", _cancel),
):
    command.add_command(_one)
