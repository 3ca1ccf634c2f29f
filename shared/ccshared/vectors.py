"""Hold this implementation to a file of test vectors: `python -m ccshared.vectors FILE`.

A line per part; exit 0 only when all agree. A part that is not known here is an error, never skipped.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ccshared import canonical, ed25519, entries, merkle, notes

Vectors = dict[str, Any]


class DisagreementError(Exception):
    """The vectors and this implementation disagree."""


def run(vectors: Vectors) -> list[tuple[str, str | None]]:
    """Return (part, why it disagrees or None) for every part of the file."""
    results = [_judge(part, vectors) for part in vectors if part not in _GIVEN]
    missing = [part for part in _PARTS if part not in vectors]
    return results + [(part, "missing from the file") for part in missing]


def _judge(part: str, vectors: Vectors) -> tuple[str, str | None]:
    if part not in _PARTS:
        return part, "this part is not known here"
    if not vectors[part]:
        return part, "empty, so it proves nothing"
    try:
        return f"{part}: {_PARTS[part](vectors)}", None
    except DisagreementError as error:
        return part, str(error)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return part, f"could not be judged: {error!r}"


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise DisagreementError(why)


def _refused(act: Callable[[], object], why: str, *errors: type[Exception]) -> None:
    try:
        act()
    except errors:
        return
    raise DisagreementError(f"accepted, though: {why}")


def _logs(vectors: Vectors) -> str:
    for number, log in enumerate(vectors["logs"]):
        leaves = _leaves_of(log, vectors["origin"], number)
        _require(merkle.root(leaves).hex() == log["root"], f"log {number}: root")
        _check_inclusion(log, leaves, number)
        for receipt in log["receipts"]:
            _check_receipt(receipt, leaves, vectors, number)
    return f"{len(vectors['logs'])} agree"


def _leaves_of(log: dict[str, Any], origin: str, number: int) -> list[bytes]:
    prev, leaves = entries.GENESIS_PREV, []
    for seq, text in enumerate(log["payloads"]):
        payload = text.encode()
        entry = entries.read(payload, origin, seq, prev)
        _require(canonical.write(canonical.read(payload)) == payload, f"log {number}: entry {seq} re-written")
        prev = entry.leaf.hex()
        leaves.append(entry.leaf)
    _require([leaf.hex() for leaf in leaves] == log["leaves"], f"log {number}: leaves")
    return leaves


def _check_inclusion(log: dict[str, Any], leaves: list[bytes], number: int) -> None:
    index, wanted = log["inclusion"]["index"], log["inclusion"]["proof"]
    proof = merkle.inclusion_proof(leaves, index)
    _require([node.hex() for node in proof] == wanted, f"log {number}: inclusion proof made")
    root = merkle.root_from_inclusion(leaves[index], index, len(leaves), [bytes.fromhex(node) for node in wanted])
    _require(root.hex() == log["root"], f"log {number}: inclusion proof checked")


def _check_receipt(receipt: dict[str, Any], leaves: list[bytes], vectors: Vectors, number: int) -> None:
    agent, server = (
        bytes.fromhex(vectors["agent_seed_hex"]),
        bytes.fromhex(vectors["server_seed_hex"]),
    )
    size = receipt["size"]
    checkpoint = notes.Checkpoint(vectors["origin"], size, merkle.root(leaves[:size]))
    made = notes.cosign(notes.sign_checkpoint(checkpoint, agent), vectors["server"], server, vectors["cosigned_at"])
    _require(made == receipt["note"], f"log {number}: receipt of size {size} made byte for byte")
    read = notes.read_receipt(receipt["note"], *_keys(vectors))
    _require(
        read == notes.Receipt(checkpoint, vectors["cosigned_at"]),
        f"log {number}: receipt of size {size} read",
    )


def _keys(vectors: Vectors) -> tuple[bytes, dict[str, bytes]]:
    agent, server = (
        bytes.fromhex(vectors["agent_seed_hex"]),
        bytes.fromhex(vectors["server_seed_hex"]),
    )
    return ed25519.public_key(agent), {vectors["server"]: ed25519.public_key(server)}


def _agent_vkey(vectors: Vectors) -> str:
    key, _ = _keys(vectors)
    _require(
        notes.vkey(vectors["origin"], notes.LOG_ALGORITHM, key) == vectors["agent_vkey"],
        "made otherwise",
    )
    read = notes.parse_vkey(vectors["agent_vkey"], notes.LOG_ALGORITHM)
    _require(read == (vectors["origin"], key), "read otherwise")
    return "agrees"


def _server_vkey(vectors: Vectors) -> str:
    key = _keys(vectors)[1][vectors["server"]]
    made = notes.vkey(vectors["server"], notes.WITNESS_ALGORITHM, key)
    _require(made == vectors["server_vkey"], "made otherwise")
    read = notes.parse_vkey(vectors["server_vkey"], notes.WITNESS_ALGORITHM)
    _require(read == (vectors["server"], key), "read otherwise")
    return "agrees"


def _text(case: dict[str, Any]) -> bytes:
    if case.get("text") is not None:
        return str(case["text"]).encode("utf-8", "surrogatepass")
    head, a, b, tail, count = case["repeat"]
    return str(head + a * count + b * count + tail).encode()


def _payloads_accepted(vectors: Vectors) -> str:
    for case in vectors["payloads_accepted"]:
        payload = _text(case)
        try:
            _require(
                canonical.write(canonical.read(payload)) == payload,
                f"re-written otherwise: {case['why']}",
            )
        except canonical.NotCanonicalError as error:
            raise DisagreementError(f"refused ({error}), though: {case['why']}") from error
    return f"{len(vectors['payloads_accepted'])} accepted"


def _payloads_refused(vectors: Vectors) -> str:
    for case in vectors["payloads_refused"]:
        _refused(partial(canonical.read, _text(case)), case["why"], canonical.NotCanonicalError)
    return f"{len(vectors['payloads_refused'])} refused"


def _read_entry(case: dict[str, Any]) -> entries.Entry:
    return entries.read(case["payload"].encode(), case["log"], case["seq"], case["prev"])


def _entries_accepted(vectors: Vectors) -> str:
    for case in vectors["entries_accepted"]:
        try:
            _read_entry(case)
        except entries.BadEntryError as error:
            raise DisagreementError(f"refused ({error}), though: {case['why']}") from error
    return f"{len(vectors['entries_accepted'])} accepted"


def _entries_refused(vectors: Vectors) -> str:
    for case in vectors["entries_refused"]:
        _refused(partial(_read_entry, case), case["why"], entries.BadEntryError)
    return f"{len(vectors['entries_refused'])} refused"


def _notes_refused(vectors: Vectors) -> str:
    """A note is accepted when it reads and is this vector file's log: its origin is compared too."""
    key, witnesses = _keys(vectors)

    def accept(note: str) -> None:
        receipt = notes.read_receipt(note, key, witnesses)
        if receipt.checkpoint.origin != vectors["origin"]:
            raise notes.BadNoteError("another log's receipt")

    try:
        accept(vectors["notes_refused"]["good"])
    except notes.BadNoteError as error:
        raise DisagreementError(f"the good note was refused: {error}") from error
    for case in vectors["notes_refused"]["bad"]:
        _refused(partial(accept, case["note"]), case["why"], notes.BadNoteError)
    return f"{len(vectors['notes_refused']['bad'])} refused, the good one accepted"


