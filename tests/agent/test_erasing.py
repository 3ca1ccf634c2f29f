"""A payload erased by order: its leaf and place stay, what is not receipted stays whole, a redaction entry tells."""

import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccagent import erasing, leaves, opening, order_book, queue, retention, verify
from ccagent.queue import HeldReceipt
from ccagent.store import Store
from ccshared import erasure, ids, notes, runbooks
from ccshared.batch import Stub
from ccshared.entries import Draft
from ccshared.erasure import Erasure
from ccshared.vocabulary import Clock, Kind, StubReason
from tests.agent import root_helper
from tests.agent.directing import give_order, order_of, runbook
from tests.agent.test_orders_in import EPOCH, Appliance
from tests.agent.witness_app import SERVER, Log, Witness, running

NAME = "Erika Mustermann"
AT = 1_790_000_000_000


@pytest.fixture
def server() -> Iterator[Witness]:
    with running(Witness()) as made:
        yield made


@pytest.fixture
async def appliance(tmp_path: Path, server: Witness) -> AsyncIterator[Appliance]:
    """An appliance with a log of five receipted entries, whose second is to be erased, and one that waits."""
    with root_helper.standing() as helper:
        made = Appliance(tmp_path, server, helper)
        made.begin_log(int(time.time()) - 60)
        for number in range(5):
            seal(made, {"reason": f"{NAME} in {number}"})
        receipt(made, 5)
        with contextlib.closing(made.store):
            async with made.client:
                yield made


def seal(appliance: Appliance, body: dict[str, Any], kind: Kind = Kind.HEARTBEAT) -> int:
    draft = Draft(kind, ids.new_bundle_id(), AT, Clock.SYNC, "0" * 32, body)
    return appliance.store.write_now(queue.append, draft).seq


def receipt(appliance: Appliance, size: int) -> None:
    """Let the server have the first entries, and a receipt be held for them."""
    store, server = appliance.store, appliance.server
    opened = store.read(queue.current)
    assert opened is not None
    root = store.read(queue.root_at, opened.epoch, size)
    checkpoint = notes.Checkpoint(opened.origin, size, root)
    held = server.cosign(notes.sign_checkpoint(checkpoint, appliance.device.seed))
    lines = store.read(queue.lines, opened.epoch, 0, size, 10**9)
    server.logs[opened.epoch] = Log(server.device_key, opened.origin, list(lines), held)
    store.write_now(queue.acknowledge, opened.epoch, HeldReceipt(size, held, int(time.time()), 1))


def leaf_of(appliance: Appliance, seq: int) -> str:
    return appliance.store.read(leaves.read, EPOCH, seq, seq + 1)[0].hex()


def wanted(appliance: Appliance, seq: int = 2, **changes: Any) -> Erasure:
    return replace(Erasure(EPOCH, seq, leaf_of(appliance, seq), "redaction-1"), **changes)


def ordered(appliance: Appliance, named: Erasure) -> str:
    return give_order(appliance.server, order_of(erasure.RUNBOOK, parameters=erasure.parameters(named)))


def of_kind(appliance: Appliance, kind: str) -> list[dict[str, Any]]:
    lines = appliance.store.read(queue.lines, EPOCH, 0, 1000, 10**9)
    entries = [json.loads(line) for line in lines if isinstance(line, bytes)]
    return [one["body"] for one in entries if one["kind"] == kind]


def first_row(appliance: Appliance) -> int:
    found: int = appliance.store.read(lambda tx: tx.execute("SELECT min(seq) FROM queued_evidence").fetchone()[0])
    return found


def trouble(appliance: Appliance) -> str | None:
    """Return what is wrong with the log: each row, its links, and the root under its newest receipt."""
    opened = appliance.store.read(queue.current)
    assert opened is not None
    try:
        appliance.store.read(verify.log, opened, first_row(appliance))
        appliance.store.read(verify.store)
    except leaves.DamagedLogError as error:
        return str(error)
    return None


def on_disk(appliance: Appliance, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in appliance.places.state_dir.glob("agent.db*"))


