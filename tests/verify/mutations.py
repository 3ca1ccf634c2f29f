"""Exports spoilt from a seed: every class of byte flipped, dropped, doubled, swapped, cut, replayed or substituted.

Half are spoilt as a file on its way could be; the other half are packed again with a fitting manifest that the server
signs, as its own owner could do. What the owner may say freely (README, the verifier, the audit head's numbers) is
spoilt there under a signed manifest that lists what it was.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from ccserver import verify
from ccshared import canonical, ed25519, merkle, notes
from tests import exports
from tests.exports import Contents, Epoch, Site

_PARTS = ".ndjson"


def rich_site() -> Site:
    """Return a plain site that has rotations, a carried entry and rotated server keys among two epochs of two boxes."""
    return next(made for made in (exports.honest(seed, plain=True) for seed in range(1000)) if _is_rich(made))


def _is_rich(site: Site) -> bool:
    text = b"".join(payload for epoch in site.epochs for payload in epoch.payloads)
    rich = b'"kind":"key_rotation"' in text and b'"kind":"recovered"' in text
    return rich and len(site.epochs) == 4 and len(site.keys.signing) == 4 and site.since is site.until is None


def accepted(site: Site, seed: int) -> str | None:
    """Spoil the site's export by a seed; return what was done when the verifier still finds it INTACT, else None."""
    rng = random.Random(seed)
    data = exports.packed(site)
    name, spoilt = _as_a_file(rng, data) if seed % 2 else _as_its_owner(rng, site, data)
    if spoilt == data:
        return None
    found = exports.verified(site, spoilt)
    unforeseen = any("the verifier broke" in each["text"] for each in found.findings)
    return f"{seed}: {name}" if found.verdict == verify.INTACT or unforeseen else None


