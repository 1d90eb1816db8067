"""One transaction of many writes, on every backend: it reads what it wrote, and is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cerememory.errors import StorageUnavailable
from cerememory.storage.contract import Storage, Transaction
from cerememory.storage.lmdb import MAP_BYTES_MIN, LmdbStorage
from tests.support.memory_storage import MemoryStorage


@pytest.fixture(params=["lmdb", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    path = tmp_path / "store"
    path.mkdir()
    opened: Storage = MemoryStorage() if request.param == "memory" else LmdbStorage(path, map_size_bytes=1 << 26)
    yield opened
    opened.close()


def rows(storage: Storage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", b"\xff"))


def test_what_is_written_is_read_back_before_it_is_committed(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"2"})

    def work(transaction: Transaction) -> list[tuple[bytes, bytes]]:
        transaction.write({b"a": None, b"c": b"3"})
        assert transaction.get(b"a") is None
        assert transaction.get_many([b"b", b"c"]) == [b"2", b"3"]
        transaction.write({b"b": b"4"})
        assert rows(storage) == {b"a": b"1", b"b": b"2"}
        return list(transaction.scan(b"", b"\xff"))

    assert storage.transact(work) == [(b"b", b"4"), (b"c", b"3")] == list(rows(storage).items())


def test_work_that_raises_leaves_nothing(storage: Storage) -> None:
    storage.commit({b"a": b"1"})

    def work(transaction: Transaction) -> None:
        transaction.write({b"a": b"2", b"b": b"3"})
        raise KeyError

    with pytest.raises(KeyError):
        storage.transact(work)
    assert rows(storage) == {b"a": b"1"}
    storage.commit({b"b": b"4"})
    assert rows(storage) == {b"a": b"1", b"b": b"4"}


def test_nobody_is_asked_to_end_while_nothing_waits(storage: Storage) -> None:
    assert not storage.readers_should_end()


def test_work_is_run_again_when_the_map_grew(tmp_path: Path) -> None:
    storage = LmdbStorage(tmp_path, map_size_bytes=MAP_BYTES_MIN)
    runs = []

    def work(transaction: Transaction) -> None:
        runs.append(transaction)
        for i in range(24):
            transaction.write({b"%d" % i: bytes(1 << 20)})

    storage.transact(work)
    assert len(runs) == 2
    assert len(rows(storage)) == 24
    storage.close()


def test_a_full_map_leaves_nothing(tmp_path: Path) -> None:
    storage = LmdbStorage(tmp_path, map_size_bytes=MAP_BYTES_MIN, map_size_bytes_max=MAP_BYTES_MIN)

    def work(transaction: Transaction) -> None:
        for i in range(24):
            transaction.write({b"%d" % i: bytes(1 << 20)})

    with pytest.raises(StorageUnavailable, match="full at its limit"):
        storage.transact(work)
    assert rows(storage) == {}
    storage.close()


def test_a_reader_is_asked_to_end_while_the_map_waits_to_grow(tmp_path: Path) -> None:
    storage = LmdbStorage(tmp_path, map_size_bytes=MAP_BYTES_MIN)
    with storage._leases.exclusive():
        assert storage.readers_should_end()
    assert not storage.readers_should_end()
    storage.close()
