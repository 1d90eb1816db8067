"""Merkle trees over a log: their roots, and proofs that one log is the beginning of another, or has an entry.

The tree, its hashes and both proofs are those of RFC 9162, sections 2.1.1 to 2.1.4 (and of RFC 6962 before it),
with SHA-256. Owns the arithmetic alone: proofs are made from the hashes of complete subtrees, wherever those come
from (`Nodes`), and checked with nothing but the roots. `verify_*` take any numbers and hashes, a stranger's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

Nodes = Callable[[int, int], bytes]
"""(level, index) -> the hash of the complete subtree over `1 << level` leaves, from `index << level` on."""


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class CompactRange:
    """The tree over the first `size` leaves, as far as it is needed to add more: its complete subtrees.

    `hashes` has one for each bit of `size` that is set, the largest subtree's first.
    """

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.hashes = list(hashes)
        if len(self.hashes) != size.bit_count():
            raise ValueError(f"{len(self.hashes)} hashes for {size} leaves, which have {size.bit_count()}")

    def append(self, leaf: bytes) -> list[bytes]:
        """Add the next leaf (its hash); the hashes of the subtrees that it completes, by their level from 0 on."""
        completed = [leaf]
        open_bits = self.size
        while open_bits & 1:
            leaf = node_hash(self.hashes.pop(), leaf)
            completed.append(leaf)
            open_bits >>= 1
        self.hashes.append(leaf)
        self.size += 1
        return completed

    @property
    def root(self) -> bytes:
        return _folded(self.hashes)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over all `leaves` (hashes)."""
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root


def root_at(size: int, nodes: Nodes) -> bytes:
    """The root of the tree over the first `size` leaves."""
    return _range_hash(0, size, nodes) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """That leaf `index`, from 0, is in the tree of `size`: the hashes beside its way to the root, lowest first."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of {size}")
    proof, start, end = [], 0, size
    while end - start > 1:
        middle = _middle(start, end)
        if index < middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """That the tree of `old` leaves is the beginning of that of `new`; empty when `old` is 0 or `new`."""
    if not 0 <= old <= new:
        raise ValueError(f"{old} leaves of {new}")
    if old in (0, new):
        return []
    proof, start, end = [], 0, new
    while end != old:
        middle = _middle(start, end)
        if old <= middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    if start:  # else it is the old root, which the verifier has
        proof.append(_range_hash(start, end, nodes))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that the tree of `size` leaves with `root` has `leaf` (a hash) at `index`."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for beside in proof:
        if not last:
            return False
        if at & 1 or at == last:
            found = node_hash(beside, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        at, last = at >> 1, last >> 1
    return not last and found == root


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree with `new_root` begins with the `old` leaves of that with `old_root`."""
    if not 0 <= old <= new or (old in (0, new) and proof):
        return False
    if old == new:
        return old_root == new_root
    if old == 0:
        return old_root == EMPTY_ROOT
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found_new = path[0]
    for beside in path[1:]:
        if not last:
            return False
        if at & 1 or at == last:
            found_old, found_new = node_hash(beside, found_old), node_hash(beside, found_new)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found_new = node_hash(found_new, beside)
        at, last = at >> 1, last >> 1
    return not last and (found_old, found_new) == (old_root, new_root)


def _range_hash(start: int, end: int, nodes: Nodes) -> bytes:
    """Of the leaves from `start` to before `end`, where the tree has one node over just these."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(nodes(level, start >> level))
        start += 1 << level
    return _folded(parts)


def _folded(subtrees: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees that stand beside each other, the largest first."""
    if not subtrees:
        return EMPTY_ROOT
    return reduce(lambda right, left: node_hash(left, right), reversed(subtrees))


def _middle(start: int, end: int) -> int:
    """Where the node over two or more leaves is split: behind the largest power of two below their number."""
    return start + (1 << (end - start - 1).bit_length() - 1)
