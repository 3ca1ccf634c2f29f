"""The overview of a partner: its numbers are those that the site's own rules give, and each leads to its rows."""

import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ccserver import compliance, liveness
from ccserver.compliance import Score
from ccserver.queries import appliances, check_states, overview, planner
from ccserver.queries.overview import Asked, Overview, Show, SiteRow, Sort, Summary
from ccserver.scope import Database
from ccshared.vocabulary import Family, Role, Severity, Status
from tests.devices import Running
from tests.people import Person, add

NOW = datetime.now(UTC)
ALL = Asked(limit=1000)
AGES = {"online": 1, "overdue": 9, "offline": 99, "never": None}  # minutes since the last check-in


async def clinic(server: Running, site_id: str, name: str | None = None, **signs: Any) -> None:
    """Add a site: its appliances by how they live, each with all families passing but those `failed` and `unknown`.

    `waiting` is since how many hours an entry waits; what else is said is of its totals, its logs or the site itself.
    """
    await server.add_site("acme", site_id)
    conn = await asyncpg.connect(server.urls.admin)
    await conn.execute("SET session_replication_role = replica")
    await conn.execute(
        "UPDATE sites SET name = $2, closed_at = $3 WHERE id = $1", site_id, name or site_id, signs.get("closed_at")
    )
    lives = [word for word in AGES for _ in range(signs.get(word, 0))]
    for number, word in enumerate(lives or ["online"]):
        await _box(conn, site_id, f"{site_id}-{number}", word, signs)
    counts = [signs.get(f"open_{word}", 0) for word in ("critical", "high", "medium", "low")]
    await conn.execute(
        "INSERT INTO site_totals (site_id, partner_id, open_critical, open_high, open_medium, open_low)"
        " VALUES ($1, 'acme', $2, $3, $4, $5)",
        site_id, *counts,
    )  # fmt: skip
    if "forks" in signs:
        await conn.execute(
            "INSERT INTO equivocations (site_id, partner_id, appliance_id, log_id, seq, leaf, checkpoint)"
            " VALUES ($1, 'acme', $1, 1, 1, $2, 'x')",
            site_id, bytes(32),
        )  # fmt: skip
    if "faults" in signs:
        await conn.execute(
            "INSERT INTO log_verifications (site_id, partner_id, log_id, size, compact_range, fault)"
            " VALUES ($1, 'acme', 1, 1, $2, 'broken')",
            site_id, bytes(32),
        )  # fmt: skip
    await conn.close()


async def _box(conn: Any, site_id: str, box: str, word: str, signs: dict[str, Any]) -> None:
    age, hours = AGES[word], signs.get("waiting")
    await conn.execute(
        "INSERT INTO appliances (site_id, partner_id, id, hostname, public_key, last_checkin, waiting, oldest_at)"
        " VALUES ($1, 'acme', $2, $2, $3, $4, $5, $6)",
        site_id, box, bytes(32), None if age is None else NOW - timedelta(minutes=age), hours and 1,
        hours and NOW - timedelta(hours=hours),
    )  # fmt: skip
    words = ["fail"] * signs.get("failed", 0) + ["unknown"] * signs.get("unknown", 0)
    for family, status in zip(Family, words + ["pass"] * (len(Family) - len(words)), strict=True):
        await conn.execute(
            "INSERT INTO check_states VALUES ($1, 'acme', $2, 'box', $3, $4, 'high', 'x', $5, $5, 1, 1)",
            site_id, box, str(family), status, NOW,
        )  # fmt: skip


async def asked(db: Database, asked: Asked) -> Overview:
    async with db.partner("acme") as scope:
        await planner.join_by_hash(scope)
        return await overview.read(scope, NOW, asked)


async def ids_of(server: Running, show: Show = Show.ALL, sort: Sort = Sort.WORST, search: str = "") -> list[str]:
    found = await asked(server.db, Asked(show, sort, search, limit=1000))
    return [each.id for each in found.sites if each.id != "acme-clinic"]


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
    return (await asked(db, ALL)).sites


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
        (only,) = (await overview.read(scope, NOW, ALL)).sites
    assert (only.id, only.appliances, only.score) == ("zenith-clinic", 0, Score(0, 0, 0))


# Which sites, in which order


