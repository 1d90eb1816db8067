"""The data file without its map: what is missing is found, and what was never written isn't missed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cerememory.errors import StorageDamaged
from cerememory.storage import data_file
from cerememory.storage.contract import Transaction
from cerememory.storage.data_file import check_whole
from cerememory.storage.lmdb import LmdbStorage

PAGE = 4_096
CUT_OFF = r"data\.mdb: is cut off at \d+ bytes: page \d+.* isn't there; restore the data directory from a backup"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of a few hundred pages: three levels of short values, and long ones."""
    folder = tmp_path / "store"
    folder.mkdir()
    with closing(LmdbStorage(folder)) as storage:
        storage.commit({b"%04d" % i: b"x" * 500 for i in range(1_000)})
        storage.commit({b"long %d" % i: b"y" * 50_000 for i in range(5)})
    return folder


def cut(path: Path, pages: int) -> Path:
    file = path / "data.mdb"
    os.truncate(file, file.stat().st_size - pages * PAGE)
    return file


def end_early(storage: LmdbStorage) -> None:
    """Let a transaction take pages at the end of the file that it has given back when it is committed."""

    def work(transaction: Transaction) -> None:
        transaction.write({b"gone": b"z" * 2_000_000})  # more than there are free
        transaction.write({b"gone": None})

    for _ in range(3):  # the first ones take from those that are free
        storage.transact(work)


def test_a_whole_store_is_whole(path: Path) -> None:
    check_whole(path / "data.mdb")
    with (path / "data.mdb").open("ab") as file:
        file.write(bytes(10 * PAGE))  # what a commit that was cut short leaves
    check_whole(path / "data.mdb")


@pytest.mark.parametrize("pages", [1, 2, 20, 100, 200])
def test_a_store_without_its_last_pages_is_refused_to_its_owner_and_to_readers(path: Path, pages: int) -> None:
    file = cut(path, pages)
    with pytest.raises(StorageDamaged, match=CUT_OFF):
        check_whole(file)
    with pytest.raises(StorageDamaged, match=CUT_OFF):
        LmdbStorage(path)
    with pytest.raises(StorageDamaged, match=CUT_OFF):
        LmdbStorage.open_readonly(path)


def test_a_store_that_ends_within_its_last_page_is_refused(path: Path) -> None:
    file = path / "data.mdb"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(StorageDamaged, match=CUT_OFF):
        check_whole(file)


def test_a_long_value_that_was_cut_off_is_missed(path: Path) -> None:
    with closing(LmdbStorage(path)) as storage:
        for value in (b"1", b"2", b"3", b"z" * 500_000):  # the pages above it are taken from those that are free
            storage.commit({b"last": value})
    with pytest.raises(StorageDamaged, match="the end of a value, isn't there"):
        check_whole(cut(path, 1))


def test_pages_that_were_never_written_are_not_missed(path: Path) -> None:
    with closing(LmdbStorage(path)) as storage:
        end_early(storage)
        assert (path / "data.mdb").stat().st_size < storage.used_bytes()
    check_whole(path / "data.mdb")
    with closing(LmdbStorage.open_readonly(path)) as storage, storage.read() as reader:
        assert len(list(reader.scan(b"", b"\xff"))) == 1_005


def test_its_owner_lengthens_a_store_that_ends_early(path: Path) -> None:
    """Then nobody has to look its pages up again."""
    with closing(LmdbStorage(path)) as storage:
        end_early(storage)
    with closing(LmdbStorage(path)) as storage:
        assert (path / "data.mdb").stat().st_size == storage.used_bytes()


def test_of_a_store_that_ends_early_every_page_in_use_is_missed(path: Path) -> None:
    with closing(LmdbStorage(path)) as storage:
        end_early(storage)
    pages = (path / "data.mdb").stat().st_size // PAGE
    missed = 0
    for _page in range(pages - 2):
        file = cut(path, 1)
        try:
            check_whole(file)
        except StorageDamaged:
            missed += 1
        else:
            assert not missed, "what is missing doesn't come back"
    assert missed > pages / 2


def test_who_reads_beside_commits_is_not_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the commit that is looked at are used again by those behind it."""
    walk = data_file._walk
    with closing(LmdbStorage(path)) as storage:
        end_early(storage)

        def overtaken(fd: int, meta: data_file._Meta) -> None:
            monkeypatch.setattr(data_file, "_walk", walk)
            end_early(storage)
            raise data_file._Lost("a page of theirs")

        monkeypatch.setattr(data_file, "_walk", overtaken)
        check_whole(path / "data.mdb")
        assert data_file._walk is walk


@pytest.mark.parametrize("damage", [lambda number: struct.pack("@N", number), lambda number: b"\xff" * 8])
def test_damaged_pages_end_the_look_at_them(path: Path, damage: Callable[[int], bytes]) -> None:
    """The first child of the root is the root, or no page that there can be."""
    with closing(LmdbStorage(path)) as storage:
        end_early(storage)
    file = path / "data.mdb"
    with file.open("r+b") as opened:
        meta = data_file._newest(opened.fileno())
        assert meta is not None
        root = meta.roots[1]
        opened.seek(root * PAGE + 16)
        (place,) = struct.unpack("@H", opened.read(2))
        opened.seek(root * PAGE + place)
        opened.write(damage(root)[:6])
    with pytest.raises(StorageDamaged, match="cut off"):
        check_whole(file)


def test_an_empty_file_is_no_new_store(path: Path) -> None:
    os.truncate(path / "data.mdb", 0)
    with pytest.raises(StorageDamaged, match=r"data\.mdb: is empty; restore the data directory"):
        LmdbStorage(path)


@pytest.mark.parametrize("size_bytes", [100, PAGE, PAGE + 100])
def test_without_its_first_pages_it_is_for_lmdb_to_say(path: Path, size_bytes: int) -> None:
    os.truncate(path / "data.mdb", size_bytes)
    check_whole(path / "data.mdb")


def test_a_file_that_is_not_there_is_for_lmdb_to_make(tmp_path: Path) -> None:
    check_whole(tmp_path / "data.mdb")
