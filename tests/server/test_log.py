"""Appending to an evidence log over HTTP: receipts for what is committed, and for nothing else."""

import asyncpg
import httpx
import pytest

from ccshared import batch, entries, merkle
from ccshared.vocabulary import Clock, Kind, StubReason
from tests.devices import Device, Running


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("urn:central-command:problem:")


async def test_a_batch_gets_a_receipt_over_the_devices_own_root(device: Device) -> None:
    for _ in range(3):
        device.seal()
    answer = await device.send(device.batch(0))
    assert answer.status_code == 200
    assert device.receipt(answer).checkpoint.size == 3


async def test_the_same_batch_again_gets_the_same_receipt(device: Device) -> None:
    device.seal()
    first, again = await device.send(device.batch(0)), await device.send(device.batch(0))
    assert first.json() == again.json()


async def test_the_head_gives_the_receipt_whose_answer_was_lost(device: Device) -> None:
    device.seal()
    sent = await device.send(device.batch(0))
    head = await device.call("GET", f"log/{device.epoch}")
    assert head.json() == sent.json()
    assert (await device.call("GET", "log")).json()["epochs"] == [sent.json()]


async def test_an_unknown_epoch_is_a_problem_that_says_so(device: Device) -> None:
    assert code_of(await device.call("GET", "log/7-00000000")) == (404, "log-unknown")
    assert code_of(await device.call("GET", "log/07-00000000")) == (404, "not-found")


async def test_lines_below_the_stored_size_are_dropped(device: Device) -> None:
    device.seal()
    await device.send(device.batch(0))
    device.seal()
    device.seal()
    assert device.receipt(await device.send(device.batch(0))).checkpoint.size == 3


async def test_a_smaller_batch_gets_the_receipt_of_what_is_stored(device: Device) -> None:
    for _ in range(4):
        device.seal()
    whole = await device.send(device.batch(0))
    assert (await device.send(device.batch(1, 3))).json() == whole.json()


async def test_a_gap_says_which_entry_is_expected(device: Device) -> None:
    for _ in range(3):
        device.seal()
    await device.send(device.batch(0, 1))
    answer = await device.send(device.batch(2))
    assert code_of(answer) == (409, "log-gap")
    assert answer.json()["expected_seq"] == 1


async def test_a_fork_is_refused_named_and_kept(device: Device) -> None:
    device.seal()
    device.seal()
    await device.send(device.batch(0))
    before = (await device.call("GET", f"log/{device.epoch}")).json()
    device.payloads.pop()
    device.seal()
    answer = await device.send(device.batch(0))
    assert code_of(answer) == (409, "log-fork")
    assert answer.json()["seq"] == 1
    assert (await device.call("GET", f"log/{device.epoch}")).json() == before
    assert await count(device.server, "equivocations") == 1


async def test_forks_without_end_do_not_fill_the_database(device: Device) -> None:
    device.seal()
    device.seal()
    await device.send(device.batch(0))
    for _ in range(20):
        device.payloads.pop()
        device.seal()
        assert code_of(await device.send(device.batch(1))) == (409, "log-fork")
    assert await count(device.server, "equivocations") == 16


