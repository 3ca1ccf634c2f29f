"""The log's hash tree: RFC 6962 leaves, nodes, roots and inclusion proofs, over 32-byte hashes.

A compact range is the list of roots of the full subtrees on the right edge, largest first: all a witness must keep to
extend a tree. A tree of n leaves has one such root for every 1 bit of n.
"""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(payload: bytes) -> bytes:
    """Return SHA-256(0x00 || payload)."""
    return hashlib.sha256(b"\x00" + payload).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def extend(size: int, compact: Sequence[bytes], leaves: Iterable[bytes]) -> tuple[int, list[bytes]]:
    """Add leaves to a tree of `size` leaves known by its compact range; return the new size and range.

    ValueError when the range does not fit the size.
    """
    if size < 0 or len(compact) != size.bit_count():
        raise ValueError(f"a tree of {size} leaves has {size.bit_count()} right-edge roots, not {len(compact)}")
    roots = list(compact)
    for leaf in leaves:
        node, carry = leaf, size
        while carry & 1:
            node = node_hash(roots.pop(), node)
            carry >>= 1
        roots.append(node)
        size += 1
    return size, roots


def root_of(compact: Sequence[bytes]) -> bytes:
    """Return the tree's root from its compact range."""
    if not compact:
        return EMPTY_ROOT
    node = compact[-1]
    for left in reversed(compact[:-1]):
        node = node_hash(left, node)
    return node


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over all leaves."""
    return root_of(extend(0, [], leaves)[1])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf `index` (RFC 6962, 2.1.1), nearest sibling first."""
    _check_place(index, len(leaves))
    path: list[bytes] = []
    low, high = 0, len(leaves)
    while high - low > 1:
        split = low + (1 << (high - low - 1).bit_length() - 1)
        if index < split:
            path.append(root(leaves[split:high]))
            high = split
        else:
            path.append(root(leaves[low:split]))
            low = split
    return path[::-1]


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root that a proof leads to (RFC 9162, 2.1.3.2); ValueError when it cannot be one.

    Every hash must be 32 bytes: 31 and 33 would be hashed to the same node.
    """
    _check_place(index, size)
    if any(len(node) != 32 for node in (leaf, *proof)):
        raise ValueError("a hash that is not 32 bytes")
    node, last = leaf, size - 1
    for sibling in proof:
        if last == 0:
            raise ValueError("the proof is too long")
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("the proof is too short")
    return node


def _check_place(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
