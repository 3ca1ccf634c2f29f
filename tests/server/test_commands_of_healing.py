"""The command line on orders, orders for many, versions of a policy and baselines: real processes."""

import pytest

from ccserver import context, marks, ordering, policy_making
from ccserver.config import Config
from ccserver.context import Context
from ccserver.errors import SecondPersonNeededError
from ccserver.keys import KeyFile
from ccserver.live import Streams
from ccserver.localpg import Urls
from ccserver.ordering import Who
from ccserver.scope import Database
from ccserver.tokens import Device
from tests.server.test_commands import CommandLine

AT = ("--site", "acme-clinic")
OF = ("--partner", "acme")
BOX = (*AT, "--appliance", "box-1")
ADD = (
    "INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)"
    " SELECT 'acme-clinic', 'acme', 'box-' || n, 'box', sha256(n::text::bytea) FROM generate_series(1, 3) n"
)


@pytest.fixture
async def cli(database: Urls, settings: Config) -> CommandLine:
    made = CommandLine(database, settings)
    await made.run("partner", "create", "Acme", "--id", "acme")
    await made.run("site", "create", "Acme clinic", "--partner", "acme", "--id", "acme-clinic")
    await made.rows(ADD)
    return made


@pytest.fixture
def server_context(db: Database, settings: Config) -> Context:
    """What a server's handlers have, so that policies can be made while commands run beside it."""
    return context.make(db, KeyFile(settings.key_file), settings, marks.load(settings.key_file), Streams())


async def test_an_order_is_pushed_shown_and_cancelled(cli: CommandLine) -> None:
    order = ("--runbook", "restart-logging", "--param", "unit=rsyslog.service", "--life", "600")
    made = (await cli.json("order", "push", *BOX, *order))["order"]
    shown = await cli.json("order", "show", made["id"], *AT)
    assert (shown["parameters"], shown["order"]["status"]) == ({"unit": "rsyslog.service"}, "pending")
    assert shown["order"]["issued_at"] is not None
    await cli.run("order", "approve", made["id"], *AT, code=1)  # it is released
    await cli.run("order", "cancel", made["id"], *AT, "--yes")
    actions = [each["action"] for each in await cli.json("audit", "list", *OF)]
    assert actions[:2] == ["order.cancel", "order.create"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--runbook", "nothing"), "no such runbook"),
        (("--runbook", "encrypt-volume"), "for people"),
        (("--runbook", "restart-logging"), "unit"),
        (("--runbook", "restart-logging", "--param", "unit=a;b"), "unit"),
        (("--runbook", "run-checks-now", "--param", "x=1"), "no parameter"),
    ],
)
async def test_what_cannot_be_ordered_is_said_in_a_sentence(cli: CommandLine, more: tuple[str, ...], said: str) -> None:
    assert said in await cli.refused("order", "push", *BOX, *more)
    assert await cli.json("order", "list", *OF) == []


def test_who_ordered_on_the_host_does_not_approve_on_the_host() -> None:
    with pytest.raises(SecondPersonNeededError):
        ordering.check_second(Who("host:uid-0", "host:uid-0"), "key:1", "host:uid-0")
    ordering.check_second(Who("host:uid-0", "host:uid-0"), "user:olga", "user:olga")


async def test_an_order_for_many_is_pushed_paused_resumed_and_cancelled(cli: CommandLine) -> None:
    await cli.run("site", "tag", "acme-clinic", "dental")
    push = ("order", "fleet", "push", *OF, "--runbook", "run-checks-now")
    await cli.run(*push, code=2)
    await cli.run(*push, "--all", "--tag", "dental", code=2)
    made = (await cli.json(*push, "--tag", "dental", "--canary", "box-2"))["id"]
    for verb, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert (await cli.json("order", "fleet", verb, made, *OF))["status"] == status
        shown = await cli.json("order", "fleet", "show", made, *OF)
        assert shown["fleet_order"]["status"] == status
    await cli.run("order", "fleet", "approve", made, *OF, code=1)
    assert [each["id"] for each in await cli.json("order", "fleet", "list", *OF)] == [made]
    actions = [each["action"] for each in await cli.json("audit", "list", *OF)]
    assert actions[:2] == ["fleet_order.cancel", "fleet_order.resume"]


async def test_versions_of_a_policy_are_compared_and_restored(cli: CommandLine, server_context: Context) -> None:
    device = Device("acme-clinic", "box-1")
    first = await policy_making.refresh(server_context, device)
    await cli.run("setting", "set", "healing.mode", "heal", *OF)
    second = await policy_making.refresh(server_context, device)
    assert [each["version"] for each in await cli.json("policy", "list", *BOX)] == [second, first]
    (changed,) = await cli.json("policy", "diff", str(second), *BOX)
    assert (changed["part"], changed["before"], changed["after"]) == ("mode", "observe", "heal")
    await cli.run("policy", "restore", str(first), *BOX, code=2)
    assert "would be done: healing.mode = observe" in await cli.run("policy", "restore", str(first), *BOX, "--dry-run")
    assert await policy_making.refresh(server_context, device) == second
    await cli.run("policy", "restore", str(first), *BOX, "--yes")
    assert await policy_making.refresh(server_context, device) > second
    assert "runbooks" in await cli.run("policy", "show", str(first), *BOX)


async def test_baselines_are_shown_and_only_what_is_proposed_is_approved(cli: CommandLine) -> None:
    assert "nothing is proposed" in await cli.run("baseline", "show", *BOX)
    await cli.run("baseline", "approve", "checks.firewall.baseline_sha256", "a" * 64, *BOX, code=1)


async def test_who_allows_healing_below_a_stop_is_told_that_the_stop_counts(cli: CommandLine) -> None:
    await cli.run("settings", "set", "healing.mode", "stop", *OF)
    said = str(await cli.run("setting", "set", "healing.mode", "heal", "--site", "acme-clinic"))
    assert "healing.mode = heal; but stop counts here  (partner)" in said
