"""The overview of a partner: its numbers are those that the site's own rules give, and each leads to its rows."""

import random
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ccserver import compliance, liveness
from ccserver.compliance import Score
from ccserver.pages import site_rows
from ccserver.pages.site_rows import Show, Sort
from ccserver.queries import appliances, check_states, overview, planner
from ccserver.queries.overview import SiteRow
from ccserver.scope import Database
from ccshared.vocabulary import Family, Role, Severity, Status
from tests.devices import Running
from tests.people import Person, add

NOW = datetime.now(UTC)
ROW = SiteRow(
    "s", "Site", None, Score(1, 0, 0), NOW, NOW, 1, 0, 0, 0, 0, None, None, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
)  # fmt: skip


def row(site_id: str, **changes: Any) -> SiteRow:
    return SiteRow(**(vars(ROW) | {"id": site_id, "name": site_id.title()} | changes))


def ids_of(rows: list[SiteRow], show: Show = Show.ALL, sort: Sort = Sort.WORST, search: str = "") -> list[str]:
    return [each.id for each in site_rows.listed(rows, show, sort, search)]


@pytest.fixture
async def viewer(server: Running) -> AsyncIterator[Person]:
    """A viewer of the one partner, signed in."""
    made = await add(server, "vera@acme.example", Role.VIEWER)
    async with made.client:
        assert (await made.give_password()).status_code == 303
        yield made


# The numbers are those of the rules


async def scatter(server: Running, seed: int) -> None:
    """Fill twenty sites at random, as the superuser: states of every age, waivers of every kind, revoked appliances."""
    dice, conn = random.Random(seed), await asyncpg.connect(server.urls.admin)
    hosts = ("box", "nas")
    for number in range(20):
        site = f"acme-{number}"
        await server.add_site("acme", site)
        for box in (f"{site}-{letter}" for letter in "abc"[: dice.randint(0, 3)]):
            seen = dice.choice([None, *(NOW - timedelta(minutes=minutes) for minutes in (0, 2, 3, 4, 14, 15, 16, 900))])
            waiting, gone = dice.choice([None, 0, 3]), NOW if dice.random() < 0.2 else None
            oldest, offset = NOW - timedelta(minutes=dice.randint(0, 60)), dice.choice([None, 0, 90_000, -(10**7)])
            await conn.execute(
                "INSERT INTO appliances (site_id, partner_id, id, hostname, last_checkin, waiting,"
                " oldest_at, clock_offset_ms, revoked_at, public_key)"
                " VALUES ($1, 'acme', $2, $2, $3, $4, $5, $6, $7, $8)",
                site, box, seen, waiting, oldest, offset, gone, bytes(32),
            )  # fmt: skip
            for check in [*Family, "ssh"]:
                for host in hosts[: dice.randint(0, 2)]:
                    age = dice.choice([0, 60, 119, 120, 121, 600])  # fresh for 120
                    await conn.execute(
                        "INSERT INTO check_states VALUES ($1, 'acme', $2, $3, $4, $5, $6, 'x', $7, $7, 1, 1)",
                        site, box, host, str(check), str(dice.choice([*Status])), str(dice.choice([*Severity])),
                        NOW - timedelta(minutes=age),
                    )  # fmt: skip
        for waiver in range(dice.randint(0, 4)):
            await conn.execute(
                "INSERT INTO waivers (site_id, partner_id, id, check_id, host_id, reason, created_by, expires_at,"
                " revoked_at) VALUES ($1, 'acme', $2, $3, $4, 'x', 'x', $5, $6)",
                site, f"{site}-{waiver}", str(dice.choice([*Family])), dice.choice([None, "box", "nas"]),
                NOW + timedelta(hours=dice.choice([-1, 0, 1])), dice.choice([None, None, NOW]),
            )  # fmt: skip
    await conn.close()


