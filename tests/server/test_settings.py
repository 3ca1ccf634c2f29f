"""Settings: from the environment or a file, each known by the documentation, everything else refused."""

import re
from pathlib import Path

import pytest

from ccserver import config
from ccserver.errors import BadConfigError
from tests.architecture.source import ROOT

OTHERS = {"HOME", "XDG_STATE_HOME"}


def test_the_documented_settings_are_those_of_the_code() -> None:
    table = (ROOT / "docs/operate.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `((?:CCSERVER|DATABASE)_[A-Z_]+)` \|", table, re.MULTILINE)) == sorted(
        config.SETTINGS
    )


def test_every_setting_that_the_code_names_is_known_and_every_known_one_is_named() -> None:
    text = (ROOT / "server/ccserver/config.py").read_text(encoding="utf-8")
    assert set(re.findall(r"""(?:get\(|values, |values\[)"([A-Z_]+)"[,)\]]""", text)) - OTHERS <= set(config.SETTINGS)
    plain = {name for name in config.SETTINGS if not name.startswith(("CCSERVER_LIMIT_", "CCSERVER_KEEP_"))}
    assert {name for name in plain if text.count(f'"{name}"') < 2} == set()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CCSERVER_LISTN", "CCSERVER_LISTEN"),
        ("DATABASE_OWNR_URL", "DATABASE_OWNER_URL"),
        ("DATABASE_URL_FIL", "DATABASE_URL_FILE"),
        ("CCSERVER_LOG_FORMAT_FILE_FILE", "CCSERVER_LOG_FORMAT_FILE"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_name_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(BadConfigError, match=f"{name}: no such setting, is {meant} meant?"):
        config.from_environ({name: "secret"})


def test_what_is_not_ours_is_nobodys_business() -> None:
    assert config.unknown({"PATH": "", "PGDATABASE": "", "CC_SERVER": "", "MY_DATABASE_X": ""}) == []


def test_a_setting_and_its_file_are_not_both_taken(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("cc.example")
    with pytest.raises(BadConfigError, match="both set"):
        config.from_environ({"CCSERVER_NAME": "cc.example", "CCSERVER_NAME_FILE": str(tmp_path / "name")})


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_end_in_a_file_is_not_part_of_the_value(tmp_path: Path, end: str) -> None:
    (tmp_path / "url").write_text("postgresql:///x" + end)
    assert config.from_environ({"DATABASE_URL_FILE": str(tmp_path / "url")}).database_url == "postgresql:///x"


def test_a_file_that_cannot_be_read_is_named_without_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"hunter2\xff")
    for path in (tmp_path / "url", tmp_path / "none", tmp_path):
        with pytest.raises(BadConfigError, match="DATABASE_URL_FILE names a file that cannot be read") as raised:
            config.from_environ({"DATABASE_URL_FILE": str(path)})
        assert "hunter2" not in str(raised.value)


def test_a_log_format_that_is_none_is_refused() -> None:
    with pytest.raises(BadConfigError, match="json or text"):
        config.from_environ({"CCSERVER_LOG_FORMAT": "xml"})
