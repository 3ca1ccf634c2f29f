"""Exports for tests of the verifier: honest sites made from a seed, packed as the server does, taken apart."""

import hashlib
import io
import random
import zipfile
from dataclasses import dataclass, field, replace
from typing import Any

from ccserver import keys, packing, verify
from ccserver.exporting import README
from ccserver.keys import ServerKeys, SigningKey
from ccserver.packing import Equivocation, LogPack, Pack, Shown
from ccserver.witness import Log
from ccshared import canonical, ed25519, entries, merkle, notes, purposes
from ccshared.envelope import PayloadType
from ccshared.vocabulary import Clock, Kind

SERVER = "cc.example"
NOW_MS = 1_790_000_000_000
OLD_MS = NOW_MS - 7 * 365 * 86_400_000
Contents = dict[str, bytes]
MINUTE = 60_000


@dataclass
class Epoch:
    """A log in the making: its payloads, and the places whose payload is not shown, with the reason."""

    appliance: str
    name: str
    seed: bytes
    payloads: list[bytes] = field(default_factory=list)
    missing: dict[int, str] = field(default_factory=dict)
    forks: list[Equivocation] = field(default_factory=list)
    receipt: str | None = None

    @property
    def origin(self) -> str:
        return f"{SERVER}/log/{self.appliance}/{self.name}"

    def leaves(self) -> list[bytes]:
        return [merkle.leaf_hash(payload) for payload in self.payloads]


