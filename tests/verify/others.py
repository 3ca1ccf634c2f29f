"""Make others.json: what metamorphic-log (Rust) and pymerkle (Python), both independent of us, say of notes and trees.

    pip install metamorphic-log==0.1.11 pymerkle==7.0.0      # in an environment of its own
    python tests/verify/others.py

The tests read others.json, so neither is installed for them.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import metamorphic_log  # type: ignore[import-not-found]
import pymerkle  # type: ignore[import-not-found]

HERE = Path(__file__).parent
SIZES = (1, 2, 3, 5, 8, 13, 64, 255, 256, 257)


def note_of(text: str, vkey: str) -> dict[str, Any] | None:
    """Return the head that a checkpoint's own key leads to; None when the note is refused."""
    try:
        head = metamorphic_log.checkpoint_verify(text, [vkey])
    except metamorphic_log.VerifyError:
        return None
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def tree_of(size: int) -> dict[str, Any]:
    """Return root and inclusion proofs (first, middle, last) over the leaves of the texts "0", "1", …"""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for number in range(size):
        tree.append_entry(str(number).encode())
    root, proofs = tree.get_root(size), {}
    for index in sorted({0, size // 2, size - 1}):
        path = tree.prove_inclusion(index + 1, size).path
        leaf = tree.get_leaf(index + 1)
        metamorphic_log.verify_inclusion(index, size, leaf, path[1:], root)
        proofs[str(index)] = [node.hex() for node in path[1:]]
    return {"size": size, "root": root.hex(), "proofs": proofs}


def main() -> None:
    """Ask both, and write what they said."""
    vectors = json.loads((HERE.parent / "shared" / "evidence_log_v1.json").read_text(encoding="utf-8"))
    refused = vectors["notes_refused"]
    cases = [{"why": "good", "note": refused["good"]}, *refused["bad"]]
    said = {case["why"]: note_of(case["note"], vectors["agent_vkey"]) for case in cases}
    found = {
        "versions": {name: version(name) for name in ("metamorphic-log", "pymerkle")},
        "notes": said,
        "trees": [tree_of(size) for size in SIZES],
    }
    (HERE / "others.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
