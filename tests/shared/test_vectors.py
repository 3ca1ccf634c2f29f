"""The vectors' program, run as a user runs it."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccshared import vectors

FILE = Path(__file__).parent / "evidence_log_v1.json"
GOOD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ccshared.vectors", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def changed(change: Callable[[dict[str, Any]], object]) -> list[str]:
    """Return the parts that disagree after a change."""
    data = copy.deepcopy(GOOD)
    change(data)
    return [part for part, why in vectors.run(data) if why]


def test_this_implementation_agrees_with_every_part() -> None:
    done = run(FILE)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 10
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())


def test_a_changed_vector_is_an_exit_of_one_and_a_line_that_says_which(tmp_path: Path) -> None:
    file = tmp_path / "changed.json"
    file.write_text(json.dumps({**GOOD, "agent_vkey": GOOD["agent_vkey"][:-1] + "5"}))
    done = run(file)
    assert done.returncode == 1
    assert "WRONG agent_vkey" in done.stdout


@pytest.mark.parametrize("text", [None, "", "[]", "null", "not JSON", '{"a":'])
def test_without_a_readable_file_it_is_an_exit_of_two(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_text(text)
    assert run(file).returncode == 2


def test_without_an_argument_it_says_how_to_call_it() -> None:
    done = run()
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("part", sorted(set(GOOD) - {"spec"}))
def test_a_missing_part_is_an_error(part: str) -> None:
    assert changed(lambda data: data.pop(part))


@pytest.mark.parametrize("part", sorted(set(GOOD) - {"spec"}))
def test_an_empty_part_is_an_error(part: str) -> None:
    assert changed(lambda data: data.update({part: type(data[part])()}))


def test_an_unknown_part_is_an_error() -> None:
    assert changed(lambda data: data.update(consistency=[])) == ["consistency"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("agent_vkey", lambda data: data.update(agent_vkey=data["server_vkey"])),
        ("server_vkey", lambda data: data.update(server_vkey=data["agent_vkey"])),
        ("logs", lambda data: data["logs"][-1].update(root="00" * 32)),
        ("logs", lambda data: data["logs"][-1]["leaves"].reverse()),
        ("logs", lambda data: data["logs"][-1]["payloads"].pop()),
        ("logs", lambda data: data["logs"][-1]["inclusion"]["proof"].pop()),
        ("logs", lambda data: data["logs"][-1]["receipts"][0].update(size=1)),
        ("payloads_accepted", lambda data: data["payloads_accepted"].append(data["payloads_refused"][0])),
        ("payloads_refused", lambda data: data["payloads_refused"].append(data["payloads_accepted"][0])),
        ("entries_accepted", lambda data: data["entries_accepted"].append(data["entries_refused"][0])),
        ("entries_refused", lambda data: data["entries_refused"].append(data["entries_accepted"][0])),
        ("notes_refused", lambda data: data["notes_refused"].update(good="")),
        (
            "notes_refused",
            lambda data: data["notes_refused"]["bad"].append({"note": data["notes_refused"]["good"], "why": ""}),
        ),
        ("keys_refused", lambda data: data["keys_refused"].append({"key": data["signatures"][0]["key"], "why": ""})),
        ("signatures", lambda data: data["signatures"][0].update(valid=False)),
        ("signatures", lambda data: data["signatures"][1].update(valid=True)),
    ],
)
def test_a_change_anywhere_is_noticed(part: str, change: Callable[[dict[str, Any]], object]) -> None:
    assert changed(change) == [part]