def _keys_refused(vectors: Vectors) -> str:
    for case in vectors["keys_refused"]:
        key = bytes.fromhex(case["key"])
        _refused(partial(ed25519.check_key, key), case["why"], ed25519.BadKeyError)
    return f"{len(vectors['keys_refused'])} refused"


def _signatures(vectors: Vectors) -> str:
    for case in vectors["signatures"]:
        key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["signature"])
        try:
            ed25519.verify(key, case["message"].encode(), signature)
            valid = True
        except (ed25519.BadKeyError, ed25519.BadSignatureError):
            valid = False
        _require(valid == case["valid"], f"{'accepted' if valid else 'refused'}, though: {case['why']}")
    return f"{len(vectors['signatures'])} judged alike"


# What the parts are computed from, not a part to hold to.
_GIVEN = frozenset({"spec", "origin", "server", "agent_seed_hex", "server_seed_hex", "cosigned_at"})
_PARTS: dict[str, Callable[[Vectors], str]] = {
    "agent_vkey": _agent_vkey,
    "server_vkey": _server_vkey,
    "logs": _logs,
    "payloads_accepted": _payloads_accepted,
    "payloads_refused": _payloads_refused,
    "entries_accepted": _entries_accepted,
    "entries_refused": _entries_refused,
    "notes_refused": _notes_refused,
    "keys_refused": _keys_refused,
    "signatures": _signatures,
}


def main(arguments: list[str]) -> int:
    """Print a line per part of the file named; 0 when all agree, 1 when one does not, 2 without a readable file."""
    if len(arguments) != 1:
        print("usage: python -m ccshared.vectors FILE", file=sys.stderr)
        return 2
    try:
        vectors = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"{arguments[0]} cannot be read as vectors: {error}", file=sys.stderr)
        return 2
    if not isinstance(vectors, dict):
        print(f"{arguments[0]} is not an object of parts", file=sys.stderr)
        return 2
    results = run(vectors)
    for part, why in results:
        print(f"ok    {part}" if why is None else f"WRONG {part}: {why}")
    return 1 if any(why for _, why in results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
