from collections.abc import Iterator
from pathlib import Path

import pytest

from ccagent import clock, enrolment, identity, queue
from ccagent.client import Client, TransientError
from ccagent.enrolment import AlreadyEnrolledError, EnrolmentError, Server, enroll
from ccagent.places import Places
from ccagent.store import Store
from ccshared import entries, purposes
from ccshared.vocabulary import Clock
from tests.agent.witness_app import APPLIANCE, SERVER, SITE, Log, Witness, running

STAMP = (clock.now_ms(), Clock.UNSYNC)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "state")


async def test_a_code_makes_an_appliance(witness: Witness, places: Places) -> None:
    known = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    assert identity.load(places) == known
    assert (known.server, known.site_id, known.appliance_id) == (SERVER, SITE, APPLIANCE)
    assert known.next_epoch_number == 1
    assert witness.device_key == identity.ensure_key(places).public


async def test_the_same_code_again_after_a_lost_answer_enrols_the_same_key(witness: Witness, places: Places) -> None:
    code = witness.new_code()
    witness.tricks["enroll"].append("lose-answer")
    with pytest.raises(EnrolmentError, match="run the same command again"):
        await enroll(places, Server(witness.url), code, "vm")
    key = identity.load_key(places)
    assert identity.load(places) is None
    assert (await enroll(places, Server(witness.url), code, "vm")).public_key == (key.public.hex() if key else "")


async def test_an_identity_is_replaced_only_when_asked_to(witness: Witness, places: Places) -> None:
    first = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    with pytest.raises(AlreadyEnrolledError, match="--replace"):
        await enroll(places, Server(witness.url), witness.new_code(), "vm")
    assert identity.load(places) == first
    again = await enroll(places, Server(witness.url), witness.new_code(), "vm", replace=True)
    assert again.public_key == first.public_key


@pytest.mark.parametrize(
    ("state", "says"), [("expired", "has expired"), ("f" * 64, "used by another device"), (None, "does not know")]
)
async def test_a_code_that_does_not_work_says_why_and_changes_nothing(
    witness: Witness, places: Places, state: str | None, says: str
) -> None:
    code = witness.new_code(state or "fresh")
    if state is None:
        witness.codes.clear()
    with pytest.raises(EnrolmentError, match=says):
        await enroll(places, Server(witness.url), code, "vm")
    assert identity.load(places) is None


@pytest.mark.parametrize("trick", ["other-signer", "other-purpose", "other-name"])
async def test_an_answer_that_the_named_key_did_not_sign_is_refused(
    witness: Witness, places: Places, trick: str
) -> None:
    witness.tricks["enroll"].append(trick)
    with pytest.raises(EnrolmentError, match="new code"):
        await enroll(places, Server(witness.url), witness.new_code(), "vm")
    assert identity.load(places) is None


async def test_another_server_than_the_code_is_from_is_refused(witness: Witness, places: Places) -> None:
    with running(Witness()) as stranger:
        secret = purposes.parse_code(code := witness.new_code()).secret
        stranger.codes[secret] = "fresh"
        with pytest.raises(EnrolmentError, match="did not prove to be the server"):
            await enroll(places, Server(stranger.url), code, "vm")
    assert identity.load(places) is None


@pytest.mark.parametrize("trick", ["portal", "503", "redirect", "hang-up"])
async def test_a_server_that_cannot_be_reached_costs_nothing(witness: Witness, places: Places, trick: str) -> None:
    code = witness.new_code()
    witness.tricks["enroll"].append(trick)
    with pytest.raises(EnrolmentError) as caught:
        await enroll(places, Server(witness.url), code, "vm")
    assert code not in str(caught.value)
    await enroll(places, Server(witness.url), code, "vm")


@pytest.mark.parametrize("code", ["", "hello", "cc.example/abc/def"])
async def test_what_is_no_code_is_refused_before_anybody_is_asked(places: Places, code: str) -> None:
    with pytest.raises(EnrolmentError, match="copy it whole"):
        await enroll(places, Server("http://127.0.0.1:9"), code, "vm")
    assert not places.state_dir.exists()


async def test_a_log_begins_with_a_genesis_that_names_the_key(witness: Witness, places: Places) -> None:
    known = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    store = Store.open(places)
    async with client_of(places) as client:
        log = await enrolment.ensure_epoch(store, places, client, STAMP)
        assert await enrolment.ensure_epoch(store, places, client, STAMP) == store.read(queue.current)
    (genesis,) = store.read(queue.lines, log.epoch, 0, 10, 10**6)
    body = entries.read(genesis, log.origin, 0, entries.GENESIS_PREV).body
    assert log.epoch.startswith("1-")
    assert body["public_key"] == known.public_key
    assert body["previous"] is None
    store.close()


async def test_a_reinstalled_appliance_goes_on_after_its_earlier_logs(witness: Witness, places: Places) -> None:
    newest = f"{SERVER}/log/{APPLIANCE}/3-00000003\nthe newest receipt"
    witness.logs["3-00000003"] = Log(b"", receipt=newest)
    known = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    assert (known.next_epoch_number, known.previous_receipt) == (4, newest)


@pytest.mark.parametrize("receipt", ["another log's", "x" * 300_000])
async def test_what_cannot_be_a_receipt_of_ours_never_gets_into_a_genesis(
    witness: Witness, places: Places, receipt: str
) -> None:
    witness.logs["3-00000003"] = Log(b"", receipt=receipt)
    assert (await enroll(places, Server(witness.url), witness.new_code(), "vm")).previous_receipt is None


async def test_earlier_logs_not_told_at_enrolment_are_asked_for_before_the_log_begins(
    witness: Witness, places: Places
) -> None:
    witness.logs["3-00000003"] = Log(b"")
    witness.tricks["history"].extend(["503", "503"])
    known = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    assert known.next_epoch_number is None
    store = Store.open(places)
    async with client_of(places) as client:
        with pytest.raises(TransientError):
            await enrolment.ensure_epoch(store, places, client, STAMP)
        assert (await enrolment.ensure_epoch(store, places, client, STAMP)).epoch.startswith("4-")
    store.close()


async def test_a_log_of_another_appliance_ends_and_the_next_number_begins(witness: Witness, places: Places) -> None:
    known = await enroll(places, Server(witness.url), witness.new_code(), "vm")
    store = Store.open(places)
    async with client_of(places) as client:
        first = await enrolment.ensure_epoch(store, places, client, STAMP)
        identity.save(places, known.model_copy(update={"appliance_id": "appliance-2"}))
        second = await enrolment.ensure_epoch(store, places, client, STAMP)
    assert second.number == first.number + 1
    assert second.origin.startswith(f"{SERVER}/log/appliance-2/")
    assert [log.closed_at_ms is None for log in store.read(queue.all_epochs)] == [False, True]
    store.close()


def client_of(places: Places) -> Client:
    who = identity.load_enrolment(places)
    assert who is not None
    return Client(who.identity.server_url, enrolment.device(who))
