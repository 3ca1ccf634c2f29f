"""The map of controls: every check is in it, every id has its framework's form, nothing in it is unused."""

import re
import tomllib
from importlib import resources

import pytest

from ccagent.checks import FAMILIES
from ccshared import controls
from ccshared.vocabulary import Family

FORMS = {
    "hipaa": r"164\.3\d\d\([a-e]\)(\(\d\)(\([ivx]+\)(\([A-Z]\))?)?)?",
    "soc2": r"(CC\d|A1|PI1|C1|P\d)\.\d",
    "cis": r"([1-9]|1[0-8])\.\d{1,2}",
    "nist": r"[A-Z]{2}-\d{1,2}(\(\d{1,2}\))?",
    "csf": r"(GV|ID|PR|DE|RS|RC)\.[A-Z]{2}-\d\d",
}


def test_every_check_is_mapped_to_every_framework() -> None:
    assert set(FAMILIES) == set(Family)
    for check in (*FAMILIES, controls.PLUGIN):
        found = controls.of(check)
        assert found.title
        assert found.description
        assert all(getattr(found, framework) for framework in controls.FRAMEWORKS), check


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("patching", ["164.308(a)(5)(ii)(B)"]),
        ("antivirus", ["164.308(a)(5)(ii)(B)", "164.312(b)"]),
        ("backup", ["164.308(a)(7)(ii)(A)", "164.310(d)(2)(iv)"]),
        ("logging", ["164.308(a)(1)(ii)(D)", "164.312(b)"]),
        ("firewall", ["164.312(a)(1)", "164.312(e)(1)"]),
        ("encryption", ["164.312(a)(2)(iv)", "164.312(e)(2)(ii)"]),
    ],
)
def test_each_family_speaks_for_its_implementation_specifications(check: str, expected: list[str]) -> None:
    assert controls.hipaa(check) == expected


@pytest.mark.parametrize("framework", controls.FRAMEWORKS)
def test_every_id_has_the_form_of_its_framework(framework: str) -> None:
    for entry in controls.load().values():
        for control in getattr(entry, framework):
            assert re.fullmatch(FORMS[framework], control.id), control.id
            assert control.title
            assert control.description.endswith(".")
            assert "\n" not in control.description


def test_no_control_is_described_and_not_used() -> None:
    tables = tomllib.loads(resources.files("ccshared").joinpath("controls.toml").read_text("utf-8"))
    for framework in controls.FRAMEWORKS:
        used = {control for row in tables["checks"].values() for control in row[framework]}
        assert used == set(tables[framework])


def test_a_plugin_has_the_default_of_plugins() -> None:
    assert controls.hipaa("plugin_ups") == controls.hipaa("plugin") != []


@pytest.mark.parametrize("check", ["patchin", "", "plugins", "PATCHING"])
def test_a_check_that_is_not_mapped_is_named(check: str) -> None:
    with pytest.raises(controls.UnmappedCheckError, match=repr(check)):
        controls.hipaa(check)


def test_what_was_loaded_can_be_changed_without_harm() -> None:
    controls.load().clear()
    assert set(FAMILIES) <= set(controls.load())
