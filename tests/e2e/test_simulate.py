"""`cc-agent simulate` against the real server: a small fleet enrols once, delivers, and is judged."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ccserver.localpg import Urls
from tests.e2e.processes import Clinic, wait_until

FLEET = 4  # each code is a process of its own
DOCUMENT = Path(__file__).parents[2] / "docs" / "simulate.md"
SCENARIO = """
server_url = "{url}"
appliances = {fleet}
duration_s = 4
ramp_s = 1
settle_s = 20
checkin_interval_s = 5
evidence_per_hour = 7200
incidents_per_hour = 1800
{more}
"""


@pytest.fixture
async def clinic(database: Urls, tmp_path: Path) -> AsyncIterator[Clinic]:
    prepared = Clinic.prepare(database, tmp_path)
    prepared.serve()
    yield prepared
    prepared.stop()


def simulate(clinic: Clinic, folder: Path, more: str, code: int) -> dict[str, Any]:
    file = folder / "scenario.toml"
    file.write_text(SCENARIO.format(url=clinic.url, fleet=FLEET, more=more), "utf-8")
    done = clinic.agent.run("simulate", str(file), "--state", str(folder / "fleet"), "--json", code=code, given="")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def give_codes(clinic: Clinic) -> None:
    codes = [clinic.server.json("enroll-code", "create", "--site", "clinic")["code"] for _ in range(FLEET)]
    clinic.agent.env["CC_ENROLL_CODES"] = "code,site\n" + "\n".join(f"{code},clinic" for code in codes)


def test_a_fleet_enrols_once_delivers_all_and_is_judged(clinic: Clinic, tmp_path: Path) -> None:
    give_codes(clinic)
    first = simulate(clinic, tmp_path, "[objectives]\nall_receipted = true\nerrors = 0\np99_ms = 20000", 0)
    assert first["held"]
    assert first["summary"]["enrolled_now"] == FLEET
    assert first["summary"]["checkins"] >= FLEET
    assert first["summary"]["receipted"] == first["summary"]["entries"] > 2 * FLEET
    clinic.agent.env.pop("CC_ENROLL_CODES")
    second = simulate(clinic, tmp_path, "[objectives]\npeak_share_per_s = 0.01", 3)
    assert second["summary"]["enrolled_now"] == 0
    assert second["summary"]["entries"] > first["summary"]["entries"]
    assert [one["held"] for one in second["objectives"]] == [False]


def test_an_interrupt_ends_it_cleanly_with_partial_results(clinic: Clinic, tmp_path: Path) -> None:
    give_codes(clinic)
    file = tmp_path / "scenario.toml"
    longer = SCENARIO.replace("duration_s = 4", "duration_s = 600")
    file.write_text(longer.format(url=clinic.url, fleet=FLEET, more=""), "utf-8")
    fleet = tmp_path / "fleet"
    clinic.agent.start("simulate", str(file), "--state", str(fleet))
    wait_until(lambda: len(list(fleet.glob("*/agent.db-wal"))) == FLEET)
    assert clinic.agent.end(signal.SIGINT) == 130
    told = clinic.agent.log.read_text("utf-8")
    assert "partial results" in told
    assert "Traceback" not in told


def test_a_fleet_without_codes_says_how_to_get_them(clinic: Clinic, tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO.format(url=clinic.url, fleet=FLEET, more=""), "utf-8")
    done = clinic.agent.run("simulate", str(file), "--state", str(tmp_path / "fleet"), code=1)
    assert "ccserver enroll-code create" in done.stderr


def test_the_documents_example_holds(clinic: Clinic, tmp_path: Path) -> None:
    example = DOCUMENT.read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "scenario.toml"
    file.write_text(
        example.replace("https://cc.example.org", clinic.url)
        .replace("appliances = 8", "appliances = 4")
        .replace("seed = 1\n", 'seed = 1\nclock = "simulated"\n'),
        "utf-8",
    )
    give_codes(clinic)
    done = clinic.agent.run("simulate", str(file), "--state", str(tmp_path / "fleet"), given="")
    assert "held: median_first_contact_s" in done.stdout
