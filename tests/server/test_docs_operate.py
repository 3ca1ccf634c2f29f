"""docs/operate.md names commands, options and defaults as they are in the code."""

import re

import click
import pytest

from ccserver import config
from ccserver.cli import cli
from tests.architecture.source import ROOT

TEXT = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("operate.md", "retention.md"))
CALLS = sorted(set(re.findall(r"\bccserver ((?:[a-z-]+ ?)+(?:[^\n`|;()#$]*))", TEXT)))


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the words lead to, and the words after it."""
    command: click.Command = cli
    while words and isinstance(command, click.Group) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("call", CALLS)
def test_a_command_in_the_documents_is_there_with_its_options(call: str) -> None:
    command, rest = found(re.split(r"[\s,\[\]]+", call))
    assert command is not cli
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if re.fullmatch(r"--[a-z][a-z-]*", word)} <= known | {"--json", "--help"}


def test_many_calls_were_found() -> None:
    assert len(CALLS) > 25
    assert not isinstance(found(["restore", "FILE", "--verify"])[0], click.Group)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("DATABASE_POOL_MIN", "pool_min"),
        ("DATABASE_POOL_MAX", "pool_max"),
        ("CCSERVER_NAME", "server_name"),
        ("CCSERVER_LOG_FORMAT", "log_format"),
        ("CCSERVER_SWEEP_SECONDS", "sweep_s"),
        ("CCSERVER_BACKUP_WINDOW_DAYS", "backup_window_days"),
        ("CCSERVER_APPLIANCE_QUOTA_MIB", "appliance_quota_mib"),
    ],
)
def test_a_default_in_the_table_is_the_codes(name: str, member: str) -> None:
    (said,) = re.findall(rf"^\| `{name}` \| `?([^`|]*?)`? \|", TEXT, re.MULTILINE)
    assert said.strip() == str(getattr(config.from_environ({}), member))
