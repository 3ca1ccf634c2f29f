"""The command line on a partner's appliances, codes, waivers, orders, settings and keys: real processes."""

import csv
import io
import stat
from pathlib import Path

import pytest

from ccserver import keys, promotion
from ccserver.config import Config
from ccserver.localpg import Urls
from ccshared import purposes
from tests.server.test_commands import CommandLine

AT = ("--site", "acme-clinic")
OF = ("--partner", "acme")


@pytest.fixture
async def cli(database: Urls, settings: Config) -> CommandLine:
    made = CommandLine(database, settings)
    await made.run("partner", "create", "Acme", "--id", "acme")
    await made.run("site", "create", "Acme clinic", "--partner", "acme", "--id", "acme-clinic")
    await made.rows(
        "INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)"
        " VALUES ('acme-clinic', 'acme', 'box-1', 'box', sha256('k'))"
    )
    return made


async def test_an_appliance_is_renamed_and_revoked_once_somebody_said_so(cli: CommandLine) -> None:
    await cli.run("appliance", "rename", "box-1", "Front desk", *AT)
    await cli.run("appliance", "revoke", "box-1", *AT, code=2)
    assert "would be done" in await cli.run("appliance", "revoke", "box-1", *AT, "--dry-run")
    (listed,) = await cli.json("appliance", "list", *OF)
    assert (listed["name"], listed["revoked_at"]) == ("Front desk", None)
    await cli.run("appliance", "revoke", "box-1", *AT, "--yes")
    assert (await cli.json("appliance", "show", "box-1", *AT))["revoked_at"] is not None
    await cli.run("appliance", "show", "box-2", *AT, code=1)
    await cli.run("appliance", "list", "--site", "acme-clinic", code=2)
    actions = [each["action"] for each in await cli.json("audit", "list", *OF)]
    assert actions == ["appliance.revoke", "appliance.rename", "site.create"]


async def test_codes_are_made_by_the_table_and_written_for_the_owner_alone(cli: CommandLine, tmp_path: Path) -> None:
    table = "site,count,appliance,hours\nacme-clinic,2,,\nacme-clinic,,Front desk,1\n"
    create, out = ("enroll-code", "create", "--csv", "-"), tmp_path / "codes.csv"
    assert "3 codes" in await cli.run(*create, "--dry-run", given=table)
    assert await cli.json("enroll-code", "list", *AT) == []
    await cli.run(*create, "--output", str(out), given=table)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["appliance"] for row in rows] == ["", "", "Front desk"]
    kept = {each["id"] for each in await cli.json("enroll-code", "list", *AT)}
    assert {purposes.parse_code(row["code"]).secret_hash[:32] for row in rows} == kept
    await cli.run(*create, "--output", str(out), given=table, code=1)
    assert len(await cli.json("enroll-code", "list", *AT)) == 3
    assert len((await cli.run(*create, given=table)).splitlines()) == 4


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("site\nacme-clinic\nnowhere\n", "line 3: there is no open site nowhere"),
        ("site,count\nacme-clinic,0\nacme-clinic,x\nUP,1\n", "line 2: count"),
        ("site,count,appliance\nacme-clinic,2,Two\n", "line 2: appliance"),
        ("site,secret\nacme-clinic,1\n", "The first line names the columns"),
        ("site\nacme-clinic,1\n", "line 2: it has more columns"),
        ("site\n", "no line"),
        ("", "The first line names the columns"),
    ],
)
async def test_a_bad_line_is_named_by_its_number_and_nothing_is_made(cli: CommandLine, table: str, named: str) -> None:
    assert named in await cli.refused("enroll-code", "create", "--csv", "-", given=table)
    assert await cli.json("enroll-code", "list", *AT) == []


async def test_a_code_may_name_the_appliance_that_it_replaces_and_be_revoked(cli: CommandLine) -> None:
    await cli.run("enroll-code", "create", *AT, "--appliance", "box-1")
    (code,) = await cli.json("enroll-code", "list", *AT)
    assert code["replaces_id"] == "box-1"
    await cli.run("enroll-code", "create", *AT, "--appliance", "box-2", code=1)
    await cli.run("enroll-code", "revoke", code["id"], *AT, "--yes")
    assert (await cli.json("enroll-code", "list", *AT))[0]["revoked_at"] is not None


async def test_settings_are_made_shown_compared_and_unmade(cli: CommandLine) -> None:
    name = "checks.backup.max_age_hours"
    await cli.run("setting", "set", name, "30")
    await cli.run("setting", "set", name, "40", *AT)
    (site,), (partner,) = await cli.json("setting", "diff", *AT), await cli.json("setting", "diff", *OF)
    assert [(each["value"], each["origin"]) for each in (site, partner)] == [(40, "site"), (30, "platform")]
    await cli.run("setting", "unset", name, *AT, "--yes")
    assert (await cli.json("setting", "diff", *AT, "--appliance", "box-1"))[0]["value"] == 30
    assert "checks.time_limit_s = 60 seconds  (default)" in await cli.run("setting", "show", *AT)
    await cli.run("setting", "set", "checks.backup", "1", code=1)
    await cli.run("setting", "set", name, "0", code=1)
    await cli.run("setting", "set", name, "9", "--partner", "nobody", code=1)


