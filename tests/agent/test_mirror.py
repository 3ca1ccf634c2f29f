from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ccagent import finding, incidents
from ccagent.client import Client, TransientError
from ccagent.finding import Drift
from ccagent.incidents import Resolution, Sighting
from ccagent.mirror import Refused, confirmed, mirror
from ccagent.places import Places
from ccagent.scrubbing import scrub
from ccagent.store import Store
from ccshared import ids
from ccshared.messages import IncidentKept, IncidentsKept
from ccshared.vocabulary import Level, Outcome, Severity
from tests.agent.witness_app import Witness, running


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


@pytest.fixture
async def client(witness: Witness) -> AsyncIterator[Client]:
    async with Client(witness.url, witness.known_device(), timeout_s=2) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(Places(tmp_path))
    yield store
    store.close()


async def see(store: Store, number: int, facts: str = "") -> str:
    failed = finding.failed("backup", f"host-{number}", "old", {"more": facts}, Drift(Severity.HIGH, "backup_stale"))
    sighting = Sighting(scrub(b"k" * 32, failed), 1_000 + number, ids.new_id())
    await store.write(incidents.see, sighting)
    return sighting.new_id


async def test_every_incident_is_shown_and_then_nothing_is_sent_any_more(
    store: Store, client: Client, witness: Witness
) -> None:
    for number in range(205):
        await see(store, number)
    assert await mirror(store, client) == 205
    assert await mirror(store, client) == 0
    assert len(witness.incidents) == 205
    assert witness.calls.count("incidents") == 2


async def test_a_change_is_shown_again(store: Store, client: Client, witness: Witness) -> None:
    incident = await see(store, 1)
    await mirror(store, client)
    await see(store, 1)
    assert await mirror(store, client) == 1
    assert witness.incidents[incident]["occurrences"] == 2


async def test_a_lost_answer_sends_again_what_changes_nothing(store: Store, client: Client, witness: Witness) -> None:
    await see(store, 1)
    witness.tricks["incidents"].append("lose-answer")
    with pytest.raises(TransientError):
        await mirror(store, client)
    assert await mirror(store, client) == 1
    assert len(witness.incidents) == 1


async def test_totals_follow_when_an_incident_is_settled(store: Store, client: Client, witness: Witness) -> None:
    incident = await see(store, 1)
    await store.write(incidents.settle, incident, Resolution(Level.L3, "done", Outcome.SUCCESS), 9_000)
    assert await mirror(store, client) == 2
    assert witness.patterns[0]["patterns"][0]["success_count"] == 1


async def test_long_facts_go_in_shorter_bodies(store: Store, client: Client, witness: Witness) -> None:
    for number in range(60):
        await see(store, number, "x" * 15_000)
    assert await mirror(store, client) == 60
    assert witness.calls.count("incidents") >= 2


async def test_a_server_that_does_not_confirm_what_was_sent_is_not_believed(store: Store) -> None:
    incident = await see(store, 1)
    reports = store.read(incidents.changed_since)
    with pytest.raises(TransientError):
        confirmed(reports, IncidentsKept(incidents=[]))
    with pytest.raises(TransientError):
        confirmed(reports, IncidentsKept(incidents=[IncidentKept(id=incident, epoch=0, revision=0)]))


async def test_one_incident_that_is_refused_does_not_hold_up_the_others(
    store: Store, client: Client, witness: Witness
) -> None:
    ids_ = [await see(store, number) for number in range(9)]
    witness.refuses = ids_[4]
    refused = Refused()
    assert await mirror(store, client, refused) == 8
    assert set(witness.incidents) == {*ids_} - {ids_[4]}
    calls = witness.calls.count("incidents")
    assert await mirror(store, client, refused) == 0
    assert witness.calls.count("incidents") == calls


async def test_a_refused_incident_is_sent_again_after_an_hour(store: Store, client: Client, witness: Witness) -> None:
    now = [0.0]
    refused = Refused(boottime=lambda: now[0])
    witness.refuses = await see(store, 1)
    assert await mirror(store, client, refused) == 0
    witness.refuses = ""
    assert await mirror(store, client, refused) == 0
    now[0] = 3601.0
    assert await mirror(store, client, refused) == 1


async def test_more_refused_incidents_than_go_at_once_do_not_hide_the_rest(
    store: Store, client: Client, witness: Witness
) -> None:
    refused = Refused()
    for number in range(203):
        refused.until[await see(store, number)] = float("inf")
    await see(store, 900)
    assert await mirror(store, client, refused) == 1
