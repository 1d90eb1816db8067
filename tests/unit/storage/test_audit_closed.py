"""A closed file of the audit log: its name, its row, its seal, and the order in which it comes to be one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cerememory import failpoints
from cerememory.domain.audit_chain import START, ChainHead
from cerememory.errors import AuditBroken, StorageDamaged
from cerememory.storage.audit_closed import (
    ClosedFile,
    check_closed,
    close_file,
    closed_at,
    closed_files,
    dump_closed,
    files_before,
    size_of_log,
    start_behind,
)
from tests.support.memory_storage import MemoryStorage
from tests.unit.storage.test_audit_tree import commit

KEY = bytes(range(32))
LOG = Path("audit.jsonl")


@pytest.fixture
def closed() -> list[ClosedFile]:
    """Two, with 5 and 6 entries."""
    storage, found = MemoryStorage(), list[ClosedFile]()
    for count in (5, 6):
        found.append(closed_at(commit(storage, count), found, KEY))
    return found


def stored(closed: list[ClosedFile]) -> MemoryStorage:
    storage = MemoryStorage()
    storage.commit(dict(map(dump_closed, closed)))
    return storage


def test_they_are_read_as_they_were_written_oldest_first(closed: list[ClosedFile]) -> None:
    with stored(closed).read() as reader:
        assert closed_files(reader) == closed
    assert [(file.first, file.last.sequence) for file in closed] == [(1, 5), (6, 11)]
    assert (start_behind([]), start_behind(closed)) == (START, closed[1].last)
    assert closed[0].end_bytes == closed[1].start_bytes


@pytest.mark.parametrize("spoil", [lambda row: row[:-1], lambda row: row + bytes(32), lambda row: row[:20]])
def test_a_row_that_cannot_be_read_is_damage(closed: list[ClosedFile], spoil: Callable[[bytes], bytes]) -> None:
    storage = stored(closed)
    key, row = dump_closed(closed[1])
    storage.commit({key: spoil(row)})
    with storage.read() as reader, pytest.raises(StorageDamaged, match="a file of the audit log can't be read"):
        closed_files(reader)


def test_a_seal_holds_all_that_a_row_says(closed: list[ClosedFile]) -> None:
    file = closed[1]
    check_closed(file, KEY)
    for other in (
        replace(file, last=ChainHead(file.last.sequence + 1, file.last.entry_hash)),
        replace(file, last=closed[0].last),
        replace(file, end_bytes=file.end_bytes + 1),
        replace(file, hashes=file.hashes[::-1]),
        replace(file, mac=closed[0].mac),
    ):
        with pytest.raises(AuditBroken, match="wasn't sealed with this audit key"):
            check_closed(other, KEY)
    with pytest.raises(AuditBroken):
        check_closed(file, bytes(32))


def test_a_sealed_head_of_the_log_is_not_the_seal_of_a_file() -> None:
    """Else whoever can write to the store could end a file wherever a commit has ended."""
    head = commit(MemoryStorage(), 5)
    with pytest.raises(AuditBroken):
        check_closed(replace(closed_at(head, [], KEY), mac=head.audit_mac), KEY)


def test_names_stand_in_the_order_of_the_entries(closed: list[ClosedFile]) -> None:
    names = [file.name(LOG) for file in closed]
    assert names == ["audit.jsonl.000000000001-000000000005", "audit.jsonl.000000000006-000000000011"]
    later = replace(closed[1], first=999_999, last=ChainHead(1_000_000, ""))
    assert sorted([later.name(LOG), *names[::-1]]) == [*names, later.name(LOG)]


def test_a_file_is_closed_when_its_name_is_on_the_disk_and_its_mode_was_before_it(
    tmp_path: Path, closed: list[ClosedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, done = tmp_path / "audit.jsonl", list[str]()
    log.write_bytes(b"lines\n")
    fsync = os.fsync

    def noting(fd: int) -> None:
        fsync(fd)
        found = os.fstat(fd)
        done.append(f"synced {'names' if stat.S_ISDIR(found.st_mode) else oct(found.st_mode & 0o777)}")

    monkeypatch.setattr(os, "fsync", noting)
    failpoints.watch(done.append)
    close_file(log, closed[0])
    failpoints.disarm()
    assert done == [
        *("synced 0o400", "audit.file.closing", "audit.file.renamed", "synced names", "audit.file.closed")
    ]
    assert not log.exists()
    assert closed[0].path(log).read_bytes() == b"lines\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        *("audit.jsonl", "audit.jsonl.000000000001-000000000005", "audit.jsonl.000000000006-000000000011"),
        *("audit.jsonl.000000000020-000000000030", "other.jsonl.000000000012-000000000019"),
        *("audit.jsonl.checkpoint", "audit.jsonl.000000000012-000000000019.gz", "audit.jsonl.12-19"),
    ):
        (tmp_path / name).write_bytes(b"1234")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "first", "found"),
    [
        ("audit.jsonl", 12, [1, 6]),
        ("audit.jsonl", 31, [20]),
        ("audit.jsonl", 1, []),
        ("audit.jsonl", 25, []),
        ("audit.jsonl.000000000006-000000000011", 6, [1]),
        ("other.jsonl", 20, [12]),
    ],
)
def test_by_their_names_the_files_in_front_are_found_up_to_a_hole(
    folder: Path, name: str, first: int, found: list[int]
) -> None:
    before = files_before(folder / name, first)
    assert [int(path.name.split(".")[2][:12]) for path in before] == found


def test_the_size_of_a_log_is_that_of_its_files(folder: Path) -> None:
    assert size_of_log(folder / "audit.jsonl") == 4 * 4
    assert size_of_log(folder / "nowhere" / "audit.jsonl") == 0
