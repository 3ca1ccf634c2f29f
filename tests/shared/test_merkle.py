"""The hash tree: pieces, proofs, and what is refused."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccshared import merkle

quickly = settings(deadline=None, derandomize=True, max_examples=80)


def leaves(size: int) -> list[bytes]:
    return [merkle.leaf_hash(b"%d" % number) for number in range(size)]


def root_by_definition(hashes: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    left, right = root_by_definition(hashes[:split]), root_by_definition(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("size", range(34))
def test_the_root_is_that_of_the_definition(size: int) -> None:
    assert merkle.root(leaves(size)) == root_by_definition(leaves(size))


@quickly
@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_tree_grown_in_pieces_is_the_tree_grown_at_once(pieces: list[int]) -> None:
    everything = leaves(sum(pieces))
    size, compact = 0, list[bytes]()
    for piece in pieces:
        size, compact = merkle.extend(size, compact, everything[size : size + piece])
    assert (size, compact) == merkle.extend(0, [], everything)
    assert merkle.root_of(compact) == merkle.root(everything)


@quickly
@given(st.integers(1, 200), st.data())
def test_an_inclusion_proof_leads_to_the_root(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = leaves(size)
    proof = merkle.inclusion_proof(tree, index)
    assert merkle.root_from_inclusion(tree[index], index, size, proof) == merkle.root(tree)


@quickly
@given(st.integers(2, 100), st.data())
def test_a_proof_of_another_leaf_place_or_hash_leads_elsewhere(size: int, data: st.DataObject) -> None:
    index, other = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True))
    tree = leaves(size)
    proof = merkle.inclusion_proof(tree, index)
    assert merkle.root_from_inclusion(tree[other], index, size, proof) != merkle.root(tree)
    changed = data.draw(st.integers(0, len(proof) - 1))
    proof[changed] = bytes([proof[changed][0] ^ 1]) + proof[changed][1:]
    assert merkle.root_from_inclusion(tree[index], index, size, proof) != merkle.root(tree)


@quickly
@given(st.integers(1, 100), st.data())
def test_a_proof_too_long_or_too_short_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = leaves(size)
    proof = merkle.inclusion_proof(tree, index)
    with pytest.raises(ValueError, match="too long"):
        merkle.root_from_inclusion(tree[index], index, size, [*proof, tree[0]])
    if proof:
        with pytest.raises(ValueError, match="too short"):
            merkle.root_from_inclusion(tree[index], index, size, proof[:-1])


def test_hashes_of_another_length_are_refused_though_they_hash_alike() -> None:
    left, right = leaves(2)
    with pytest.raises(ValueError, match="32 bytes"):
        merkle.root_from_inclusion(left + right[:1], 0, 2, [right[1:]])


@pytest.mark.parametrize(("index", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_place_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.root_from_inclusion(leaves(1)[0], index, size, [])
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(leaves(size), index)


@pytest.mark.parametrize(("size", "roots"), [(0, 1), (1, 0), (3, 1), (4, 2), (-1, 1)])
def test_a_range_that_does_not_fit_the_size_is_refused(size: int, roots: int) -> None:
    with pytest.raises(ValueError, match="right-edge roots"):
        merkle.extend(size, leaves(roots), leaves(1))


def test_a_leaf_is_never_taken_for_a_node() -> None:
    left, right = leaves(2)
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
