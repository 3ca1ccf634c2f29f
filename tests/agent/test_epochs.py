"""What becomes of a log when its disk is put back, copied, or forgotten by the server; and keys that follow."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ccagent import alarms, clock, enrolment, evidence, identity, keyring, opening, queue
from ccagent.client import Client, TransientError
from ccagent.identity import DeviceKey
from ccagent.places import Places
from ccagent.store import Store
from ccagent.uploader import Uploader
from ccshared import canonical, ed25519, entries, envelope
from ccshared.batch import Stub
from ccshared.messages import ServerKey
from ccshared.vocabulary import Clock
from tests.agent.test_uploader import EPOCH, identity_of
from tests.agent.witness_app import SERVER, Witness, running

STAMP = (1_800_000_000_000, Clock.UNSYNC)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with running(Witness()) as server:
        yield server


@dataclass
class Box:
    """A machine: a state directory, and what runs on it."""

    places: Places
    store: Store
    uploader: Uploader

    async def add(self, *texts: str) -> None:
        for text in texts:
            await self.store.write(queue.append, evidence.heartbeat((clock.now_ms(), Clock.UNSYNC), text))

    @property
    def alarms(self) -> set[str]:
        return {one.name for one in self.store.read(alarms.standing, clock.now_ms())}

    @property
    def logs(self) -> list[queue.Epoch]:
        return self.store.read(queue.all_epochs)


@asynccontextmanager
async def on(directory: Path) -> AsyncIterator[Box]:
    """Run what is in a state directory."""
    places = Places(directory)
    who = identity.load_enrolment(places)
    assert who is not None
    store = opening.open_store(places, STAMP)
    async with Client(who.identity.server_url, enrolment.device(who), timeout_s=2) as client:
        yield Box(places, store, Uploader(store, client, who))
    store.close()


@pytest.fixture
async def home(witness: Witness, tmp_path: Path) -> Path:
    """An enrolled appliance's state directory, with a log that has three receipted entries."""
    device = witness.known_device()
    places = Places(tmp_path / "box")
    places.state_dir.mkdir()
    places.device_key.write_bytes(device.seed)
    known = identity_of(witness, device.seed)
    identity.save(places, known)
    async with on(places.state_dir) as box:
        key = DeviceKey(device.seed).public.hex()
        begun = queue.Epoch(EPOCH, known.origins + EPOCH, key, 1)
        await box.store.write(
            queue.open_epoch, begun, evidence.genesis(STAMP, evidence.Beginning("x", key, None, 1, "0"))
        )
        await box.add("one", "two")
        await box.uploader.drain()
    return places.state_dir


def copy(home: Path, name: str) -> Path:
    return Path(shutil.copytree(home, home.with_name(name)))


def texts(witness: Witness, epoch: str) -> list[str]:
    """Return what a log at the server says, what it carries included."""
    found = []
    for line in witness.logs[epoch].lines:
        assert not isinstance(line, Stub)
        body = canonical.read(line, entries.MAX_RECOVERED_BYTES)["body"]
        if "payload" in body:
            body = canonical.read(body["payload"].encode())["body"]
        found.append(str(body.get("version")))
    return found[1:]


async def test_an_old_disk_put_back_ends_its_log_and_goes_on_in_the_next(witness: Witness, home: Path) -> None:
    old = copy(home, "old")
    async with on(home) as box:
        await box.add("three")
        await box.uploader.drain()
    async with on(old) as box:
        await box.uploader.look()
        await box.uploader.drain()
        assert len(box.logs) == 2
        await box.add("four")
        await box.uploader.drain()
        assert box.alarms == {alarms.ROLLBACK}
        first, second = box.logs
        assert (first.carried_from, second.number) == (3, 2)
        genesis = canonical.read(bytes(box.store.read(queue.lines, second.epoch, 0, 1, 9999)[0]))  # type: ignore[arg-type]
        assert genesis["body"]["reason"] == "rollback"
        assert genesis["body"]["previous"] == witness.logs[EPOCH].receipt
    assert texts(witness, EPOCH) == ["one", "two", "three"]
    assert texts(witness, second.epoch) == ["four"]