async def count(server: Running, table: str) -> int:
    async with server.db.platform() as scope:
        return int(await scope.conn.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608  a test's own words


async def test_a_log_that_begins_with_a_stub_or_without_genesis_is_refused(device: Device) -> None:
    device.seal()
    sent = device.batch(0)
    stub = batch.Stub(merkle.leaf_hash(device.payloads[0]), StubReason.LOST)
    answer = await device.send(batch.Batch(sent.checkpoint, 0, None, [stub]))
    assert code_of(answer) == (422, "entry-invalid")
    assert code_of(await device.call("GET", f"log/{device.epoch}")) == (404, "log-unknown")


async def test_a_genesis_that_names_another_key_is_refused(device: Device, server: Running) -> None:
    other = await Device.enrolled(server, "acme", "acme-clinic")
    device.payloads.append(
        entries.seal(
            entries.Draft(Kind.GENESIS, "0" * 32, 1, Clock.SYNC, "0" * 32, {"public_key": other.public_key.hex()}),
            device.origin,
            0,
            entries.GENESIS_PREV,
        ).payload
    )
    assert code_of(await device.send(device.batch(0))) == (422, "entry-invalid")


async def test_a_stub_keeps_its_leaf_and_the_chain_goes_on(device: Device) -> None:
    for _ in range(3):
        device.seal()
    sent = device.batch(0)
    lines = [device.payloads[0], batch.Stub(device.leaves()[1], StubReason.WITHHELD), device.payloads[2]]
    answer = await device.send(batch.Batch(sent.checkpoint, 0, None, lines))
    assert device.receipt(answer).checkpoint.size == 3


async def test_another_devices_token_cannot_write_this_log(device: Device, server: Running) -> None:
    other = await Device.enrolled(server, "acme", "acme-clinic")
    device.seal()
    await device.send(device.batch(0))
    device.seal()
    device.token = other.token
    assert code_of(await device.send(device.batch(0))) == (422, "checkpoint-invalid")


@pytest.mark.parametrize("change", ["root", "size", "signature"])
async def test_a_checkpoint_that_does_not_cover_the_entries_stores_nothing(device: Device, change: str) -> None:
    for _ in range(3):
        device.seal()
    note = device.checkpoint(2 if change == "size" else 3)
    if change == "root":
        device.payloads[2] = device.payloads[2].replace(b'"clock":"sync"', b'"clock":"unsync"')
    if change == "signature":
        note = note[:-8] + ("AAAA" if note[-8:-4] != "AAAA" else "BBBB") + note[-4:]
    answer = await device.send(batch.Batch(note, 0, None, device.payloads))
    assert answer.status_code in (409, 422)
    assert code_of(await device.call("GET", f"log/{device.epoch}")) == (404, "log-unknown")


async def test_an_unknown_kind_is_stored_and_flagged(device: Device) -> None:
    device.seal()
    payload = device.seal()
    device.payloads[1] = payload.replace(b'"kind":"check_run"', b'"kind":"from_the_future"')
    assert device.receipt(await device.send(device.batch(0))).checkpoint.size == 2
    async with device.server.db.platform() as scope:
        flag = await scope.conn.fetchval("SELECT flag FROM evidence_bundles WHERE seq = 1")
    assert flag == "unknown kind"


async def test_a_restored_database_cosigns_nothing_below_what_the_device_holds(device: Device) -> None:
    for _ in range(4):
        device.seal()
    held = (await device.send(device.batch(0))).json()["receipt"]
    await forget(device, 2)
    answer = await device.send(device.batch(2, 3, held))
    assert (answer.status_code, answer.json()["receipt"], answer.json()["size"]) == (202, None, 3)
    assert (await device.call("GET", f"log/{device.epoch}")).json()["receipt"] is None
    device.seal()
    assert device.receipt(await device.send(device.batch(3, 5, held))).checkpoint.size == 5


async def test_a_log_whose_beginning_is_pruned_is_filled_up_again_by_its_own_receipt(device: Device) -> None:
    for _ in range(4):
        device.seal()
    held = (await device.send(device.batch(0))).json()["receipt"]
    admin = await asyncpg.connect(device.server.urls.admin)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("DELETE FROM evidence_bundles")
    await admin.execute("DELETE FROM evidence_logs")
    await admin.close()
    whole = device.batch(0)
    pruned = [batch.Stub(leaf, StubReason.PRUNED) for leaf in device.leaves(2)]
    lines = [*pruned, *device.payloads[2:]]
    assert code_of(await device.send(batch.Batch(whole.checkpoint, 0, None, lines))) == (422, "entry-invalid")
    lost = [batch.Stub(device.leaves()[0], StubReason.LOST), *lines[1:]]
    assert code_of(await device.send(batch.Batch(whole.checkpoint, 0, held, lost))) == (422, "entry-invalid")
    answer = await device.send(batch.Batch(whole.checkpoint, 0, held, lines))
    assert device.receipt(answer).checkpoint.size == 4


async def test_a_restored_database_refuses_another_history_than_the_held_one(device: Device) -> None:
    for _ in range(4):
        device.seal()
    held = (await device.send(device.batch(0))).json()["receipt"]
    await forget(device, 2)
    del device.payloads[2:]
    for _ in range(3):
        device.seal()
    assert code_of(await device.send(device.batch(2, 5, held))) == (409, "held-conflict")


async def forget(device: Device, size: int) -> None:
    """Make the database what it was at an earlier size, as a restored backup is."""
    admin = await asyncpg.connect(device.server.urls.admin)
    await admin.execute("SET session_replication_role = replica")  # a restore runs no triggers
    await admin.execute("DELETE FROM evidence_bundles WHERE seq >= $1", size)
    _, compact = merkle.extend(0, [], device.leaves(size))
    await admin.execute(
        "UPDATE evidence_logs SET size = $1, compact_range = $2, last_leaf = $3, checkpoint = $4",
        size,
        b"".join(compact),
        device.leaves(size)[-1],
        device.checkpoint(size),
    )
    await admin.close()


async def test_a_body_that_is_no_batch_is_refused(device: Device) -> None:
    for body in (b"", b"{}\n", b"null\n", b'{"checkpoint":"","count":0,"first":0}\n', b"\xff\xfe\n"):
        answer = await device.call("POST", f"log/{device.epoch}/entries", content=body)
        assert code_of(answer) == (422, "body-invalid"), body


async def test_evidence_is_never_changed_or_deleted_by_the_servers_role(device: Device) -> None:
    device.seal()
    await device.send(device.batch(0))
    for statement in (
        "DELETE FROM evidence_bundles",
        "UPDATE evidence_bundles SET payload = '\\x00'",
        "UPDATE evidence_logs SET size = 0",
        "DELETE FROM evidence_logs",
    ):
        with pytest.raises(Exception, match=r"evidence is never|never changed|only grows|permission denied"):
            async with device.server.db.platform() as scope:
                await scope.conn.execute(statement)
    assert await count(device.server, "evidence_bundles") == 1
