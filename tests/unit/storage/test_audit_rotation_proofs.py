"""Proofs and checkpoints of an audit log in several files, of which some may have been moved away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cerememory.domain.checkpoint import Checkpoint, leaf_of
from cerememory.domain.merkle import root_of, verify_consistency, verify_inclusion
from cerememory.errors import AuditBroken, AuditEntriesAway, StorageDamaged
from cerememory.storage import audit_tree
from cerememory.storage.audit_closed import closed_at, dump_closed
from cerememory.storage.audit_head import TILE_ENTRIES
from cerememory.storage.audit_verification import KeptCheckpoint
from tests.support.rotated import RotatedLog, findings, lines_in, rewrite, rotated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> RotatedLog:
    """Entries 1 to 4, 5 to 9, 10 to 12."""
    return rotated(path, 4, 4, 2)


def checkpoint(log: RotatedLog, size: int) -> KeptCheckpoint:
    lines = [line for _sequence, line in log.outbox.lines(1)]
    return Path("kept"), Checkpoint("origin", size, root_of(leaf_of(line) for line in lines[:size]))


def test_the_log_is_held_against_a_checkpoint_of_any_size(log: RotatedLog) -> None:
    assert all(log.verify(checkpoint(log, size)) for size in range(13))
    other = Checkpoint("origin", 6, bytes(32))
    with pytest.raises(AuditBroken, match="the log's first 6 entries are others"):
        log.verify((Path("kept"), other))


def test_a_checkpoint_of_what_was_moved_away_fits_its_end_alone(log: RotatedLog) -> None:
    log.files[0].unlink()
    for size in (0, 4, 5, 9, 12):
        log.verify(checkpoint(log, size))
    with pytest.raises(AuditBroken, match="held against this checkpoint of 3 entries: entries 1 to 4 weren't"):
        log.verify(checkpoint(log, 3))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[RotatedLog, list[bytes]]:
    """Four files whose ends lie within tiles, one of which is in three of them; the store holds the last lines."""
    log = rotated(tmp_path_factory.mktemp("long") / "audit.jsonl", 300, 20, 400, 30)
    lines = lines_in(*log.files)
    log.forget_lines(321)
    return log, lines


def test_proofs_are_made_over_all_files(long: tuple[RotatedLog, list[bytes]]) -> None:
    log, lines = long
    size = len(lines)
    root = log.tree.root(size)
    for old in (1, 256, 300, 301, 320, 321, 400, 512, 700, 721, 750):
        proof = log.tree.consistency(old, size)
        assert verify_consistency(old, root_of(map(leaf_of, lines[:old])), size, root, proof)
        leaf, inclusion = log.tree.inclusion(old, size)
        assert leaf == leaf_of(lines[old - 1])
        assert verify_inclusion(leaf, old - 1, size, inclusion, root)
    log.tree.check()


def test_of_what_was_moved_away_no_entry_is_proved_and_the_file_is_named(
    long: tuple[RotatedLog, list[bytes]], tmp_path: Path
) -> None:
    log, lines = long
    size, first = len(lines), log.files[0]
    first.rename(tmp_path / "away")
    try:
        for entry in (1, 300):
            with pytest.raises(AuditEntriesAway, match=f"entries 1 to 300 of the audit log .* {first.name}"):
                log.tree.inclusion(entry, size)
        for old in (256, 512, 730, 750):  # at the end of a tile, or of lines that are there
            root = root_of(map(leaf_of, lines[:old]))
            assert verify_consistency(old, root, size, log.tree.root(size), log.tree.consistency(old, size))
        with pytest.raises(AuditBroken, match=r"can't be held against this checkpoint: entries 1 to 300"):
            log.tree.check_kept(Path("kept"), Checkpoint("origin", 290, bytes(32)), size)
    finally:
        (tmp_path / "away").rename(first)


def test_what_was_moved_away_is_proved_while_the_store_holds_its_lines(path: Path) -> None:
    log = rotated(path, 600, 1)
    lines = lines_in(*log.files)
    log.files[0].unlink()
    assert log.tree.inclusion(10, 602)[0] == leaf_of(lines[9])


def test_a_file_with_another_piece_proves_nothing(long: tuple[RotatedLog, list[bytes]]) -> None:
    log, lines = long
    kept = log.files[1].read_bytes()
    rewrite(log.files[1], lambda data: data.replace(b'"n":310', b'"n":311'))
    try:
        with pytest.raises(StorageDamaged, match=rf"entries 257 to {2 * TILE_ENTRIES} were changed"):
            log.tree.inclusion(400, len(lines))
    finally:
        log.files[1].write_bytes(kept)


def of_600(path: Path) -> RotatedLog:
    """The store holds no line of a whole tile."""
    log = rotated(path, 2 * TILE_ENTRIES)
    log.add(600 - 2 * TILE_ENTRIES)
    log.project()
    log.forget_lines(2 * TILE_ENTRIES)
    return log


def test_the_lines_of_a_file_that_has_yet_to_be_closed_are_where_they_are(path: Path) -> None:
    log = of_600(path)
    log.rotate()
    lines = lines_in(path)
    assert log.tree.inclusion(10, 601)[0] == leaf_of(lines[9])


@pytest.mark.parametrize("reads", ["_closed_path", "_piece"])
def test_a_file_that_is_closed_while_a_proof_reads_it_is_found_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    log = of_600(path)
    log.rotate()
    owner = audit_tree._Nodes if reads == "_closed_path" else audit_tree
    really_read, moved = getattr(owner, reads), list[str]()

    def read(*given: object) -> object:
        found = really_read(*given) if reads == "_closed_path" else None
        if not moved:
            moved.append(reads)
            log.project()
        return found or really_read(*given)

    monkeypatch.setattr(owner, reads, read)
    assert log.tree.inclusion(10, 601)[0] == leaf_of(lines_in(*log.files)[9])
    assert moved


def test_a_check_of_the_store_looks_at_the_rows_of_closed_files(long: tuple[RotatedLog, list[bytes]]) -> None:
    log, _lines = long
    assert findings(log) == []
    rows, file = dict(log.storage.rows()), log.closed[1]
    for other, told in (
        (replace(file, end_bytes=log.head.audit_bytes), "say that one ends with entry 321 and byte"),
        (replace(file, end_bytes=file.start_bytes), "behind"),
        (replace(file, hashes=(bytes(32), *file.hashes[1:])), "with another tree than the log has"),
        (closed_at(log.head, [], None), "say that one ends with entry 753 and byte"),
    ):
        log.storage.commit(dict([dump_closed(other)]))
        assert any(found.startswith("audit files: ") and told in found for found in findings(log))
        log.storage.commit({key: rows.get(key) for key in log.storage.rows()})
    assert findings(log) == []