async def test_what_an_old_disk_sealed_before_it_heard_of_the_server_is_carried_over(
    witness: Witness, home: Path
) -> None:
    old = copy(home, "old")
    async with on(home) as box:
        await box.add("three", "four")
        await box.uploader.drain()
    async with on(old) as box:
        await box.add("other three")
        await box.uploader.drain()
        assert texts(witness, box.logs[-1].epoch) == ["other three"]
        assert box.store.read(queue.status).waiting == 0
    assert texts(witness, EPOCH) == ["one", "two", "three", "four"]


async def test_two_copies_that_run_at_once_are_found_and_both_deliver(witness: Witness, home: Path) -> None:
    async with on(home) as box, on(copy(home, "clone")) as clone:
        for one in (box, clone):
            await one.uploader.look(now=True)
            await one.uploader.drain()
        for number in range(3):
            await box.add(f"box {number}")
            await box.uploader.drain()
            await clone.add(f"clone {number}")
            await clone.uploader.drain()
        await box.uploader.look(now=True)
        assert alarms.CLONE in box.alarms | clone.alarms
        assert len(clone.logs) == 2
        assert texts(witness, EPOCH) == ["one", "two", "box 0", "box 1", "box 2"]
        assert texts(witness, clone.logs[-1].epoch) == ["clone 0", "clone 1", "clone 2"]


async def test_a_copy_counts_its_logs_on_from_what_the_server_knows(witness: Witness, home: Path) -> None:
    old, older = copy(home, "old"), copy(home, "older")
    async with on(home) as box:
        await box.add("three")
        await box.uploader.drain()
    numbers = []
    for directory in (old, older):
        async with on(directory) as box:
            await box.add("another three")
            await box.uploader.drain()
            numbers.append(box.logs[-1].number)
    assert numbers == [2, 3]


async def test_two_logs_of_one_number_are_an_alarm(witness: Witness, home: Path) -> None:
    async with on(home) as box:
        witness.logs["1-0000000f"] = witness.logs[EPOCH]
        await box.uploader.look(now=True)
        assert box.alarms == {alarms.CLONE}


async def test_a_claim_without_our_signature_ends_no_log(witness: Witness, home: Path) -> None:
    async with on(home) as box:
        await box.add("three")
        witness.tricks["head"].extend(["too-far"] * 9)
        with pytest.raises(TransientError):
            await box.uploader.drain()
        assert len(box.logs) == 1
        assert box.alarms == set()


async def test_a_server_set_back_is_filled_up_again_and_says_so(witness: Witness, home: Path) -> None:
    async with on(home) as box:
        await box.add("three", "four")
        await box.uploader.drain()
        log = witness.logs[EPOCH]
        whole, receipt = list(log.lines), log.receipt
        del log.lines[2:]
        log.receipt = None
        await box.uploader.look(now=True)
        await box.uploader.drain()
        assert log.lines == whole
        assert log.receipt is not None
        assert receipt is not None
        assert log.receipt.split("\n")[:3] == receipt.split("\n")[:3]
        assert box.alarms == {alarms.SERVER_ROLLBACK}


async def test_a_server_set_back_to_before_the_log_began_is_filled_up_again(witness: Witness, home: Path) -> None:
    async with on(home) as box:
        whole = list(witness.logs.pop(EPOCH).lines)
        await box.add("three")
        await box.uploader.drain()
        assert witness.logs[EPOCH].lines[:3] == whole
        assert len(witness.logs[EPOCH].lines) == 4


async def test_a_log_that_ended_is_filled_up_too(witness: Witness, home: Path) -> None:
    old = copy(home, "old")
    async with on(home) as box:
        await box.add("three")
        await box.uploader.drain()
    async with on(old) as box:
        await box.add("four")
        await box.uploader.drain()
        witness.logs[EPOCH].lines = witness.logs[EPOCH].lines[:1]
        witness.logs[EPOCH].receipt = None
        await box.uploader.look(now=True)
        await box.uploader.drain()
        assert texts(witness, EPOCH) == ["one", "two"]


def announced(use: str, label: str, seed: bytes, by: bytes, **changes: str) -> dict[str, object]:
    said = {"server": SERVER, "use": use, "name": f"{SERVER}/server/{label}", "issued_at_ms": 1}
    said |= {"public_key": ed25519.public_key(seed).hex()} | changes
    return dict(envelope.sign(envelope.PayloadType.KEYS, said, by, "hint").to_json())


