"""Merkle trees: the roots that others compute, and proofs that hold for what is so and for nothing else."""

from __future__ import annotations

from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves, roots and proofs that the tests of Certificate Transparency's first implementations share.
LEAVES = [
    leaf_hash(bytes.fromhex(text))
    for text in (
        *("", "00", "10", "2021", "3031", "40414243"),
        *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
SIZES = st.integers(0, 600)


def leaf(number: int) -> bytes:
    return leaf_hash(b"entry %d" % number)


@cache
def root(size: int) -> bytes:
    """By the definition of the tree, and slowly."""
    return _defined(0, size) if size else sha256(b"").digest()


@cache
def _defined(start: int, end: int) -> bytes:
    if end - start == 1:
        return leaf(start)
    split = 1
    while split * 2 < end - start:
        split *= 2
    return node_hash(_defined(start, start + split), _defined(start + split, end))


def nodes(level: int, index: int) -> bytes:
    return _defined(index << level, (index + 1) << level)


def shared_nodes(level: int, index: int) -> bytes:
    return root_of(LEAVES[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", ROOTS)
def test_the_roots_are_those_of_other_implementations(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]
    assert root_at(size, shared_nodes).hex() == ROOTS[size]


def test_so_are_the_proofs() -> None:
    assert [hash_.hex() for hash_ in inclusion_proof(5, 8, shared_nodes)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [hash_.hex() for hash_ in consistency_proof(6, 8, shared_nodes)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_a_tree_that_grows_has_the_root_of_the_definition_at_every_size() -> None:
    tree = CompactRange()
    for size in range(600):
        assert tree.root == root(size) == root_at(size, nodes)
        completed = tree.append(leaf(size))
        assert completed == [nodes(level, size >> level) for level in range(len(completed))]
        assert (size + 1) % (1 << len(completed)), "and no more than these"
        tree = CompactRange(tree.size, tree.hashes)


@pytest.mark.parametrize(("size", "hashes"), [(1, 0), (3, 1), (4, 2)])
def test_a_range_of_another_size_than_its_hashes_is_none(size: int, hashes: int) -> None:
    with pytest.raises(ValueError, match=f"{hashes} hashes for {size} leaves"):
        CompactRange(size, [b"\0" * 32] * hashes)


@given(SIZES, SIZES)
def test_any_two_sizes_are_proved_to_be_one_log(one: int, other: int) -> None:
    old, new = sorted((one, other))
    proof = consistency_proof(old, new, nodes)
    assert verify_consistency(old, root(old), new, root(new), proof)


@given(SIZES.filter(bool), st.data())
def test_any_entry_is_proved_to_be_in_any_log_that_has_it(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, nodes)
    assert verify_inclusion(leaf(index), index, size, proof, root(size))


def flipped(hash_: bytes, bit: int) -> bytes:
    return (int.from_bytes(hash_, "big") ^ 1 << bit).to_bytes(32, "big")


@settings(max_examples=300)
@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_no_bit_of_a_consistency_proof_can_be_another(old: int, more: int, data: st.DataObject) -> None:
    new = old + more
    hashes = [root(old), root(new), *consistency_proof(old, new, nodes)]
    which, bit = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, 255))
    hashes[which] = flipped(hashes[which], bit)
    assert not verify_consistency(old, hashes[0], new, hashes[1], hashes[2:])


@settings(max_examples=300)
@given(st.integers(1, 300), st.data())
def test_no_bit_of_an_inclusion_proof_can_be_another(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = [leaf(index), root(size), *inclusion_proof(index, size, nodes)]
    which, bit = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, 255))
    hashes[which] = flipped(hashes[which], bit)
    assert not verify_inclusion(hashes[0], index, size, hashes[2:], hashes[1])


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 500), st.integers(0, 500), st.data())
def test_a_proof_is_good_for_its_own_sizes_only(old: int, more: int, a: int, b: int, data: st.DataObject) -> None:
    """`root_at` of a size is one hash; a proof for other sizes than its own would show two logs to be one."""
    new = old + more
    proof = consistency_proof(old, new, nodes)
    shortened = proof[: data.draw(st.integers(0, len(proof)))]
    if shortened != proof:
        assert not verify_consistency(old, root(old), new, root(new), shortened)
    assert not verify_consistency(old, root(old), new, root(new), [*proof, root(a)])
    if (a, b) != (old, new) and a <= b:
        assert verify_consistency(a, root(a), b, root(b), proof) is (proof == consistency_proof(a, b, nodes))


@given(st.integers(1, 200), st.data())
def test_an_entry_is_in_its_own_place_only(size: int, data: st.DataObject) -> None:
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(-1, size))
    proof = inclusion_proof(index, size, nodes)
    assert verify_inclusion(leaf(index), other, size, proof, root(size)) is (other == index)
    assert not verify_inclusion(leaf(index), index, size, [*proof, root(1)], root(size))
    assert not proof or not verify_inclusion(leaf(index), index, size, proof[:-1], root(size))


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root", "holds"),
    [
        (0, EMPTY_ROOT, 0, EMPTY_ROOT, True),
        (0, EMPTY_ROOT, 5, root(5), True),
        (0, root(1), 5, root(5), False),
        (5, root(5), 5, root(5), True),
        (5, root(4), 5, root(5), False),
        (5, root(5), 4, root(4), False),
        (-1, EMPTY_ROOT, 4, root(4), False),
        (4, root(4), 5, root(5), False),
        (3, root(3), 5, root(5), False),
    ],
    ids=lambda given: given.hex()[:8] if isinstance(given, bytes) else None,
)
def test_where_there_is_nothing_to_prove_a_proof_is_empty(
    old: int, old_root: bytes, new: int, new_root: bytes, holds: bool
) -> None:
    assert verify_consistency(old, old_root, new, new_root, []) is holds
    if holds:
        assert not verify_consistency(old, old_root, new, new_root, [root(1)])


@pytest.mark.parametrize(("old", "new"), [(-1, 3), (4, 3)])
def test_there_is_no_proof_of_sizes_that_are_none(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="leaves of"):
        consistency_proof(old, new, nodes)
    with pytest.raises(ValueError, match="leaf"):
        inclusion_proof(old, new, nodes)
