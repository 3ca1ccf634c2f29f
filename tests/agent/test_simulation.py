"""What a simulation is told, counts and judges."""

import asyncio
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ccagent import clock
from ccagent.client import Answer, Request
from ccagent.places import BadConfigError
from ccagent.simulation import appliance, fleet, lines, mending, scenario, tally
from ccagent.simulation.fleet import Stage
from ccagent.simulation.lines import Cut, Line
from ccagent.simulation.mending import Begun, Deeds
from ccagent.simulation.scenario import Objectives, Scenario
from ccagent.simulation.tally import Tally

SCENARIOS = Path(__file__).parents[1] / "bench" / "scenarios"
CODE = f"cc.example/{'a' * 64}/{'s' * 24}"
LEAST = 'server_url = "http://127.0.0.1:1"\nappliances = 2\nduration_s = 1\n'


class Answering:
    """A wire whose other end answers everything."""

    async def exchange(self, request: Request) -> Answer:
        import httpx

        return Answer(500 if request.method == "PUT" else 200, httpx.Headers(), b"{}")


def refused(folder: Path, text: str) -> str:
    file = folder / "scenario.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(BadConfigError) as caught:
        scenario.load(file)
    return str(caught.value)


def test_a_misspelt_name_is_said_with_the_one_that_was_meant(tmp_path: Path) -> None:
    assert "did you mean duration_s" in refused(tmp_path, LEAST + "durations = 3")
    assert "did you mean share" in refused(tmp_path, LEAST + "[[outage]]\nstart_s = 1\nend_s = 2\nshares = 0.5")
    assert "errors" in refused(tmp_path, LEAST + "[objectives]\nerror = 0")


def test_an_outage_that_ends_before_it_begins_is_refused(tmp_path: Path) -> None:
    assert "end_s is not after start_s" in refused(tmp_path, LEAST + "[[outage]]\nstart_s = 2\nend_s = 1")


def test_codes_are_found_in_the_cells_of_a_table() -> None:
    assert scenario.codes_in(["code,site", f"{CODE},clinic", "", f" {CODE}"]) == [CODE, CODE]


def test_a_flapping_line_is_cut_again_and_again() -> None:
    cut = Cut(5, 15, every_s=60)
    assert [cut.covers(now) for now in (4, 5, 14, 15, 64, 65, 74, 75)] == [False, True, True, False] * 2
    assert not Cut(5, 15, every_s=math.inf).covers(65)


def test_an_appliance_that_is_offline_is_back_when_the_duration_is_over() -> None:
    told = Scenario(server_url="http://127.0.0.1:1", appliances=1, duration_s=60, offline_share=1)
    cuts = lines.cuts_of(told, random.Random(1))
    assert [any(cut.covers(now) for cut in cuts) for now in (0, 59, 60)] == [True, True, False]


@pytest.mark.parametrize("name", ["steady", "storm", "flap", "slow", "rolling"])
def test_the_scenarios_of_the_bench_can_be_played(name: str) -> None:
    read = scenario.load(SCENARIOS / f"{name}.toml")
    assert (read.objectives.errors, read.objectives.all_receipted) == (0, True)


async def test_a_cut_line_reaches_nobody_and_the_first_request_after_it_is_the_first_contact() -> None:
    counts, now = Tally(4), 0.0
    counts.await_return(1, 10)
    line = Line(Answering(), 1, [Cut(0, 10)], counts, lambda: now, lambda: now)
    with pytest.raises(ConnectionRefusedError):
        await line.exchange(Request("GET", "/nonce"))
    assert counts.summary()["never_back"] == 1
    now = 13.5
    await line.exchange(Request("GET", "/nonce"))
    told = counts.summary()
    assert (told["cut"], told["requests"], told["median_first_contact_s"], told["never_back"]) == (1, 1, 3.5, 0)


def test_the_peak_counts_appliances_and_not_requests() -> None:
    counts = Tally(4)
    for number, now in [(1, 1.0), (1, 1.1), (2, 1.9), (3, 2.0)]:
        counts.reached(number, now)
    assert (counts.summary()["peak_share_per_s"], counts.peak_at_s) == (0.5, 1)


async def test_a_refusal_is_an_error_and_an_unknown_log_is_none() -> None:
    counts = Tally(1)
    await Line(Answering(), 1, [], counts, lambda: 0, lambda: 0).exchange(Request("PUT", "/incidents"))
    counts.answered("GET /log/1-0a0b0c0d", 404, 1)
    assert counts.summary()["errors"] == 1


def test_what_could_not_be_measured_has_not_held() -> None:
    objectives = Objectives(median_first_contact_s=180, errors=0)
    judged = tally.judge(objectives, Tally(1).summary())
    assert {one["objective"]: one["held"] for one in judged} == {"median_first_contact_s": False, "errors": True}


def test_what_the_end_cuts_short_is_no_error() -> None:
    counts = Tally(1)
    counts.failed()
    counts.is_over = True
    counts.failed()
    assert counts.summary()["errors"] == 1


def test_repairs_are_counted_in_any_24_hours_of_one_appliance() -> None:
    day = mending.DAY_MS
    begun = [Begun("repair", 1, at, None, None) for at in (0, day // 2, day - 1, day, day + 1)]
    assert mending.most_in_a_day(begun) == 4
    assert mending.most_in_a_day([replace(one, number=at) for at, one in enumerate(begun)]) == 1
    assert mending.most_in_a_day([]) == 0


def test_orders_that_run_at_the_same_moment_are_counted_and_repairs_are_not() -> None:
    deeds = Deeds()
    for number, kind in enumerate(("order", "repair", "order")):
        deeds.begin(Begun(kind, number, 0, None, None))
    deeds.end("order")
    deeds.begin(Begun("order", 3, 1, None, None))
    told = deeds.summary()
    assert (told["repairs"], told["orders"], told["most_orders_at_once"]) == (1, 3, 2)


def test_a_misspelt_name_of_healing_is_said(tmp_path: Path) -> None:
    assert "did you mean helps" in refused(tmp_path, LEAST + "[healing]\nhelp = 0.5")


async def test_all_appliances_have_one_wall_clock_and_it_is_this_machines(tmp_path: Path) -> None:
    plan = scenario.Scenario(server_url="http://127.0.0.1:1", appliances=2, duration_s=1)
    zero_ms = fleet.wall_at_zero_ms(plan, Stage(tmp_path))
    agents = []
    for number in (1, 2):
        agents.append(appliance.switch_on(plan, appliance.places_of(tmp_path, number), number, zero_ms))
        await asyncio.sleep(0.05)
    first, second = (agent.pace.now_ms() for agent in agents)
    here = clock.now_ms()
    for agent in agents:
        agent.store.close()
    assert 0 <= second - first < 10_000
    assert 0 <= here - first < 10_000