async def test_a_setting_that_takes_a_text_is_made_on_the_host(cli: CommandLine) -> None:
    await cli.run("setting", "set", "healing.mode", "heal", *AT)
    await cli.run("setting", "set", "healing.mode", "stop", *OF)
    assert "healing.mode = stop  (partner)" in await cli.run("setting", "show", *AT)
    assert "one of stop, observe, heal" in await cli.refused("setting", "set", "healing.mode", "off", *AT)


async def test_the_catalogue_of_runbooks_needs_no_database(cli: CommandLine, tmp_path: Path) -> None:
    listed = {each["id"]: each for each in await cli.json("runbook", "list")}
    assert await cli.json("runbook", "show", "run-backup") == listed["run-backup"]
    assert "/usr/bin/systemctl start -- {unit}" in await cli.run("runbook", "show", "run-backup")
    assert "There is no runbook none" in await cli.refused("runbook", "show", "none")
    assert await cli.json("runbook", "lint") == {"troubles": []}
    (tmp_path / "x.toml").write_text("id = 1")
    assert (await cli.json("runbook", "lint", str(tmp_path), code=1))["troubles"][0].startswith("x.toml: ")


async def test_a_candidate_is_explained_approved_and_taken_back_on_the_host(cli: CommandLine) -> None:
    rule = promotion.rule_id("acme", "a" * 16, "run-backup")
    await cli.rows(
        "INSERT INTO appliances (site_id, partner_id, id, hostname, public_key)"
        " VALUES ('acme-clinic', 'acme', 'box-2', 'box', sha256('l'))"
    )
    await cli.rows(
        "INSERT INTO pattern_runbooks SELECT 'acme-clinic', 'acme', 'box-' || n, repeat('a', 16), 'run-backup',"
        " 'backup_stale', 3, 3, 3000, 0, 0, 1, 1 FROM generate_series(1, 2) AS n"
    )
    await cli.run("sweep", "candidates")
    assert "6 of 6 succeeded (at least 60.9 %, 95 % sure, 1.0 s each)" in await cli.run("rule", "explain", rule, *OF)
    said = ("--comment", "seen at both")
    await cli.run("rule", "approve", rule, *OF, *said, code=2)
    assert "would be done" in await cli.run("rule", "approve", rule, *OF, *said, "--dry-run")
    assert (await cli.json("rule", "list", *OF))[0]["status"] == "candidate"
    assert "is canary, tried on box-2" in await cli.run(
        "rule", "approve", rule, *OF, *said, "--yes", "--appliance", "box-2"
    )
    assert "Its trial is not over" in await cli.refused("rule", "approve", rule, *OF, *said, "--yes")
    assert "canary or active" not in await cli.run("rule", "demote", rule, *OF, *said, "--yes")
    assert "The rule is demoted" in await cli.refused("rule", "reject", rule, *OF, *said, "--yes")
    assert "There is no rule none" in await cli.refused("rule", "reject", "none", *OF, *said, "--yes")
    actions = [each["action"] for each in await cli.json("audit", "list", *OF)]
    assert actions[:3] == ["rule.demote", "rule.approve", "rule.propose"]


async def test_waivers_orders_rules_and_incidents(cli: CommandLine) -> None:
    await cli.run("waiver", "create", "backup", *AT, "--reason", "moved", "--days", "3")
    (waiver,) = await cli.json("waiver", "list", *OF)
    await cli.run("waiver", "revoke", waiver["id"], *AT, "--yes")
    assert (await cli.json("waiver", "list", *OF))[0]["revoked_at"] is not None
    await cli.rows(
        "INSERT INTO orders (site_id, partner_id, appliance_id, id, runbook_id, created_by, expires_at)"
        " VALUES ('acme-clinic', 'acme', 'box-1', 'o-1', 'restart', 'test', now() + interval '1 h')"
    )
    await cli.run("order", "cancel", "o-1", *AT, "--yes")
    await cli.run("order", "cancel", "o-1", *AT, "--yes", code=1)
    assert (await cli.json("order", "show", "o-1", *AT))["order"]["status"] == "cancelled"
    assert [each["id"] for each in await cli.json("order", "list", *OF, "--status", "cancelled")] == ["o-1"]
    assert await cli.json("rule", "list", *OF) == await cli.json("rule", "patterns", *OF) == []
    await cli.rows(
        "INSERT INTO incidents (site_id, partner_id, appliance_id, id, host_id, incident_type, severity, raw_data,"
        " pattern_signature, occurrences, created_at, last_seen_at, epoch_number, revision) VALUES ('acme-clinic',"
        " 'acme', 'box-1', 'i-1', 'box', 'backup', 'high', '{}', repeat('a', 16), 1, now(), now(), 1, 1)"
    )
    await cli.run("incident", "acknowledge", "i-1", *AT)
    assert [each["id"] for each in await cli.json("incident", "list", *OF, "--open")] == ["i-1"]
    await cli.run("incident", "resolve", "i-1", *AT)
    assert (await cli.json("incident", "show", "i-1", *AT))["closed_by_hand_at"] is not None
    assert await cli.json("incident", "list", *OF, "--open") == []