async def test_an_erased_payload_leaves_its_leaf_and_a_redaction_entry(appliance: Appliance) -> None:
    before = appliance.store.read(queue.root_at, EPOCH, 5)
    named = wanted(appliance)
    order = ordered(appliance, named)
    await appliance.attend()
    assert appliance.results(order)[-1]["status"] == "succeeded"
    (told,) = of_kind(appliance, "redaction")
    assert (told["log"], told["seq"], told["leaf"]) == (f"{SERVER}/log/appliance-1/{EPOCH}", 2, named.leaf)
    assert appliance.store.read(queue.lines, EPOCH, 2, 1, 10**6) == [Stub(bytes.fromhex(named.leaf), StubReason.ERASED)]
    assert appliance.store.read(queue.root_at, EPOCH, 5) == before
    assert not on_disk(appliance, f"{NAME} in 1")
    assert on_disk(appliance, f"{NAME} in 2")


async def test_the_log_verifies_and_opens_after_an_erasure(appliance: Appliance) -> None:
    ordered(appliance, wanted(appliance))
    await appliance.attend()
    assert trouble(appliance) is None
    appliance.store.close()
    appliance.store = opening.open_store(appliance.places, appliance.watch.stamp())
    opened = appliance.store.read(queue.current)
    assert opened is not None
    assert opened.epoch == EPOCH
    assert trouble(appliance) is None


async def refused(appliance: Appliance, named: Erasure, why: str) -> None:
    order = ordered(appliance, named)
    await appliance.attend()
    done = appliance.results(order)[-1]
    assert done["status"] == "rejected"
    assert why in done["reason"]
    assert of_kind(appliance, "redaction") == []
    assert len([line for line in appliance.store.read(queue.lines, EPOCH, 0, 5, 10**6) if isinstance(line, bytes)]) == 5


async def test_another_leaf_is_refused(appliance: Appliance) -> None:
    await refused(appliance, wanted(appliance, leaf=leaf_of(appliance, 3)), "another leaf")


async def test_a_log_or_place_that_is_not_here_is_refused(appliance: Appliance) -> None:
    await refused(appliance, wanted(appliance, log="9-0a0b0c0d"), "no log")
    await refused(appliance, Erasure(EPOCH, 99, "ab" * 32, "redaction-1"), "not here")


@pytest.mark.parametrize("kind", [Kind.KEY_ROTATION, Kind.REDACTION])
async def test_what_verifiers_need_is_never_erased(appliance: Appliance, kind: Kind) -> None:
    seq = seal(appliance, {}, kind)
    receipt(appliance, seq + 1)
    order = ordered(appliance, wanted(appliance, seq))
    await appliance.attend()
    assert "never erased" in appliance.results(order)[-1]["reason"]
    assert trouble(appliance) is None


async def test_a_genesis_is_no_parameter_of_such_an_order(appliance: Appliance) -> None:
    await refused(appliance, Erasure(EPOCH, 0, leaf_of(appliance, 0), "redaction-1"), "seq")


async def test_what_is_not_receipted_waits_and_goes_once_it_is(appliance: Appliance) -> None:
    order = ordered(appliance, wanted(appliance, 5))
    await appliance.attend()
    assert appliance.results(order) == []
    assert on_disk(appliance, f"{NAME} in 4")
    receipt(appliance, 6)
    await appliance.attend()
    assert appliance.results(order)[-1]["status"] == "succeeded"
    assert not on_disk(appliance, f"{NAME} in 4")


async def test_a_second_order_for_the_same_succeeds_and_tells_nothing_twice(appliance: Appliance) -> None:
    first, second = ordered(appliance, wanted(appliance)), ordered(appliance, wanted(appliance))
    await appliance.attend()
    await appliance.attend()
    assert [appliance.results(one)[-1]["status"] for one in (first, second)] == ["succeeded"] * 2
    assert len(of_kind(appliance, "redaction")) == 1


async def test_another_runbook_by_that_name_erases_nothing(appliance: Appliance) -> None:
    made = order_of(erasure.RUNBOOK, parameters=erasure.parameters(wanted(appliance)), digest="ab" * 32)
    order = give_order(appliance.server, made)
    await appliance.attend()
    assert "not in the catalogue" in appliance.results(order)[-1]["reason"]
    assert of_kind(appliance, "redaction") == []


async def test_an_action_of_that_name_in_a_policy_erases_nothing(appliance: Appliance) -> None:
    assert appliance.healer.in_force is not None
    book = runbook("mine", action="erase_payload", families=[], proves=None)
    policy = replace(appliance.healer.in_force.policy, runbooks=(book,))
    appliance.healer.in_force = replace(appliance.healer.in_force, policy=policy)
    order = give_order(appliance.server, order_of(book))
    await appliance.attend()
    assert appliance.results(order)[-1]["status"] == "failed"
    assert of_kind(appliance, "redaction") == []