async def test_a_receipt_by_a_key_that_follows_on_ours_is_believed_and_the_key_pinned(
    witness: Witness, home: Path
) -> None:
    orders = [witness.order_seed, ed25519.new_seed(), ed25519.new_seed()]
    witness.witness_seed = ed25519.new_seed()
    witness.witness_name = f"{SERVER}/server/w3"
    witness.statements = [
        announced("order", "o2", orders[1], by=orders[0]),
        announced("order", "o3", orders[2], by=orders[1]),
        announced("witness", "w3", witness.witness_seed, by=orders[2]),
    ]
    async with on(home) as box:
        await box.add("three")
        await box.uploader.drain()
        assert box.store.read(queue.status).waiting == 0
        assert box.alarms == set()
    known = identity.load(Places(home))
    assert known is not None
    assert f"{SERVER}/server/w3" in known.witnesses


async def test_a_receipt_by_a_key_without_an_unbroken_chain_is_refused_with_one_alarm(
    witness: Witness, home: Path
) -> None:
    before = witness.witness_seed
    witness.witness_seed, stranger = ed25519.new_seed(), ed25519.new_seed()
    witness.witness_name = f"{SERVER}/server/w2"
    witness.statements = [announced("witness", "w2", witness.witness_seed, by=stranger)]
    async with on(home) as box:
        await box.add("three")
        for _ in range(2):
            with pytest.raises(TransientError, match="unknown server key"):
                await box.uploader.drain()
        assert [one.name for one in box.store.read(alarms.standing, clock.now_ms())] == [alarms.SERVER_KEY]
        assert box.store.read(queue.status).waiting == 1
        witness.witness_seed, witness.witness_name = before, f"{SERVER}/server/witness"
        witness.logs[EPOCH].receipt = witness.cosign(str(witness.checkpoints[-1]))
        await box.uploader.drain()
        assert box.alarms == set()


def pinned() -> tuple[bytes, list[ServerKey]]:
    seed = ed25519.new_seed()
    return seed, [ServerKey(use="order", name=f"{SERVER}/server/o1", public_key=ed25519.public_key(seed).hex())]


def test_only_an_order_key_announces_and_only_for_its_own_server_and_purpose() -> None:
    seed, known = pinned()
    new = ed25519.new_seed()
    witness_seed = ed25519.new_seed()
    known.append(
        ServerKey(use="witness", name=f"{SERVER}/server/w1", public_key=ed25519.public_key(witness_seed).hex())
    )
    for statement in (
        announced("witness", "w2", new, by=witness_seed),
        announced("witness", "w2", new, by=seed, server="other.example"),
        announced("witness", "w2", new, by=seed, name="other.example/server/w2"),
        announced("witness", "w1", new, by=seed),
        announced("seal", "w2", new, by=seed),
        envelope.sign(envelope.PayloadType.ORDER, {"x": 1}, seed, "").to_json(),
        {},
    ):
        assert keyring.follow(SERVER, known, [statement]) == known
    assert len(keyring.follow(SERVER, known, [announced("witness", "w2", new, by=seed)])) == 3


def test_an_order_key_that_was_rotated_away_announces_nothing() -> None:
    seed, known = pinned()
    newer = ed25519.new_seed()
    known = keyring.follow(SERVER, known, [announced("order", "o2", newer, by=seed)])
    assert [key.name for key in known] == [f"{SERVER}/server/o1", f"{SERVER}/server/o2"]
    for use in ("order", "witness"):
        assert keyring.follow(SERVER, known, [announced(use, "x3", ed25519.new_seed(), by=seed)]) == known
    assert len(keyring.follow(SERVER, known, [announced("order", "o3", ed25519.new_seed(), by=newer)])) == 3


def test_a_receipt_says_by_whom_it_is() -> None:
    assert keyring.witness_of("a\nb\n\n— x y\n— cc.example/server/w1 abc\n") == "cc.example/server/w1"
    assert keyring.witness_of("") == keyring.witness_of("nonsense") == ""