def _as_a_file(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    name = rng.choice(list(RAW))
    return name, RAW[name](rng, data)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 1, 2, 16, 300]))


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def drop(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def double(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:]


def swap(rng: random.Random, data: bytes) -> bytes:
    one, two = sorted(rng.sample(range(len(data)), 2))
    return data[:one] + data[two : two + 1] + data[one + 1 : two] + data[one : one + 1] + data[two + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def substitute(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[end:]


RAW: dict[str, Callable[[random.Random, bytes], bytes]] = {
    each.__name__: each for each in (flip, drop, double, swap, cut, substitute)
}


def _as_its_owner(rng: random.Random, site: Site, data: bytes) -> tuple[str, bytes]:
    members = {name: text for name, text in exports.taken_apart(data).items() if name not in exports.LAST}
    name = rng.choice(list(OWNED))
    changed = OWNED[name](rng, dict(members))
    listed = members if name == beside_logs.__name__ else None
    return name, data if changed == members else exports.put_together(site, changed, listed)


def _judged(members: Contents, end: str = "") -> list[str]:
    """The members whose content the verifier judges, which nobody may change."""
    return [name for name in members if name.startswith("logs/") and name.endswith(end)]


def bytes_of(rng: random.Random, members: Contents) -> Contents:
    """Change some bytes of a log, of its .json, of the keys or of the proofs."""
    name = rng.choice([*_judged(members), *_judged(members, _PARTS), "keys.json", "proofs.ndjson"])
    spoilt = rng.choice(list(RAW.values()))(rng, members[name]) if members[name] else b""
    fewer = name == "proofs.ndjson" and set(spoilt.splitlines(keepends=True)) < set(members[name].splitlines(True))
    return members if fewer else members | {name: spoilt}  # which entries are proved one by one is the owner's choice


def lines_of(rng: random.Random, members: Contents) -> Contents:
    """Drop, double, swap, replay or replace whole lines."""
    name = rng.choice(_judged(members, _PARTS))
    lines = members[name].splitlines(keepends=True)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    foreign = members[rng.choice(_judged(members, _PARTS))].splitlines(keepends=True)
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = rng.choice(foreign)
        case _:
            lines = lines[:at]
    return members | {name: b"".join(lines)}


def hidden_line(rng: random.Random, members: Contents) -> Contents:
    """Show a leaf instead of a payload, for every reason that there is."""
    name = rng.choice(_judged(members, _PARTS))
    lines = members[name].splitlines()
    at, why = rng.randrange(len(lines)), rng.choice(["out_of_range", "pruned", "withheld", "erased", "lost", "gone"])
    lines[at] = json.dumps({"leaf": merkle.leaf_hash(lines[at]).hex(), "why": why}, separators=(",", ":")).encode()
    return members | {name: b"\n".join(lines) + b"\n"}


def changed_member(rng: random.Random, members: Contents) -> Contents:
    """Change one member of a payload, and write it canonically."""
    name = rng.choice(_judged(members, _PARTS))
    lines = members[name].splitlines()
    at = rng.randrange(len(lines))
    value = canonical.read(lines[at], 2**20)
    key = rng.choice(list(value))
    value[key] = rng.choice([value.get("at", 0) + 1, "0" * 64, "0" * 32, {}, "gap", "unsync", 0, 1, True])
    lines[at] = canonical.write(value, 2**20)
    return members | {name: b"\n".join(lines) + b"\n"}


def meta_of(rng: random.Random, members: Contents) -> Contents:
    """Change what a log's .json says."""
    name = rng.choice(_judged(members, ".json"))
    value = canonical.read(members[name], 2**24)
    other = canonical.read(members[rng.choice(_judged(members, ".json"))], 2**24)
    key = rng.choice(list(value))
    value[key] = rng.choice([other[key], None, 0, 1, value["size"] + 1, [], "x", "0" * 64])
    return members | {name: canonical.write(value, 2**24)}


def dropped_log(rng: random.Random, members: Contents) -> Contents:
    """Drop a log, or a part of one; what no later log names is held by the receipts that appliances kept."""
    name = rng.choice(_judged(members))
    stem = name.removesuffix(".json")
    return {each: text for each, text in members.items() if not each.startswith(stem)}


def moved_log(rng: random.Random, members: Contents) -> Contents:
    """Show a log's content as another's."""
    one, two = rng.choice(_judged(members)), rng.choice(_judged(members))
    return members | {one: members[two], two: members[one]}


def other_keys(rng: random.Random, members: Contents) -> Contents:
    """Name other keys, drop them, or reorder the statements."""
    value: dict[str, Any] = json.loads(members["keys.json"])
    match rng.randrange(3) if value["statements"] else 2:
        case 0:
            rng.choice(value["keys"])["public_key"] = ed25519.public_key(rng.randbytes(32)).hex()
        case 1:
            del value["statements"][rng.randrange(len(value["statements"]))]
        case _:
            rng.choice(value["keys"])["use"] = rng.choice(["witness", "order", "seal"])
    return members | {"keys.json": json.dumps(value, sort_keys=True, separators=(",", ":")).encode()}


def other_signature(rng: random.Random, members: Contents) -> Contents:
    """Cosign a log anew by a key of nobody, or sign it by another device key."""
    name = rng.choice(_judged(members, ".json"))
    value = canonical.read(members[name], 2**24)
    seed, lines = rng.randbytes(32), str(value["receipt"]).split("\n")
    checkpoint = notes.Checkpoint(value["origin"], value["size"], notes._unb64(lines[2]))
    note = notes.sign_checkpoint(checkpoint, seed) if rng.random() < 0.5 else notes.checkpoint_of(value["receipt"])
    value["receipt"] = notes.cosign(note, lines[-2].split(" ")[1], seed, exports.NOW_MS // 1000)
    return members | {name: canonical.write(value, 2**24)}


def beside_logs(rng: random.Random, members: Contents) -> Contents:
    """Change what stands beside the logs; the manifest goes on listing what was there."""
    name = rng.choice(["README.txt", "audit.json", "verify.py"])
    return members | {name: rng.choice(list(RAW.values()))(rng, members[name])}


def audit_of(rng: random.Random, members: Contents) -> Contents:
    """Show an audit head of another partner, or of no shape."""
    value = canonical.read(members["audit.json"], 2**24)
    key, other = rng.choice(
        [("partner", "other"), ("partner", None), ("size", -1), ("size", "0"), ("hash", "00"), ("hash", 0), ("x", 1)]
    )
    return members | {"audit.json": canonical.write(value | {key: other}, 2**24)}


_OF_LOGS = (bytes_of, lines_of, hidden_line, changed_member, meta_of, dropped_log, moved_log)
_OWNED = (*_OF_LOGS, other_keys, other_signature, beside_logs, audit_of)
OWNED: dict[str, Callable[[random.Random, Contents], Contents]] = {each.__name__: each for each in _OWNED}


def unnamed(site: Site, seed: int) -> str | None:
    """Flip a bit of an entry, packed and signed anew; return what was done when the verifier names another place.

    Where the flip is in `prev`, the entry before may be named: either of the two was changed.
    """
    rng = random.Random(seed)
    epoch = rng.choice(site.epochs)
    seq = rng.randrange(len(epoch.payloads))
    found = exports.verified(site, with_payload(site, epoch, seq, lambda line: _flipped(rng, line)))
    first = next((each for each in found.findings if each["sort"] == "broken"), {})
    named = first.get("log") == epoch.origin and first.get("seq") in (seq, max(seq - 1, 0))
    return None if named else f"{seed}: {epoch.origin} {seq} was changed, and this is said: {first}"


def _flipped(rng: random.Random, line: bytes) -> bytes:
    spoilt = flip(rng, line)
    return _flipped(rng, line) if b"\n" in spoilt else spoilt


def with_payload(site: Site, epoch: Epoch, seq: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return the site's export with one payload changed, packed and signed anew."""
    members = exports.contents(site)
    name = f"logs/{epoch.appliance}/{epoch.name}/{0:012d}.ndjson"
    lines = members[name].splitlines()
    lines[seq] = change(lines[seq])
    return exports.put_together(site, members | {name: b"\n".join(lines) + b"\n"})