async def test_the_sums_are_those_of_the_open_sites_together(server: Running) -> None:
    await scatter(server, 5)
    await clinic(server, "closed", closed_at=NOW, offline=3)
    found = await asked(server.db, ALL)
    assert (found.summary.sites, found.summary.closed, found.total) == (21, 1, 21)
    for name in ("online", "overdue", "offline", "never", "waiting"):
        assert getattr(found.summary, name) == sum(getattr(each, name) for each in found.sites), name
    scores = [each.score for each in found.sites]
    assert found.summary.score == Score(
        *(sum(column) for column in zip(*(vars(each).values() for each in scores), strict=True))
    )
    assert found.summary.as_of == min(each.as_of for each in found.sites if each.as_of)


async def test_of_no_site_at_all_there_are_sums_of_nothing(server: Running) -> None:
    async with server.db.partner("acme") as scope:
        found = await overview.read(scope, NOW, Asked(auditor_id="nobody"))
    assert (found.summary.sites, found.summary.closed, found.total, found.sites) == (0, 0, 0, [])
    assert (found.summary.score, found.summary.waiting) == (Score(0, 0, 0), 0)


async def test_the_worst_stands_first_and_what_is_well_last(server: Running) -> None:
    await clinic(server, "well")
    await clinic(server, "unknown", unknown=2)
    await clinic(server, "late", overdue=1)
    await clinic(server, "incident", open_medium=1)
    await clinic(server, "away", offline=1)
    await clinic(server, "failing", failed=1)
    await clinic(server, "more-failing", failed=2)
    await clinic(server, "critical", open_critical=1)
    await clinic(server, "forked", forks=1)
    assert await ids_of(server) == [
        "forked", "critical", "more-failing", "failing", "away", "incident", "late", "unknown", "well",
    ]  # fmt: skip


async def test_nothing_known_stands_before_the_lowest_score(server: Running) -> None:
    for name, failed, unknown in [("half", 3, 0), ("dark", 0, 6), ("all", 0, 0), ("low", 5, 0)]:
        await clinic(server, name, failed=failed, unknown=unknown)
    assert await ids_of(server, sort=Sort.SCORE) == ["dark", "low", "half", "all"]


async def test_what_waits_longest_stands_first(server: Running) -> None:
    await clinic(server, "none")
    await clinic(server, "short", waiting=1)
    await clinic(server, "long", waiting=3)
    assert await ids_of(server, sort=Sort.WAITING) == ["long", "short", "none"]


@pytest.mark.parametrize(
    ("show", "changes"),
    [
        (Show.FAILING, {"failed": 1}),
        (Show.UNKNOWN, {"unknown": 1}),
        (Show.UNKNOWN, {"unknown": 6}),
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
async def test_a_filter_shows_what_it_names_and_nothing_else(
    server: Running, show: Show, changes: dict[str, Any]
) -> None:
    await clinic(server, "other")
    await clinic(server, "meant", **changes)
    assert await ids_of(server, show) == ["meant"]


async def test_a_closed_site_is_in_its_own_list_only(server: Running) -> None:
    await clinic(server, "open")
    await clinic(server, "closed", closed_at=NOW, offline=3)
    assert await ids_of(server) == ["open"]
    assert await ids_of(server, Show.CLOSED) == ["closed"]


@pytest.mark.parametrize("part", [" street ", "ALDER", "er-1", "STRASSE 4+", "ärzte", "ÄRZTE"])
async def test_a_search_finds_part_of_a_name_or_an_id_in_any_case(server: Running, part: str) -> None:
    await clinic(server, "alder-1", name="Alder STREET Ärzte, Strasse 4+")
    await clinic(server, "birch")
    assert await ids_of(server, search=part) == ["alder-1"]


@pytest.mark.parametrize("part", [".", "4.", "(", "[a", "\\", "^", "a\x00", "(?i)BIRCH", "***=b"])
async def test_a_search_is_no_pattern_of_its_own(server: Running, part: str) -> None:
    await clinic(server, "birch")
    assert await ids_of(server, search=part) == []


def test_a_share_is_never_all_of_less_and_never_none_of_some() -> None:
    nothing = dict.fromkeys(
        ("sites", "closed", "failing", "alarms", "online", "overdue", "offline", "never", "waiting", "open_critical",
         "open_high", "open_medium", "open_low", "succeeded"), 0,
    )  # fmt: skip
    summary = Summary(score=Score(0, 0, 0), as_of=None, waiting_since=None, l1=9999, l2=1, l3=0, **nothing)
    assert [summary.share(count) for count in (summary.l1, summary.l2, summary.l3)] == ["99 %", "1 %", "0 %"]
    assert replace(summary, l1=0, l2=0).share(0) == "none"


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