async def test_what_breaks_in_between_undoes_all_of_it(appliance: Appliance) -> None:
    appliance.store.write_now(
        lambda tx: tx.execute(
            "CREATE TEMP TRIGGER breaks BEFORE UPDATE ON orders BEGIN SELECT RAISE(ABORT, 'here it broke'); END"
        )
    )
    order = ordered(appliance, wanted(appliance))
    with pytest.raises(sqlite3.IntegrityError):
        await appliance.attend()
    assert (appliance.store.read(order_book.known, order), of_kind(appliance, "redaction")) == (None, [])
    assert isinstance(appliance.store.read(queue.lines, EPOCH, 2, 1, 10**6)[0], bytes)
    appliance.store.write_now(lambda tx: tx.execute("DROP TRIGGER breaks"))
    await appliance.attend()
    assert appliance.results(order)[-1]["status"] == "succeeded"
    assert len(of_kind(appliance, "redaction")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE queued_evidence SET bundle_json = x'' WHERE seq = 2",
        "UPDATE queued_evidence SET bundle_json = x'00' WHERE seq = 1",
        "UPDATE queued_evidence SET bundle_json = '' WHERE seq = 1",
        "UPDATE queued_evidence SET bundle_json = x'', leaf = zeroblob(32) WHERE seq = 1",
        "UPDATE queued_evidence SET bundle_json = x'' WHERE seq = 5",
        "UPDATE erasures SET seq = 2",
    ],
)
def test_the_database_itself_lets_no_other_payload_go(appliance: Appliance, statement: str) -> None:
    note = """
        INSERT INTO erasures (epoch, seq, bundle_id, leaf, bytes, created_at, redaction, erased_at)
        SELECT epoch, seq, bundle_id, leaf, length(bundle_json), created_at, 'x', 1
        FROM queued_evidence WHERE seq IN (1, 5)
    """
    appliance.store.write_now(lambda tx: tx.execute(note))
    with pytest.raises(sqlite3.IntegrityError):
        appliance.store.write_now(lambda tx: tx.execute(statement))


def test_an_empty_row_that_nothing_explains_is_damage(appliance: Appliance) -> None:
    def empty(tx: Any) -> None:
        tx.execute("DROP TRIGGER queued_evidence_is_never_updated")
        tx.execute("UPDATE queued_evidence SET bundle_json = x'' WHERE seq = 2")

    appliance.store.write_now(empty)
    assert "not what was sealed" in str(trouble(appliance))
    with pytest.raises(leaves.DamagedLogError):
        appliance.store.read(queue.lines, EPOCH, 2, 1, 10**6)


def erase(store: Store, named: Erasure) -> list[erasing.Target]:
    targets = store.read(erasing.find, named)
    store.write_now(erasing.erase, named, targets, erasing.drafts((AT, Clock.SYNC), targets, named))
    return targets


def test_retention_takes_erased_rows_too_and_their_stubs_still_say_so(appliance: Appliance) -> None:
    for number in range(600):
        seal(appliance, {"number": number})
    receipt(appliance, 600)
    erase(appliance.store, wanted(appliance))
    assert appliance.store.write_now(retention.prune, 2**50) == 256
    assert trouble(appliance) is None
    lines = appliance.store.read(queue.lines, EPOCH, 1, 2, 10**6)
    assert [one.why for one in lines if isinstance(one, Stub)] == [StubReason.PRUNED, StubReason.ERASED]
    assert [one.seq for one in erase(appliance.store, wanted(appliance, 7))] == [7]
    assert [one.why for one in appliance.store.read(queue.lines, EPOCH, 7, 1, 1) if isinstance(one, Stub)] == ["erased"]


def test_a_log_whose_kept_leaves_end_before_an_erased_row_verifies(appliance: Appliance) -> None:
    for number in range(600):
        seal(appliance, {"number": number})
    receipt(appliance, 600)
    erase(appliance.store, wanted(appliance, 256))
    assert appliance.store.write_now(retention.prune, 2**50) == 256
    assert trouble(appliance) is None


def test_the_digest_of_the_order_is_that_of_what_is_built_in() -> None:
    assert runbooks.digest(erasure.RUNBOOK) == erasure.DIGEST
    assert runbooks.from_dict(runbooks.to_dict(erasure.RUNBOOK)) == erasure.RUNBOOK
