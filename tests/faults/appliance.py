"""An appliance without a network: a real store, real keys, and receipts as its server would give them."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ccagent import evidence, identity, opening, queue
from ccagent.evidence import Beginning, Stamp
from ccagent.identity import Identity
from ccagent.places import Places
from ccagent.queue import Epoch, HeldReceipt
from ccagent.store import Store, Tx
from ccshared import canonical, ed25519, entries, merkle, notes
from ccshared.batch import Stub
from ccshared.entries import Draft
from ccshared.messages import ServerKey
from ccshared.notes import Checkpoint
from ccshared.vocabulary import Clock, Kind

STAMP: Stamp = (1_800_000_000_000, Clock.SYNC)
DEVICE, WITNESS, ORDER = b"d" * 32, b"w" * 32, b"o" * 32
WITNESS_NAME = "cc.example/server/witness-1"
EPOCH = "1-0a0b0c0d"
ORIGIN = f"cc.example/log/ap-1/{EPOCH}"
PUBLIC = ed25519.public_key(DEVICE).hex()

Acknowledged = dict[tuple[str, int], str]


@dataclass(frozen=True)
class Told:
    """What a store holds: entries by (origin, seq) whether in place or carried over, and what its gaps list as gone."""

    leaves: Acknowledged
    missing: set[tuple[str, int]]
    epochs: int


def settle_in(directory: Path) -> Places:
    """Make an enrolled appliance's files."""
    places = Places(directory)
    directory.mkdir(parents=True, exist_ok=True)
    places.device_key.write_bytes(DEVICE)
    keys = [
        ServerKey(name=WITNESS_NAME, use="witness", public_key=ed25519.public_key(WITNESS).hex()),
        ServerKey(name="cc.example/server/order-1", use="order", public_key=ed25519.public_key(ORDER).hex()),
    ]
    known = Identity(
        server="cc.example",
        server_url="https://cc.example",
        site_id="clinic",
        appliance_id="ap-1",
        public_key=PUBLIC,
        keys=keys,
        enrolled_at_ms=1,
        next_epoch_number=2,
    )
    identity.save(places, known)
    return places


def open_store(places: Places) -> Store:
    return opening.open_store(places, STAMP)


def begin(store: Store) -> None:
    """Open the appliance's log."""
    genesis = evidence.genesis(STAMP, Beginning("enrolment", PUBLIC, None, 1, "0.1.0"))
    store.write_now(queue.open_epoch, Epoch(EPOCH, ORIGIN, PUBLIC, STAMP[0]), genesis)


def draft(number: int, length: int = 40, kind: Kind = Kind.HEARTBEAT) -> Draft:
    body = {"number": number, "text": secrets.token_hex(length // 2)}
    return Draft(kind, f"{number:032x}", STAMP[0] + number, Clock.SYNC, secrets.token_hex(16), body)


def receipt(store: Store, epoch: str, origin: str, size: int) -> HeldReceipt:
    """Return the receipt that the server would give over the log's first entries."""
    checkpoint = Checkpoint(origin, size, store.read(queue.root_at, epoch, size))
    at_s = STAMP[0] // 1000
    return HeldReceipt(
        size, notes.cosign(notes.sign_checkpoint(checkpoint, DEVICE), WITNESS_NAME, WITNESS, at_s), at_s, STAMP[0]
    )


def acknowledge(store: Store, size: int) -> None:
    opened = store.read(queue.current)
    assert opened is not None
    held = receipt(store, opened.epoch, opened.origin, size)
    store.write_now(queue.acknowledge, opened.epoch, held)


def told(store: Store) -> Told:
    """Read all that a store holds as its receiver would, from the first entry of each log on; broken chains raise."""
    leaves: Acknowledged = {}
    missing: set[tuple[str, int]] = set()
    epochs = store.read(queue.all_epochs)
    for epoch in epochs:
        for seq, payload, leaf in store.read(rows_of, epoch.epoch):
            leaves[epoch.origin, seq] = leaf.hex()
            if payload is not None:
                missing |= _also(payload, leaves)
        if epoch.carried_from is None:
            _verify(store, epoch)
    return Told(leaves, missing, len(epochs))


def rows_of(tx: Tx, epoch: str) -> list[tuple[int, bytes | None, bytes]]:
    kept = [
        (first + i, None, blob[32 * i : 32 * i + 32])
        for first, blob in tx.execute("SELECT first, leaves FROM kept_leaves WHERE epoch = ? ORDER BY first", (epoch,))
        for i in range(256)
    ]
    rows = tx.execute("SELECT seq, bundle_json, leaf FROM queued_evidence WHERE epoch = ? ORDER BY seq", (epoch,))
    return [*kept, *rows]


def _also(payload: bytes, leaves: Acknowledged) -> set[tuple[str, int]]:
    """Add the entry that a recovered one carries; return what a gap says is gone."""
    if b'"kind":"recovered"' in payload:
        body = canonical.read(payload, entries.MAX_RECOVERED_BYTES)["body"]
        assert merkle.leaf_hash(body["payload"].encode()).hex() == body["leaf"]
        leaves[body["log"], body["seq"]] = body["leaf"]
    if b'"kind":"gap"' in payload and b'"missing":' in payload:
        body = canonical.read(payload)["body"]
        listed = {(body["log"], seq) for first, last in body["missing"] for seq in range(first, last + 1)}
        assert len(listed) == body["count"]
        return listed
    return set()


def _verify(store: Store, epoch: Epoch) -> None:
    prev, size = entries.GENESIS_PREV, store.read(queue.size_of, epoch.epoch)
    leaves = []
    for seq, line in enumerate(_lines(store, epoch.epoch)):
        leaf = line.leaf if isinstance(line, Stub) else entries.read(line, epoch.origin, seq, prev).leaf
        prev = leaf.hex()
        leaves.append(leaf)
    assert len(leaves) == size
    assert store.read(queue.root_at, epoch.epoch, size) == merkle.root(leaves)


def _lines(store: Store, epoch: str) -> Iterator[bytes | Stub]:
    seq = 0
    while lines := store.read(queue.lines, epoch, seq, 500, 10**8):
        yield from lines
        seq += len(lines)