async def test_a_signing_key_is_added_once_somebody_said_so(cli: CommandLine, settings: Config) -> None:
    before = keys.load(settings.key_file)
    await cli.run("keys", "rotate", "witness", code=2)
    await cli.run("keys", "rotate", "witness", "--dry-run")
    assert keys.load(settings.key_file) == before
    made = await cli.json("keys", "rotate", "witness", "--yes")
    after = keys.load(settings.key_file)
    assert after.witness.name == made["name"] != before.witness.name
    shown = await cli.run("keys", "show")
    assert after.witness.seed.hex() not in shown
    assert len(shown.splitlines()) == 3


async def test_people_change_roles_and_the_last_owner_stays(cli: CommandLine) -> None:
    await cli.run("admin", "create", "olga@acme.example", *OF)
    await cli.run("user", "disable", "olga@acme.example", "--yes", code=1)
    await cli.run("user", "role", "olga@acme.example", "viewer", code=1)
    await cli.run("admin", "create", "otto@acme.example", *OF)
    await cli.run("user", "role", "olga@acme.example", "auditor", *AT)
    assert "would be done" in await cli.run("user", "disable", "olga@acme.example", "--dry-run")
    listed = {each["login"]: each for each in await cli.json("user", "list", *OF)}
    assert (listed["olga@acme.example"]["sites"], listed["olga@acme.example"]["disabled_at"]) == (["acme-clinic"], None)
    await cli.run("user", "disable", "olga@acme.example", "--yes")
    await cli.run("user", "enable", "olga@acme.example")


async def test_a_channel_is_made_without_its_secret_on_the_command_line(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.example.org/T000/sesame\n")
    create = ("channel", "create", "Ops", "--kind", "webhook", *OF, "--site", "acme-clinic")
    made = await cli.json(*create, "--secret-file", str(tmp_path / "url"))
    assert (made["target"], made["site_ids"], made["secret"][:6]) == ("hooks.example.org", ["acme-clinic"], "whsec_")
    pager = ("channel", "create", "Pager", "--kind", "pagerduty", *OF)
    await cli.run(*pager, "--secret-file", "-", given="a" * 32)
    listed = await cli.run("channel", "list", *OF)
    assert len(listed.splitlines()) == 2
    assert "sesame" not in listed
    assert made["secret"] not in listed
    await cli.run("channel", "disable", made["id"], *OF, code=2)
    await cli.run("channel", "disable", made["id"], *OF, "--yes")
    assert [bool(each["disabled_at"]) for each in await cli.json("channel", "list", *OF)] == [False, True]
    await cli.run("channel", "enable", made["id"], *OF)
    actions = [each["action"] for each in await cli.json("audit", "list", *OF)]
    assert actions[:4] == ["channel.change", "channel.change", "channel.create", "channel.create"]


async def test_a_channel_that_cannot_work_is_one_sentence(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://127.0.0.1/hook")
    create = ("channel", "create", "Ops", "--secret-file", str(tmp_path / "url"))
    assert "not public" in await cli.refused(*create, *OF, "--kind", "slack")
    assert "CCSERVER_SMTP_HOST" in await cli.refused(*create, *OF, "--kind", "email", "--to", "a@example.org")
    (tmp_path / "url").write_text("https://example.org/hook")
    assert "no site" in await cli.refused(*create, *OF, "--kind", "slack", "--site", "none")
    assert "no partner" in await cli.refused(*create, "--kind", "slack", "--partner", "nobody")
    missing = ("channel", "create", "Ops", *OF, "--kind", "slack", "--secret-file", str(tmp_path / "none"))
    assert "cannot be read" in await cli.refused(*missing)


async def test_a_test_message_that_does_not_arrive_ends_with_1_and_is_listed(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://name.invalid/hook")
    create = ("channel", "create", "Ops", "--kind", "slack", *OF, "--secret-file", str(tmp_path / "url"))
    made = await cli.json(*create)
    assert "does not resolve" in await cli.run("channel", "test", made["id"], *OF, code=1)
    assert "given up: The name of the receiver" in await cli.run("channel", "deliveries", *OF)
    await cli.run("channel", "test", "none", *OF, code=1)