async def rows_of(db: Database) -> list[SiteRow]:
    async with db.partner("acme") as scope:
        await planner.join_by_hash(scope)
        return await overview.sites(scope, NOW)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_each_row_has_the_score_and_the_liveness_that_the_rules_give(server: Running, seed: int) -> None:
    await scatter(server, seed)
    found = {each.id: each for each in await rows_of(server.db)}
    async with server.db.partner("acme") as scope:
        boxes = await appliances.list_of_sites(scope, [*found])
        states = await check_states.list_of_sites(scope, [*found], NOW, 1000)
    assert len(found) == 21
    for site_id, each in found.items():
        mine, said = boxes.get(site_id, []), states.get(site_id, [])
        assert each.score == compliance.score(said, (box.id for box in mine)), site_id
        assert each.as_of == min((state.seen_at for state in said if state.counts), default=None)
        assert each.last_run == max((state.seen_at for state in said), default=None)
        alive = [str(liveness.of(box.last_checkin, NOW)) for box in mine]
        assert [each.online, each.overdue, each.offline, each.never] == [
            alive.count(word) for word in liveness.Liveness
        ]
        assert each.waiting == sum(box.waiting or 0 for box in mine)
        ages = [
            (liveness.oldest_age(box.oldest_at, box.last_checkin, box.clock_offset_ms or 0), box.last_checkin)
            for box in mine
            if box.oldest_at and box.last_checkin and box.waiting
        ]
        assert each.waiting_since == min((seen - age for age, seen in ages if age is not None), default=None)


async def test_another_partners_rows_are_in_no_sum(server: Running) -> None:
    await scatter(server, 4)
    before = await rows_of(server.db)
    await server.add_site("zenith", "zenith-clinic")
    assert [each.id for each in before] == [each.id for each in await rows_of(server.db)]
    async with server.db.partner("zenith") as scope:
        (only,) = await overview.sites(scope, NOW)
    assert (only.id, only.appliances, only.score) == ("zenith-clinic", 0, Score(0, 0, 0))


# Which sites, in which order


def test_the_worst_stands_first_and_what_is_well_last() -> None:
    rows = [
        row("well"),
        row("unknown", score=Score(1, 0, 2)),
        row("late", overdue=1),
        row("incident", open_medium=1),
        row("away", offline=1),
        row("failing", score=Score(5, 1, 0)),
        row("more-failing", score=Score(5, 2, 0)),
        row("critical", open_critical=1),
        row("forked", forks=1),
    ]
    assert ids_of(rows) == [
        "forked", "critical", "more-failing", "failing", "away", "incident", "late", "unknown", "well",
    ]  # fmt: skip


def test_nothing_known_stands_before_the_lowest_score() -> None:
    rows = [
        row("half", score=Score(1, 1, 0)),
        row("dark", score=Score(0, 0, 6)),
        row("all"),
        row("low", score=Score(1, 9, 0)),
    ]
    assert ids_of(rows, sort=Sort.SCORE) == ["dark", "low", "half", "all"]


def test_what_waits_longest_stands_first() -> None:
    since = [NOW - timedelta(hours=hours) for hours in (1, 3)]
    rows = [
        row("none"),
        row("short", waiting=9, waiting_since=since[0]),
        row("long", waiting=1, waiting_since=since[1]),
    ]
    assert ids_of(rows, sort=Sort.WAITING) == ["long", "short", "none"]


@pytest.mark.parametrize(
    ("show", "changes"),
    [
        (Show.FAILING, {"score": Score(1, 1, 0)}),
        (Show.UNKNOWN, {"score": Score(1, 0, 1)}),
        (Show.UNKNOWN, {"score": Score(0, 0, 0)}),
        (Show.INCIDENTS, {"open_low": 1}),
        (Show.OVERDUE, {"overdue": 1}),
        (Show.OFFLINE, {"offline": 1}),
        (Show.NEVER, {"never": 1}),
        (Show.WAITING, {"waiting": 1}),
        (Show.ALARMS, {"faults": 1}),
        (Show.ALARMS, {"forks": 1}),
        (Show.CLOSED, {"closed_at": NOW}),
    ],
)
def test_a_filter_shows_what_it_names_and_nothing_else(show: Show, changes: dict[str, Any]) -> None:
    assert ids_of([row("other"), row("meant", **changes)], show) == ["meant"]


def test_a_closed_site_is_in_its_own_list_only_and_in_no_sum() -> None:
    rows = [row("open"), row("closed", closed_at=NOW, offline=3)]
    assert ids_of(rows) == ["open"]
    assert (site_rows.summary(rows).sites, site_rows.summary(rows).closed, site_rows.summary(rows).offline) == (1, 1, 0)


def test_a_search_finds_part_of_a_name_or_an_id_in_any_case() -> None:
    rows = [row("alder-1", name="Alder STREET Clinic"), row("birch")]
    assert ids_of(rows, search=" street ") == ids_of(rows, search="ALDER") == ids_of(rows, search="er-1") == ["alder-1"]


def test_a_share_is_never_all_of_less_and_never_none_of_some() -> None:
    summary = site_rows.summary([row("a", l1=9999, l2=1)])
    assert [summary.share(count) for count in (summary.l1, summary.l2, summary.l3)] == ["99 %", "1 %", "0 %"]
    assert site_rows.summary([row("a")]).share(0) == "none"


