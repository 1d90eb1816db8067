"""The tree over the log, as commits leave it: sealed with the head, and good for a proof of any sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.domain.audit_chain import GENESIS, AuditDraft
from cerememory.domain.checkpoint import leaf_of
from cerememory.domain.merkle import CompactRange, root_of, verify_consistency, verify_inclusion
from cerememory.errors import AuditBroken, StorageDamaged
from cerememory.storage.audit_head import TILE_ENTRIES, check_head, parse_tile, tile_key, tree_of
from cerememory.storage.audit_outbox import StoredOutbox
from cerememory.storage.audit_tree import AuditTree
from cerememory.storage.contract import Storage
from cerememory.storage.fsck import Tally
from cerememory.storage.fsck_system import check_store
from cerememory.storage.keys import DEFAULT_NAMESPACE, Table, after, system_key
from cerememory.storage.ledger import Ledger
from cerememory.storage.mutations import NoteAudit
from cerememory.storage.rows import Head, dump_head, parse_head, parse_log_row
from tests.support.engine import NOW
from tests.support.memory_storage import MemoryStorage

KEY = bytes(range(32))
ENTRIES = 3 * TILE_ENTRIES + 17


def commit(storage: Storage, count: int, key: bytes | None = KEY) -> Head:
    """One commit of `count` entries."""
    with storage.read() as reader:
        head = parse_head(reader.get(system_key(Table.HEAD)), GENESIS)
        ledger = Ledger(reader, head, NOW, audited=True, index_applied=0, head_key=key)
        for n in range(count):
            ledger.attempt(NoteAudit(DEFAULT_NAMESPACE, AuditDraft(NOW, "recall.query", (), (), {"n": n})))
        finished = ledger.finish()
    assert finished is not None
    storage.commit(finished.changes)
    return finished.head


def lines_of(storage: Storage) -> list[bytes]:
    return [line for _sequence, line in StoredOutbox(storage).lines(1)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStorage, Path, list[bytes]]:
    """A log in commits of all sizes, whose file is whole, and of which the store still has the last 100 lines."""
    storage, sizes, left = MemoryStorage(), iter([1, 2, 300, 5, 255, 1, 1]), ENTRIES
    while left:
        left -= commit_some(storage, min(next(sizes, 7), left))
    lines = lines_of(storage)
    path = tmp_path_factory.mktemp("tree") / "audit.jsonl"
    path.write_bytes(b"".join(lines))
    forget_lines_before(storage, ENTRIES - 100)
    return storage, path, lines


def commit_some(storage: Storage, count: int) -> int:
    commit(storage, count)
    return count


def forget_lines_before(storage: MemoryStorage, sequence: int) -> None:
    """As commits do, once the file has them."""
    prefix = system_key(Table.LOG)
    with storage.read() as reader:
        rows = list(reader.scan(prefix, after(prefix)))
    storage.commit({key: None for key, value in rows if parse_log_row(value).end_line <= sequence})


def copy_of(storage: MemoryStorage) -> MemoryStorage:
    copied = MemoryStorage()
    copied.commit(dict(storage.rows()))
    return copied


def root(lines: list[bytes], size: int) -> bytes:
    return root_of(leaf_of(line) for line in lines[:size])


@pytest.mark.parametrize("groups", [[1], [1, 1, 1], [255, 1, 1], [256], [257], [600], [1, 600, 3]])
def test_the_head_has_the_tree_over_all_lines_whatever_their_commits_were(
    groups: list[int], tmp_path: Path
) -> None:
    storage = MemoryStorage()
    for count in groups:
        head = commit(storage, count)
    lines = lines_of(storage)
    assert (tree_of(head).size, tree_of(head).root) == (len(lines), root(lines, len(lines)))
    assert head.audit_bytes == len(b"".join(lines))
    with storage.read() as reader:
        prefix = system_key(Table.AUDIT_TILES)
        tiles = list(reader.scan(prefix, after(prefix)))
    assert [key for key, _value in tiles] == [tile_key(n) for n in range(len(lines) // TILE_ENTRIES)]
    for n, (_key, value) in enumerate(tiles):
        end = (n + 1) * TILE_ENTRIES
        assert parse_tile(value).end_bytes == len(b"".join(lines[:end]))
        assert parse_tile(value).root == root_of(leaf_of(line) for line in lines[n * TILE_ENTRIES : end])
    AuditTree(storage, tmp_path / "none").check()


SIZES = st.integers(0, ENTRIES)


@settings(max_examples=60)
@given(SIZES, SIZES)
def test_any_two_sizes_are_proved_to_be_of_one_log(
    made: tuple[MemoryStorage, Path, list[bytes]], one: int, other: int
) -> None:
    storage, path, lines = made
    old, new = sorted((one, other))
    tree = AuditTree(storage, path)
    assert tree.root(old) == root(lines, old)
    assert verify_consistency(old, root(lines, old), new, root(lines, new), tree.consistency(old, new))


@settings(max_examples=60)
@given(st.integers(1, ENTRIES), st.integers(1, ENTRIES))
def test_any_entry_is_proved_to_be_in_any_log_that_has_it(
    made: tuple[MemoryStorage, Path, list[bytes]], one: int, other: int
) -> None:
    storage, path, lines = made
    entry, size = sorted((one, other))
    leaf, proof = AuditTree(storage, path).inclusion(entry, size)
    assert leaf == leaf_of(lines[entry - 1])
    assert verify_inclusion(leaf, entry - 1, size, proof, root(lines, size))


def test_lines_that_the_file_has_yet_to_get_are_the_store_s(tmp_path: Path) -> None:
    storage = MemoryStorage()
    commit(storage, 600)
    lines, path = lines_of(storage), tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(lines[:300]))
    for size in (10, 300, 511, 513, 600):
        assert AuditTree(storage, path).root(size) == root(lines, size)


@pytest.mark.parametrize("line", [1, 300, 2 * TILE_ENTRIES])
def test_a_file_that_was_changed_proves_nothing_of_the_lines_around(
    made: tuple[MemoryStorage, Path, list[bytes]], tmp_path: Path, line: int
) -> None:
    storage, _path, lines = made
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join([*lines[: line - 1], lines[line - 1].replace(b'"n"', b'"m"'), *lines[line:]]))
    tree = AuditTree(storage, path)
    first = (line - 1) // TILE_ENTRIES * TILE_ENTRIES + 1
    with pytest.raises(StorageDamaged, match=f"entries {first} to {first + TILE_ENTRIES - 1} were changed"):
        tree.inclusion(first + 1, ENTRIES)
    assert verify_consistency(
        TILE_ENTRIES,
        root(lines, TILE_ENTRIES),
        ENTRIES,
        root(lines, ENTRIES),
        tree.consistency(TILE_ENTRIES, ENTRIES),
    ), "for which no line is read that was changed"


def test_what_neither_store_nor_file_has_is_damage(
    made: tuple[MemoryStorage, Path, list[bytes]], tmp_path: Path
) -> None:
    storage, path, _lines = made
    with pytest.raises(StorageDamaged, match="no audit entry 786"):
        AuditTree(storage, path).root(ENTRIES + 1)
    with pytest.raises(StorageDamaged, match="No such file"):
        AuditTree(storage, tmp_path / "none").root(TILE_ENTRIES - 1)
    broken = copy_of(storage)
    broken.commit({tile_key(1): None})
    with pytest.raises(StorageDamaged, match="has 1 of the audit tiles 0 to 1"):
        AuditTree(broken, path).root(ENTRIES)
    broken.commit({tile_key(1): b"x"})
    with pytest.raises(StorageDamaged, match="can't be read"):
        AuditTree(broken, path).root(ENTRIES)


def test_a_tile_or_a_line_of_another_tree_does_not_pass(made: tuple[MemoryStorage, Path, list[bytes]]) -> None:
    storage, path, _lines = made
    AuditTree(storage, path).check()
    for changes in (
        {tile_key(1): storage.rows()[tile_key(0)]},
        {tile_key(2): None},
        {max(key for key in storage.rows() if key.startswith(system_key(Table.LOG))): None},
    ):
        broken = copy_of(storage)
        broken.commit(changes)
        with pytest.raises(AuditBroken):
            AuditTree(broken, path).check()


def findings(storage: MemoryStorage) -> list[str]:
    with storage.read() as reader:
        return [str(finding) for finding in check_store(reader, NOW, Tally())]


def test_a_check_of_the_store_looks_at_the_tiles(made: tuple[MemoryStorage, Path, list[bytes]]) -> None:
    storage, _path, _lines = made
    assert findings(storage) == []
    rows = storage.rows()
    first, second, last = (rows[tile_key(number)] for number in range(3))
    for changes, told in (
        ({tile_key(2): None}, "are 2, which is not what 785 entries have"),
        ({tile_key(3): last}, "ends at byte"),
        ({tile_key(1): None}, "has tile 2 behind 1"),
        ({tile_key(1): second[:8] + first[8:]}, "aren't of the tree that the head has"),
        ({tile_key(1): first[:8] + second[8:]}, "tile 1 ends at byte"),
        ({tile_key(0): b"x"}, "a tile of the audit log can't be read"),
    ):
        broken = copy_of(storage)
        broken.commit(changes)
        found = findings(broken)
        assert found and told in found[0]


# The seal of the head


@pytest.fixture
def head() -> Head:
    return commit(MemoryStorage(), 5)


def test_a_head_is_sealed_with_its_key(head: Head) -> None:
    check_head(head, KEY)
    with pytest.raises(AuditBroken, match="wasn't sealed with this audit key"):
        check_head(head, bytes(32))


def others(head: Head) -> Iterator[Head]:
    edge = bytes([head.audit_edge[0] ^ 1]) + head.audit_edge[1:]
    yield replace(head, audit_edge=edge)
    yield replace(head, audit_sequence=6)
    yield replace(head, audit_hash=GENESIS)
    yield replace(head, audit_bytes=head.audit_bytes + 1)
    yield replace(head, audit_mac=b"")
    yield replace(head, audit_mac=bytes([head.audit_mac[0] ^ 1]) + head.audit_mac[1:])


def test_nothing_that_is_sealed_can_be_another(head: Head) -> None:
    for other in others(head):
        with pytest.raises(AuditBroken):
            check_head(other, KEY)


def test_what_the_file_has_and_what_else_was_committed_is_not_sealed(head: Head) -> None:
    check_head(replace(head, audit_synced=3, commit_sequence=70), KEY)


def test_a_head_without_a_key_is_not_sealed() -> None:
    with pytest.raises(AuditBroken):
        check_head(commit(MemoryStorage(), 1, key=None), KEY)


def test_without_an_entry_there_is_nothing_to_seal() -> None:
    check_head(Head(7, 0, GENESIS, 0), KEY)


def test_a_commit_without_entries_leaves_the_seal_as_it_is() -> None:
    storage = MemoryStorage()
    before = commit(storage, 3)
    with storage.read() as reader:
        ledger = Ledger(reader, before, NOW, audited=False, index_applied=0, head_key=None)
        ledger.attempt(NoteAudit(DEFAULT_NAMESPACE, AuditDraft(NOW, "recall.query", (), (), {})))
        finished = ledger.finish()
    assert finished is not None
    assert finished.head == replace(before, commit_sequence=before.commit_sequence + 1)
    check_head(finished.head, KEY)


def test_an_edge_of_another_size_is_damage(head: Head) -> None:
    with pytest.raises(StorageDamaged, match="1 hashes for 5 leaves, which have 2"):
        tree_of(replace(head, audit_edge=head.audit_edge[:32]))
    assert parse_head(dump_head(head), GENESIS) == head
    assert CompactRange(0).root == tree_of(Head(0, 0, GENESIS, 0)).root
