"""The verifier's Ed25519, tree and notes against other implementations; where a library differs is listed."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ccserver import verify
from ccshared import canonical, merkle, notes

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "shared" / "evidence_log_v1.json").read_text(encoding="utf-8")
)
# RFC 8032, 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
# What a library accepts, or refuses, otherwise than the verifier; by the vector's name.
DIFFERS: dict[str, set[str]] = {
    "cryptography": {"small-order R", "small-order key", "non-canonical key"},  # accepts what is refused here
    "pynacl": set(),
}

OTHERS_SAID: dict[str, Any] = json.loads((Path(__file__).parent / "others.json").read_text(encoding="utf-8"))
# Notes that metamorphic-log accepts and the verifier refuses, with the reason; the other way round there is none.
NOTES_DIFFER = {
    # it asks for one signature that it knows, as C2SP's signed-note does; a receipt has two, in their order
    *("no witness", "log line twice", "foreign third line", "lines swapped", "wrong key id, witness line"),
    *("other name on the witness line", "cosignature of another note", "cosignature time changed", "time 2^53"),
    *("witness key id made with algorithm 1", "witness signs the bare checkpoint"),
    # it holds the origin to no form, and the name that signed to no origin
    "other origin, signed by both",
    # its sizes are of 64 bits
    "size 2^53, signed by both",
}


def by_cryptography(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def by_pynacl(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        nacl.signing.VerifyKey(key).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError):
        return False
    return True


OTHERS = {"cryptography": by_cryptography, "pynacl": by_pynacl}


@pytest.mark.parametrize(("seed", "key", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_hold(seed: str, key: str, message: str, signature: str) -> None:
    given = [bytes.fromhex(each) for each in (key, message, signature)]
    assert verify.ed25519_verify(*given)
    assert Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).sign(given[1]) == given[2]


@pytest.mark.parametrize("name", OTHERS)
def test_a_library_agrees_but_for_what_is_listed(name: str) -> None:
    differs = set()
    for case in VECTORS["signatures"]:
        given = (bytes.fromhex(case["key"]), case["message"].encode(), bytes.fromhex(case["signature"]))
        assert verify.ed25519_verify(*given) == case["valid"], case["why"]
        if OTHERS[name](*given) != case["valid"]:
            differs.add(case["why"])
    assert differs == DIFFERS[name]


@pytest.mark.parametrize("name", OTHERS)
def test_a_library_agrees_on_signatures_and_on_spoilt_ones(name: str) -> None:
    rng = random.Random(8032)
    for number in range(60):
        seed, message = rng.randbytes(32), rng.randbytes(number)
        signer = Ed25519PrivateKey.from_private_bytes(seed)
        key, signature = signer.public_key().public_bytes_raw(), bytearray(signer.sign(message))
        if number % 3:
            signature[rng.randrange(64)] ^= 1 << rng.randrange(8)
        given = (key, message, bytes(signature))
        assert verify.ed25519_verify(*given) == OTHERS[name](*given) == (number % 3 == 0)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 257, 700, 1024])
def test_the_tree_is_that_of_the_writer(size: int) -> None:
    leaves = [hashlib.sha256(bytes([number & 255, number >> 8])).digest() for number in range(size)]
    tree = verify.Tree()
    for start in range(0, size, 300):
        tree.extend(leaves[start : start + 300])
    assert tree.root() == merkle.root(leaves)
    for index in {0, size // 2, size - 1} if size else ():
        proof = merkle.inclusion_proof(leaves, index)
        assert verify.root_from_inclusion(leaves[index], index, size, proof) == tree.root()
        assert verify.root_from_inclusion(leaves[index], index, size, proof[:-1]) != tree.root() or size == 1


def test_notes_are_refused_as_the_writer_refuses_them() -> None:
    key = notes.parse_vkey(VECTORS["agent_vkey"], 1)[1]
    name, witness = notes.parse_vkey(VECTORS["server_vkey"], 4)
    refused = VECTORS["notes_refused"]
    assert _is_note(refused["good"], key, witness, name)
    for case in refused["bad"]:
        assert _reads(case["note"], key, {name: witness}) == _is_note(case["note"], key, witness, name), case["why"]


def test_an_independent_library_reads_the_notes_that_the_verifier_reads() -> None:
    key, said = notes.parse_vkey(VECTORS["agent_vkey"], 1)[1], OTHERS_SAID["notes"]
    name, witness = notes.parse_vkey(VECTORS["server_vkey"], 4)
    refused = VECTORS["notes_refused"]
    cases = {"good": refused["good"]} | {case["why"]: case["note"] for case in refused["bad"]}
    assert said.keys() == cases.keys()
    ours = {why for why, note in cases.items() if _is_note(note, key, witness, name)}
    theirs = {why for why, head in said.items() if head is not None}
    assert (theirs - ours, ours - theirs) == (NOTES_DIFFER, set())
    read = verify.read_note(refused["good"], key, 2)
    assert said["good"] == {"origin": read.origin, "size": read.size, "root": read.root.hex()}


@pytest.mark.parametrize("said", OTHERS_SAID["trees"], ids=lambda said: str(said["size"]))
def test_independent_libraries_have_the_same_roots_and_inclusion_proofs(said: dict[str, Any]) -> None:
    leaves, tree = [verify.leaf_hash(str(number).encode()) for number in range(said["size"])], verify.Tree()
    tree.extend(leaves)
    assert tree.root().hex() == said["root"]
    for index, hashes in said["proofs"].items():
        proof = [bytes.fromhex(each) for each in hashes]
        assert proof == merkle.inclusion_proof(leaves, int(index))
        assert verify.root_from_inclusion(leaves[int(index)], int(index), said["size"], proof) == tree.root()


def _reads(text: str, key: bytes, witnesses: dict[str, bytes]) -> bool:
    try:
        notes.read_receipt(text, key, witnesses)
    except notes.BadNoteError:
        return False
    return True


def _is_note(text: str, key: bytes, witness: bytes, name: str) -> bool:
    try:
        note = verify.read_note(text, key, 2)
    except (verify.BrokenError, UnicodeEncodeError):
        return False
    return note.witness == name and verify.is_cosigned(note, witness)


def test_random_json_is_judged_as_the_writer_judges_it() -> None:
    rng = random.Random(7)
    good = b'{"a":[1,-5,true,null,"\\u0001\\n\\"\xc3\xa9/"],"b_2":{"c":{}},"n":9007199254740991}'
    assert verify.read_canonical(good) == canonical.read(good)
    for _ in range(20_000):
        at = rng.randrange(len(good))
        piece = rng.choice(
            [b"", b" ", b"0", b"-", b".0", b"e1", b'"', b"\\u0041", b"{", b"]", bytes([rng.randrange(256)])]
        )
        data = good[:at] + piece + good[at + rng.randrange(2) :]
        assert _canonical(data) == _canonical_here(data), data


def _canonical(data: bytes) -> bool:
    try:
        canonical.read(data)
    except canonical.NotCanonicalError:
        return False
    return True


def _canonical_here(data: bytes) -> bool:
    try:
        verify.read_canonical(data)
    except verify.BrokenError:
        return False
    return True
