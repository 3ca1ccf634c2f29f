"""The packaged catalogue: fit, and listed in the database as it is; one that is not fit says why."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from ccserver import catalogue, serving
from ccserver.errors import CatalogueError
from ccserver.queries import runbooks as rows
from ccshared import rules, runbooks
from ccshared.runbooks import Runbook
from ccshared.vocabulary import Family, Risk
from tests.devices import Running
from tests.operators import with_key

GOOD = (catalogue.FOLDER / "start-logging.toml").read_text(encoding="utf-8")


@pytest.fixture
def packaged() -> Mapping[str, Runbook]:
    return catalogue.load()


def one_file(folder: Path, text: str, name: str = "start-logging.toml") -> list[str]:
    """Return what is wrong with the packaged catalogue when one of its files says this."""
    for path in catalogue.FOLDER.glob("*.toml"):
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    return catalogue.lint(folder)


def test_the_packaged_catalogue_is_fit(packaged: Mapping[str, Runbook]) -> None:
    assert catalogue.lint() == []
    assert list(packaged) == sorted(packaged)


def test_each_family_has_a_repair_and_encryption_one_for_people_alone(packaged: Mapping[str, Runbook]) -> None:
    healing = {family for one in packaged.values() if one.variants for family in one.families}
    assert healing == {str(family) for family in Family} - {"encryption"}
    assert [one.people_only for one in packaged.values() if "encryption" in one.families] == [True]


def test_every_built_in_rule_names_a_runbook_of_its_family_that_it_gives_what_it_takes(
    packaged: Mapping[str, Runbook],
) -> None:
    compiled = rules.compile(rules.BUILT_IN, packaged)
    assert compiled.refused == ()
    for rule in rules.BUILT_IN:
        runbooks.check_parameters(packaged[rule.runbook], rule.parameters)


def test_nothing_of_high_risk_runs_by_itself(packaged: Mapping[str, Runbook]) -> None:
    assert [one.id for one in packaged.values() if one.risk is Risk.HIGH and not one.people_only] == []


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        (('"/usr/bin/systemctl", "start"', '"systemctl", "start"'), "absolute path"),
        (('"/usr/bin/systemctl", "start"', '"/bin/sh", "-c"'), "sh would run what it is given"),
        (('"/usr/bin/systemctl", "start"', '"/usr/bin/env", "bash"'), "bash would run what it is given"),
        (('"{unit}"', '"{unite}"'), "parameters that are not both declared and taken"),
        (('proves = "logging"', 'proves = "disks"'), "disks is no check that could prove it"),
        (('families = ["logging"]', 'families = ["loging"]'), "no family of checks: loging"),
        (('platform = "rhel"', 'platform = "sles"'), "variants.1.platform"),
        (('"/run/current-system/sw/bin/systemctl"', '"/usr/bin/systemctl"'), "not where nixos keeps programs"),
        (('id = "start-logging"', 'id = "other"'), "a file is named like its runbook"),
        (("disruptive = false", "disruptive = 0"), "disruptive"),
        (("title =", "tilte ="), "title: Field required"),
        (('"auditd.service"', '"other.service"'), "rule built-in-logging-inactive-3: unit"),
        (("[[variants]]", "[[variants]"), "at line"),
    ],
)
def test_what_is_wrong_with_a_runbook_is_said(tmp_path: Path, change: tuple[str, str], trouble: str) -> None:
    found = one_file(tmp_path, GOOD.replace(*change))
    assert any(trouble in each for each in found), found
    with pytest.raises(CatalogueError):
        catalogue.load(tmp_path)


def test_a_platform_without_a_variant_is_said(tmp_path: Path) -> None:
    text = GOOD.replace('platform = "nixos"', 'platform = "debian2"').split("[[variants]]")
    assert one_file(tmp_path, "[[variants]]".join(text[:-1])) == ["start-logging.toml: nothing for nixos"]


def test_a_rule_without_its_runbook_and_an_empty_catalogue_are_said(tmp_path: Path) -> None:
    assert catalogue.lint(tmp_path)[0] == "there are no runbooks: the installation is not whole"
    assert "rule built-in-backup-stale: runbook run-backup is not in the catalogue" in catalogue.lint(tmp_path)


async def test_the_rows_become_those_of_the_catalogue_and_what_stays_keeps_its_time(
    server: Running, packaged: Mapping[str, Runbook]
) -> None:
    times = []
    for _ in range(2):
        async with server.db.platform() as scope:
            await scope.conn.execute(
                "INSERT INTO runbooks (id, digest, title, risk) VALUES ('old', repeat('a', 64), 'Old', 'low')"
            )
            await scope.conn.execute("UPDATE runbooks SET digest = repeat('b', 64) WHERE id = 'run-backup'")
            await rows.replace(scope, packaged)
        viewer = await with_key(server, "viewer")
        listed = {each["id"]: each for each in await viewer.walk("runbooks")}
        assert {name: each["digest"] for name, each in listed.items()} == {
            name: runbooks.digest(one) for name, one in packaged.items()
        }
        times.append({name: each["updated_at"] for name, each in listed.items()})
    assert {name for name in packaged if times[0][name] != times[1][name]} == {"run-backup"}


async def test_a_server_that_starts_lists_the_catalogue_of_its_release(
    server: Running, packaged: Mapping[str, Runbook]
) -> None:
    await serving.prepare(server.urls.server)
    viewer = await with_key(server, "viewer")
    assert {each["id"] for each in await viewer.walk("runbooks")} == set(packaged)


async def test_a_runbook_is_shown_with_all_that_it_does(server: Running, packaged: Mapping[str, Runbook]) -> None:
    async with server.db.platform() as scope:
        await rows.replace(scope, packaged)
    shown = (await (await with_key(server, "viewer")).call("GET", "runbooks/run-backup")).json()
    assert shown["digest"] == runbooks.digest(packaged["run-backup"])
    assert runbooks.from_dict(shown["definition"]) == packaged["run-backup"]