@dataclass
class Site:
    """An honest site made from a seed; `wants` are the codes that a verifier must list of it."""

    rng: random.Random
    keys: ServerKeys
    epochs: list[Epoch] = field(default_factory=list)
    at: int = NOW_MS
    wants: set[str] = field(default_factory=set)
    since: int | None = None
    until: int | None = None

    def trust(self) -> verify.Trust:
        """What an auditor compared: the server's first keys, and each appliance's first device key."""
        first = {key.use: key for key in reversed(self.keys.signing)}
        pairs = {(key.name, purposes.fingerprint(key.public_key)) for key in first.values()}
        devices = {epoch.appliance: epoch.seed for epoch in reversed(self.epochs)}
        pairs |= {(box, purposes.fingerprint(ed25519.public_key(seed))) for box, seed in devices.items()}
        return verify.Trust(frozenset(), frozenset(pairs))

    def receipts(self) -> list[str]:
        """What the appliances kept: the newest receipt of each log."""
        return [epoch.receipt for epoch in self.epochs if epoch.receipt]

    def seal(self, epoch: Epoch, kind: Kind, body: dict[str, Any], step: int = MINUTE) -> None:
        self.at += step
        prev = merkle.leaf_hash(epoch.payloads[-1]).hex() if epoch.payloads else entries.GENESIS_PREV
        bundle_id, salt = self.rng.randbytes(16).hex(), self.rng.randbytes(16).hex()
        draft = entries.Draft(kind, bundle_id, self.at, Clock.SYNC, salt, body)
        if kind is Kind.RECOVERED:
            draft = replace(draft, bundle_id=canonical.read(str(body["payload"]).encode())["id"])
        epoch.payloads.append(entries.seal(draft, epoch.origin, len(epoch.payloads), prev).payload)

    def open(self, appliance: str, number: int, seed: bytes, previous: str | None) -> Epoch:
        epoch = Epoch(appliance, f"{number}-{self.rng.randbytes(4).hex()}", seed)
        key = ed25519.public_key(seed).hex()
        self.seal(epoch, Kind.GENESIS, {"public_key": key, "reason": "test", "previous": previous})
        self.epochs.append(epoch)
        return epoch

    def cosign(self, epoch: Epoch) -> None:
        root = merkle.root(epoch.leaves())
        note = notes.sign_checkpoint(notes.Checkpoint(epoch.origin, len(epoch.payloads), root), epoch.seed)
        witness = self.rng.choice([key for key in self.keys.signing if key.use == "witness"])
        epoch.receipt = self.keys.cosign(note, witness.name, self.at // 1000 + 1)


def server_keys(rng: random.Random, rotations: int) -> ServerKeys:
    """Return a server's keys, each after the first two announced by the order key of before."""
    signing = [SigningKey(use, f"{SERVER}/server/2026a", rng.randbytes(32)) for use in ("witness", "order")]
    made = ServerKeys(SERVER, bytes(32), tuple(signing))
    for number in range(rotations):
        key = SigningKey(rng.choice(["witness", "order"]), f"{SERVER}/server/2027{number}", rng.randbytes(32))
        statement = keys.announce(made, key, NOW_MS)
        made = replace(made, signing=(*made.signing, key), statements=(*made.statements, statement))
    return made


def honest(seed: int, plain: bool = False) -> Site:
    """Return a site made from a seed: appliances, epochs, rotations, stubs, gaps, carried entries, forks, a range.

    A plain one has nothing that a verifier lists: it is INTACT.
    """
    rng = random.Random(seed)
    site = Site(rng, server_keys(rng, rng.randrange(3)))
    for number in range(rng.randrange(1, 3)):
        _appliance(site, f"box-{number}", plain)
    if rng.random() < 0.3:
        ats = sorted(canonical.read(one, entries.MAX_RECOVERED_BYTES)["at"] for e in site.epochs for one in e.payloads)
        site.since, site.until = rng.choice([None, rng.choice(ats)]), ats[-1] + 1 - rng.choice([0, MINUTE])
        site.until = None if site.since is not None and site.until <= site.since else site.until
    return site


def _appliance(site: Site, appliance: str, plain: bool) -> None:
    rng, seed, old = site.rng, site.rng.randbytes(32), None
    for number in range(1, rng.randrange(2, 4)):
        epoch = site.open(appliance, number, seed, old.receipt if old else None)
        for _ in range(rng.choice([0, 1, 3, 7, 20])):
            _ordinary(site, epoch)
        if old and rng.random() < 0.3:
            _carry(site, epoch, old)
        if not plain:
            _oddity(site, epoch)
        if rng.random() < 0.4:
            seed = rotate(site, epoch)
        site.cosign(epoch)
        old = epoch


def _ordinary(site: Site, epoch: Epoch) -> None:
    body = {"check": "logging", "status": site.rng.choice(["pass", "fail"]), "reason": 'é"\n\\' * site.rng.randrange(4)}
    site.seal(epoch, site.rng.choice([Kind.CHECK_RUN, Kind.HEARTBEAT, Kind.ESCALATION]), body)


def _carry(site: Site, epoch: Epoch, old: Epoch) -> None:
    """Carry an entry of the old log, or one that it had after what the server knows of it."""
    place = site.rng.randrange(1, len(old.payloads)) if len(old.payloads) > 1 and site.rng.random() < 0.5 else None
    if place is None or canonical.read(old.payloads[place], entries.MAX_RECOVERED_BYTES)["kind"] == "recovered":
        beyond = Epoch(old.appliance, old.name, old.seed, list(old.payloads))
        _ordinary(site, beyond)
        payload, place = beyond.payloads[-1], len(old.payloads)
    else:
        payload = old.payloads[place]
    body = {"log": old.origin, "seq": place, "leaf": merkle.leaf_hash(payload).hex(), "payload": payload.decode()}
    site.seal(epoch, Kind.RECOVERED, body)


def rotate(site: Site, epoch: Epoch) -> bytes:
    seed = site.rng.randbytes(32)
    key = ed25519.public_key(seed)
    signature = ed25519.sign(seed, purposes.new_key(SERVER, epoch.appliance, key)).hex()
    site.seal(epoch, Kind.KEY_ROTATION, {"public_key": key.hex(), "signature": signature})
    return seed


def _oddity(site: Site, epoch: Epoch) -> None:
    """Let something be that a verifier lists, and that is no reason to refuse."""
    kind = site.rng.choice(["none", "gap", "withheld", "lost", "erased", "fork", "silence", "unknown_kind"])
    if kind == "gap":
        site.seal(epoch, Kind.GAP, {"count": 3, "first": 1, "last": 2, "reason": "full"})
    elif kind == "silence":
        site.seal(epoch, Kind.HEARTBEAT, {}, 30 * 60 * MINUTE)
    elif kind == "unknown_kind":
        site.seal(epoch, "weather", {})  # type: ignore[arg-type]  a kind of a later release
    elif kind == "fork":
        other = Epoch(epoch.appliance, epoch.name, epoch.seed, epoch.payloads[:1])
        _ordinary(site, other)
        note = notes.Checkpoint(other.origin, 2, merkle.root(other.leaves()))
        signed = notes.sign_checkpoint(note, other.seed)
        epoch.forks.append(Equivocation(1, other.leaves()[1], other.payloads[1], signed))
    elif kind != "none":
        _ordinary(site, epoch)
        epoch.missing[len(epoch.payloads) - 1] = kind
        _ordinary(site, epoch)
        if kind == "erased":
            seq = len(epoch.payloads) - 2
            site.seal(epoch, Kind.REDACTION, {"seq": seq, "leaf": epoch.leaves()[seq].hex(), "reason": "name"})
    site.wants |= {kind} - {"none"}


def contents(site: Site, sample: int = 3) -> Contents:
    """Return the export's members by name, without manifest and signature."""
    return {name: data for name, data in taken_apart(packed(site, sample)).items() if name not in LAST}


LAST = ("manifest.json", "signature.json")


def packed(site: Site, sample: int = 3) -> bytes:
    """Return the site's export."""
    out: list[bytes] = []
    pack = Pack(out.append)
    names = {"site": "clinic", "partner": "acme", "server": SERVER}
    pack.add("README.txt", README.format(**names).encode())
    pack.add("audit.json", canonical.write({"partner": "acme", "size": 0, "hash": "00" * 32}))
    public = [key.model_dump(mode="json") for key in site.keys.public]
    pack.add("keys.json", packing.plain({"keys": public, "statements": list(site.keys.statements)}))
    proofs = []
    for epoch in sorted(site.epochs, key=lambda one: one.origin):
        proofs += _pack_log(site, pack, epoch, sample)
    pack.add("proofs.ndjson", b"".join(proof + b"\n" for proof in proofs))
    pack.add("verify.py", b"# the verifier\n")
    about = names | {"from": site.since, "to": site.until}
    pack.finish(about, lambda value: site.keys.envelope(PayloadType.EXPORT, value))
    return b"".join(out)


def _pack_log(site: Site, pack: Pack, epoch: Epoch, sample: int) -> list[bytes]:
    size, key, leaves = len(epoch.payloads), ed25519.public_key(epoch.seed), epoch.leaves()
    log = Log(1, epoch.name, epoch.origin, key, size, leaves[-1], [], None, None, None)
    first, end = _range(site, epoch)
    packed_log = LogPack(pack, Shown(log, epoch.receipt, first, end, tuple(epoch.forks)), sample)
    for seq, payload in enumerate(epoch.payloads):
        why = epoch.missing.get(seq)
        if packed_log.line(leaves[seq], None if why else payload, why):
            packed_log.flush()
    packed_log.flush()
    return packed_log.proofs()


def _range(site: Site, epoch: Epoch) -> tuple[int, int]:
    """As the server finds it: what has no time of its own at either end is taken in."""
    read = [canonical.read(payload, entries.MAX_RECOVERED_BYTES) for payload in epoch.payloads]
    timed = {seq: one["at"] for seq, one in enumerate(read) if seq not in epoch.missing and one["kind"] != "recovered"}
    first, end = 0, len(read)
    if site.since is not None:
        inside = min((seq for seq, at in timed.items() if at >= site.since), default=end)
        first = max((seq + 1 for seq in timed if seq < inside), default=0)
    if site.until is not None:
        last = max((seq + 1 for seq, at in timed.items() if at < site.until), default=0)
        end = min((seq for seq in timed if seq >= last), default=len(read))
    return min(first, end), end


def taken_apart(data: bytes) -> Contents:
    """Return the members of an export by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def put_together(site: Site, members: Contents, listed: Contents | None = None) -> bytes:
    """Return members as an export again, signed by the server: what its owner could do.

    The manifest fits, but for members that are `listed` with another content.
    """
    out: list[bytes] = []
    pack = Pack(out.append)
    for name in sorted(members):
        pack.add(name, members[name])
    for each in pack.listed:
        each["sha256"] = hashlib.sha256((listed or members).get(each["name"], b"")).hexdigest()
    sizes = [_size(data) for name, data in members.items() if name.startswith("logs/") and name.endswith(".json")]
    pack.logs, pack.entries = len(sizes), sum(sizes)
    pack.payloads = sum(data.count(b'"salt"') for name, data in members.items() if name.endswith(".ndjson"))
    about = {"site": "clinic", "partner": "acme", "server": SERVER, "from": site.since, "to": site.until}
    pack.finish(about, lambda value: site.keys.envelope(PayloadType.EXPORT, value))
    return b"".join(out)


def _size(meta: bytes) -> int:
    """Return the size that a log's .json says, 0 when it is spoilt."""
    try:
        size = canonical.read(meta, 2**24).get("size")
    except canonical.NotCanonicalError:
        return 0
    return size if type(size) is int else 0


def verified(site: Site, data: bytes, receipts: list[str] | None = None) -> verify.Report:
    """Return what the verifier finds of an export, by the trust and receipts of the site's auditor."""
    shown = site.receipts() if receipts is None else receipts
    return verify.verify(io.BytesIO(data), site.trust(), shown, verify.Options(now_ms=NOW_MS))
