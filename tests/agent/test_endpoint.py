"""The planner's endpoint: somebody else's program on a real socket, asked last, told scrubbed data only."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ccagent import errands, finding, incidents, scrubbing
from ccagent.config import PlannerSettings
from ccagent.finding import Drift
from ccagent.incidents import Incident, Sighting
from ccagent.places import Places
from ccagent.resolvers import Proposal, level2
from ccagent.resolvers.level2 import NonsenseError
from ccagent.store import Store
from ccshared.vocabulary import Severity
from tests.agent.directing import policy_of
from tests.shared import test_phi


@dataclass
class Endpoint:
    """What it answers, and what it was told."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    silent: bool = False
    asked: list[bytes] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made, over = Endpoint(), threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            made.keys.append(self.headers["Authorization"])
            if made.silent:
                over.wait(10)
                return
            self.send_response(made.status)
            self.send_header("Content-Length", str(len(made.answer)))
            self.end_headers()
            self.wfile.write(made.answer)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    made.url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def completion(plan: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": json.dumps(plan)}}]}).encode()


def incident(folder: Path, reason: str) -> Incident:
    """Return the incident of a finding as the agent keeps it: scrubbed when it was found."""
    found = finding.failed("backup", "box", reason, {"said": reason}, Drift(Severity.HIGH, "backup_stale"))
    scrubbed = scrubbing.scrub(scrubbing.load_key(folder / "scrub.key"), found)
    store = Store.open(Places(folder / "state"))
    store.write_now(incidents.see, Sighting(scrubbed, 1, "i-1"))
    (kept,) = store.read(incidents.open_rows)
    store.close()
    return kept


async def ask(endpoint: Endpoint, folder: Path, reason: str = "30 h old", **more: Any) -> Proposal | None:
    settings = PlannerSettings(url=endpoint.url, model="m", **more)
    return await level2.propose(errands.planners(settings), incident(folder, reason), policy_of(), (), ())


async def test_without_a_url_nobody_is_asked() -> None:
    assert errands.planners(PlannerSettings()).endpoint is None


async def test_its_plan_is_a_proposal(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "planner.key").write_text("s3cret\n")
    endpoint.answer = completion({"runbook": "run-backup", "parameters": {}, "why": "it is old"})
    found = await ask(endpoint, tmp_path, key_file=tmp_path / "planner.key")
    assert found is not None
    assert (found.runbook, found.why) == ("run-backup", "the planner's endpoint: it is old")
    assert endpoint.keys == ["Bearer s3cret"]


@pytest.mark.parametrize(
    ("status", "answer"), [(500, b"{}"), (302, b""), (200, b"<html>"), (200, b" " * (2 * 1024 * 1024)), (200, b"[]")]
)
async def test_what_is_no_plan_is_nonsense(endpoint: Endpoint, tmp_path: Path, status: int, answer: bytes) -> None:
    endpoint.status, endpoint.answer = status, answer
    with pytest.raises(NonsenseError):
        await ask(endpoint, tmp_path)


async def test_one_that_never_answers_is_not_waited_for(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.silent = True
    with pytest.raises(NonsenseError):
        await ask(endpoint, tmp_path, timeout_s=1)


async def test_one_that_is_not_there_is_no_help(tmp_path: Path) -> None:
    with pytest.raises(NonsenseError):
        await ask(Endpoint("http://127.0.0.1:9/v1"), tmp_path)


LABELLED = test_phi.test_what_a_label_or_a_telling_form_announces_goes.pytestmark[0].args[1]  # type: ignore[attr-defined]


async def test_it_is_told_scrubbed_data_only(endpoint: Endpoint, tmp_path: Path) -> None:
    """Each labelled form that the scrubber knows, as a check could find it, in the reason and in the facts."""
    endpoint.answer = completion({"runbook": None})
    for number, (text, scrubbed) in enumerate(LABELLED):
        folder = tmp_path / str(number)
        folder.mkdir()
        await ask(endpoint, folder, text)
        said = json.loads(endpoint.asked[-1])["messages"][1]["content"]
        fact = json.loads(said)["incident"]["facts"]["said"]
        assert test_phi.TOKEN.sub(r"[\1]", fact) == scrubbed
        lost = "".join(filter(str.isdigit, text))
        assert scrubbed == text or lost not in "".join(filter(str.isdigit, said)) or len(lost) < 6
    assert len(endpoint.asked) == len(LABELLED) > 30
