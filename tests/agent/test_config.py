"""The configuration file and the places: defaults, and one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccagent import config, places
from ccagent.config import BadConfigError
from ccagent.places import Places


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def complaint(file: Path) -> str:
    with pytest.raises(BadConfigError) as caught:
        config.load(file)
    return str(caught.value)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    agent = config.load(written(tmp_path, "")).agent
    assert (agent.state_dir, agent.server_url) == (Path("/var/lib/cc-agent"), None)
    assert (agent.patrol_interval_s, agent.checkin_interval_s) == (300, 60)


def test_a_missing_default_file_gives_the_defaults_but_a_named_one_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent.toml"
    assert complaint(absent) == f"{absent} is not there: make it, or name another file"
    monkeypatch.setattr(places, "DEFAULT_CONFIG_FILE", absent)
    assert config.load() == config.load(absent) == config.Config()


def test_settings_are_read_and_frozen(tmp_path: Path) -> None:
    text = """
    [agent]
    server_url = "https://cc.example"
    [checks.backup]
    status_file = "/var/lib/backup/status.json"
    [[checks.plugin]]
    name = "nas"
    argv = ["check_http", "-H", "nas"]
    host_id = "nas"
    timeout_s = 10
    """
    loaded = config.load(written(tmp_path, text))
    assert loaded.checks.plugin[0].argv == ("check_http", "-H", "nas")
    with pytest.raises(ValueError, match="frozen"):
        loaded.checks.backup.__setattr__("status_file", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[agent]\nstate_dri = '/x'\n", "agent.state_dri is no setting: did you mean state_dir?"),
        ("[checks.backup]\nstatusfile = '/x'\n", "checks.backup.statusfile is no setting: did you mean status_file?"),
        ("[chekcs]\n", "chekcs is no setting: did you mean checks?"),
        ("[checks.firewall]\nzzz = 1\n", "known here are baseline_sha256, ignore_tables"),
        (
            "[[checks.plugin]]\nname = 'a'\nargv = ['b']\ntimeout = 3\n",
            "checks.plugin.0.timeout is no setting: did you",
        ),
        ("[[checks.plugin]]\nname = 'a'\n", "checks.plugin.0.argv is missing: add it"),
        ("[agent]\npatrol_interval_s = '300'\n", "agent.patrol_interval_s: input should be a valid integer"),
        ("[agent]\npatrol_interval_s = true\n", "agent.patrol_interval_s: input should be a valid integer"),
        ("[agent]\npatrol_interval_s = 0\n", "agent.patrol_interval_s: input should be greater than or equal to 1"),
        ("[agent]\nstate_dir = 'here'\n", "agent.state_dir: is not an absolute path"),
        ("[agent]\nserver_url = 'ftp://x'\n", "agent.server_url: string should match pattern"),
        ("[checks]\nencryption = 3\n", "checks.encryption: input should be"),
        ("[checks.firewall]\nbaseline_sha256 = 'abc'\n", "checks.firewall.baseline_sha256: string should match"),
        ("[checks.backup]\nrestic_repository = 'r'\n", "checks.backup: restic_repository and restic_password_file go"),
        ("[checks.backup]\nborg_repository = '--remote-path=x'\n", "checks.backup.borg_repository: begins with '-'"),
        ("[agent\n", "is not TOML: "),
        ("[agent]\nx = \n", "(at line 2, column"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_next_step(tmp_path: Path, text: str, expected: str) -> None:
    said = complaint(written(tmp_path, text))
    assert said.startswith(f"{tmp_path}/config.toml")
    assert expected in said
    assert "\n" not in said


def test_bytes_that_are_not_utf8_are_said_so(tmp_path: Path) -> None:
    assert "is not UTF-8 at byte 3" in complaint(written(tmp_path, b"# \n\xff"))


def test_a_directory_in_place_of_the_file_is_said_so(tmp_path: Path) -> None:
    assert f"{tmp_path} cannot be read (Is a directory)" in complaint(tmp_path)


def test_two_plugins_of_one_name_for_one_host_are_refused(tmp_path: Path) -> None:
    plugin = "[[checks.plugin]]\nname = 'a'\nargv = ['b']\n"
    assert "two plugins have one name and host_id" in complaint(written(tmp_path, plugin * 2))


def test_the_places_follow_the_state_directory(tmp_path: Path) -> None:
    found = places.find(None, tmp_path)
    assert found == Places(tmp_path)
    names = [
        found.database,
        found.lock,
        found.socket,
        found.identity,
        found.device_key,
        found.scrub_key,
        found.head_mark,
    ]
    assert all(path.parent == tmp_path for path in names)
    assert len(set(names)) == 7


def test_the_configuration_names_the_state_directory_though_other_settings_are_wrong(tmp_path: Path) -> None:
    file = written(tmp_path, f"[agent]\nstate_dir = '{tmp_path}/s'\nmisspelt = 1\n")
    assert places.find(file, None) == Places(tmp_path / "s")


@pytest.mark.parametrize("text", ["agent = 3", "[agent]\nstate_dir = 3", "[agent]\nstate_dir = 'here'"])
def test_a_state_directory_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfigError, match=r"agent\.state_dir is not an absolute path"):
        places.find(written(tmp_path, text), None)


def test_a_socket_path_may_have_107_bytes_and_a_longer_one_moves() -> None:
    fits = Path("/" + "x" * (107 - 1 - len("/control.sock")))
    assert Places(fits).socket == fits / "control.sock"
    longer = Places(fits.with_name(fits.name + "x"))
    assert len(os.fsencode(longer.socket)) <= 107
    assert longer.socket.parent.name.startswith(f"cc-agent-{os.geteuid()}-")
    assert longer.socket == Places(longer.state_dir).socket


def test_the_short_directory_of_a_socket_is_private_and_never_somebody_elses(tmp_path: Path) -> None:
    found = Places(tmp_path / ("x" * 120))
    directory = found.make_socket_dir()
    try:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert found.make_socket_dir() == directory
        directory.chmod(0o755)
        with pytest.raises(BadConfigError, match="private directory"):
            found.make_socket_dir()
    finally:
        directory.rmdir()


def test_places_import_nothing_slow() -> None:
    code = "import sys, ccagent.places; print([m for m in ('pydantic', 'asyncio', 'ccshared') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