# The page


async def test_every_number_of_the_summary_leads_to_its_rows(server: Running, viewer: Person) -> None:
    async with server.db.platform() as scope:
        await scope.conn.execute(
            "INSERT INTO site_totals (site_id, partner_id, incidents, open_high, l1_count, success_count)"
            " VALUES ('acme-clinic', 'acme', 9, 2, 7, 7)"
        )
    shown = (await viewer.client.get("/")).text
    links = [each.replace("&amp;", "&") for each in re.findall(r'href="(/[^"]*)"', shown)]
    assert {"/", "/incidents?state=open&severity=high", "/incidents?level=L1"} <= set(links)
    assert "/incidents?state=open&severity=high&site=acme-clinic" in links
    assert "/?show=offline" not in links  # nothing is, so there are no rows
    assert "L1 rules 100 %" in " ".join(re.sub(r"<[^>]+>", " ", shown).split())


async def test_the_url_says_search_filter_and_order_and_a_page_keeps_them(server: Running, viewer: Person) -> None:
    for number in range(51):
        await server.add_site("acme", f"north-{number:02}")
    answer = await viewer.client.get("/?q=NORTH&show=unknown&sort=name")
    assert "Sites 1 to 50 of 51" in answer.text
    link = re.search(r'rel="next" href="([^"]+)"', answer.text)
    assert link is not None
    second = await viewer.client.get(link[1].replace("&amp;", "&"))
    assert "North-50" in second.text
    assert 'value="NORTH"' in second.text
    assert '<option value="unknown" selected>' in second.text


async def test_a_filter_without_a_site_says_so_and_leads_back(server: Running, viewer: Person) -> None:
    answer = await viewer.client.get("/", params={"q": "<b>"})
    assert "No site is like that with “&lt;b&gt;” in its name or id" in answer.text
    assert "Show all sites" in answer.text


@pytest.mark.parametrize("query", ["show=odd", "sort=odd", "page=x", "odd=1", "q=a&q=b", "page=1&page=1"])
async def test_what_the_overview_does_not_take_is_said(server: Running, viewer: Person, query: str) -> None:
    assert (await viewer.client.get(f"/?{query}", headers={"Accept": "text/html"})).status_code == 422


async def test_a_site_of_nobodys_partner_and_of_another_is_not_found(server: Running, viewer: Person) -> None:
    await server.add_site("zenith", "zenith-clinic")
    for path in ("/sites/zenith-clinic", "/sites/nobody", "/sites/zenith-clinic?partner=zenith", "/sites/%00"):
        assert (await viewer.client.get(path)).status_code == 404, path
    assert (await viewer.client.get("/sites/acme-clinic")).status_code == 200


async def test_an_admins_links_name_the_partner_that_was_chosen(server: Running) -> None:
    admin = await add(server, "root@platform.example", Role.PLATFORM_ADMIN, "platform")
    async with admin.client:
        await admin.give_password()
        shown = await admin.client.get("/")
        page = await admin.client.get("/sites/acme-clinic?partner=acme")
    assert 'href="/sites/acme-clinic?partner=acme"' in shown.text
    assert page.status_code == 200
    assert 'href="/?partner=acme"' in page.text


async def test_the_calendar_shows_the_worst_of_each_day(server: Running, viewer: Person) -> None:
    conn = await asyncpg.connect(server.urls.admin)
    for hours, backup, rest in [(0, True, True), (0, False, True), (24, True, True), (48, None, True)]:
        await conn.execute(
            "INSERT INTO compliance_snapshots (site_id, partner_id, snapshot_at, patching_status, antivirus_status,"
            " backup_status, logging_status, firewall_status, encryption_status)"
            " VALUES ('acme-clinic', 'acme', now() - $1 * interval '1 hour', $3, $3, $2, $3, $3, $3)",
            hours, backup, rest,
        )  # fmt: skip
    await conn.close()
    shown = (await viewer.client.get("/sites/acme-clinic")).text
    today = datetime.now(UTC).date()
    assert f"{today}: backup failed" in shown
    assert f"{today - timedelta(days=1)}: all families passed" in shown
    assert f"{today - timedelta(days=2)}: backup not known" in shown
    assert f"{today - timedelta(days=3)}: no snapshot" in shown
    assert "1 day with all families passing, 1 with a failing one, 1 with one not known, 87 without" in shown
