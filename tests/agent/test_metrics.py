"""What Prometheus is told of the agent: from its files, by the running agent, and in a file that is replaced whole."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ccagent import metrics

CC_AGENT = Path(sys.executable).parent / "cc-agent"
NAMES = {"ccagent_waiting_entries", "ccagent_waiting_bytes", "ccagent_store_budget_bytes", "ccagent_retry_count"}
NAMES |= {"ccagent_refused_entries", "ccagent_withheld_entries", "ccagent_quarantines", "ccagent_last_patrol_seconds"}


def read(text: str) -> dict[str, float]:
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}


class Here:
    """An agent's place, its settings and how to call it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "collected" / "cc-agent.prom"
        self.file.parent.mkdir()
        self.config = folder / "agent.toml"
        self.config.write_text(f'[agent]\nstate_dir = "{folder / "state"}"\nmetrics_file = "{self.file}"\n')

    def command(self, *words: str) -> list[str]:
        return [str(CC_AGENT), "--config", str(self.config), *words]

    def printed(self) -> dict[str, float]:
        return read(
            subprocess.run(self.command("metrics"), check=True, capture_output=True, text=True, timeout=60).stdout
        )


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.fixture
def running(here: Here) -> Iterator[Here]:
    with (here.folder / "log").open("wb") as log:
        process = subprocess.Popen(here.command("run"), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 30
        while not here.file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        yield here
        process.terminate()
        assert process.wait(20) == 0


def test_the_running_agent_writes_the_file_and_answers_the_command(running: Here) -> None:
    assert read(running.file.read_text()).keys() >= NAMES - {"ccagent_last_patrol_seconds"}
    assert running.file.stat().st_mode & 0o777 == 0o644
    assert running.printed()["ccagent_running"] == 1
    assert [path.name for path in running.file.parent.iterdir()] == ["cc-agent.prom"]


def test_metrics_are_printed_while_no_agent_runs(here: Here) -> None:
    subprocess.run(here.command("once"), check=False, capture_output=True, timeout=60)
    found = here.printed()
    assert found.keys() >= NAMES
    assert (found["ccagent_running"], found["ccagent_enrolled"]) == (0, 0)


def test_nothing_of_the_clinic_is_in_the_metrics(here: Here) -> None:
    subprocess.run(here.command("once"), check=False, capture_output=True, timeout=60)
    text = subprocess.run(here.command("metrics"), check=True, capture_output=True, text=True, timeout=60).stdout
    assert os.uname().nodename not in text
    assert str(here.folder) not in text


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "cc-agent.prom"
    metrics.write(path, "old 1\n")
    (tmp_path / ".cc-agent.prom.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        metrics.write(path, "new 1\n")
    assert path.read_text() == "old 1\n"
