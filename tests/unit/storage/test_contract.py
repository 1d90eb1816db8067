"""What every backend of the storage contract does: one suite over LMDB and over the one in memory."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerememory.errors import StorageUnavailable
from cerememory.storage.contract import KEY_BYTES_MAX, Storage
from cerememory.storage.keys import KEYS_END
from cerememory.storage.lmdb import LmdbStorage
from tests.support.memory_storage import MemoryStorage
from tests.support.sealing import sealed_storage

SMALL_BYTES = 1 << 20  # what a store without room holds
FIRST, BEHIND = b"\0", b"\xff"  # of the keys of these tests; a backend has some of its own behind them

Open = Callable[[Path], Storage]


def open_lmdb(path: Path) -> Storage:
    path.mkdir(parents=True, exist_ok=True)
    return LmdbStorage(path, map_size_bytes=64 << 20)


def open_small_lmdb(path: Path) -> Storage:
    path.mkdir(parents=True, exist_ok=True)
    return LmdbStorage(path, map_size_bytes=SMALL_BYTES, map_size_bytes_max=SMALL_BYTES)


@pytest.fixture(
    params=[open_lmdb, lambda path: MemoryStorage(), lambda path: sealed_storage()],
    ids=["lmdb", "memory", "sealed"],
)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    opened: Storage = request.param(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture(params=[open_small_lmdb, lambda path: MemoryStorage(SMALL_BYTES)], ids=["lmdb", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A store with room for `SMALL_BYTES` and no more."""
    opened: Storage = request.param(tmp_path / "store")
    yield opened
    opened.close()


def all_of(storage: Storage) -> list[tuple[bytes, bytes]]:
    with storage.read() as reader:
        return list(reader.scan(FIRST, BEHIND))


def get(storage: Storage, key: bytes) -> bytes | None:
    with storage.read() as reader:
        return reader.get(key)


def test_a_new_store_is_empty(storage: Storage) -> None:
    assert all_of(storage) == []
    assert get(storage, b"a") is None


def test_what_was_committed_is_read(storage: Storage) -> None:
    storage.commit({b"b": b"2", b"a": b"1"})
    assert get(storage, b"a") == b"1"
    assert all_of(storage) == [(b"a", b"1"), (b"b", b"2")]


def test_a_later_value_replaces_the_one_before(storage: Storage) -> None:
    storage.commit({b"a": b"a long value", b"b": b""})
    storage.commit({b"a": b"short"})
    assert all_of(storage) == [(b"a", b"short"), (b"b", b"")]


def test_none_deletes_and_what_is_not_there_may_be_deleted(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"2"})
    storage.commit({b"a": None, b"z": None})
    assert all_of(storage) == [(b"b", b"2")]


def test_one_commit_may_put_and_delete(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"2"})
    storage.commit({b"a": None, b"b": b"3", b"c": b"4"})
    assert all_of(storage) == [(b"b", b"3"), (b"c", b"4")]


def test_an_empty_commit_changes_nothing(storage: Storage) -> None:
    storage.commit({b"a": b"1"})
    storage.commit({})
    assert all_of(storage) == [(b"a", b"1")]


def test_an_empty_value_is_no_missing_one(storage: Storage) -> None:
    storage.commit({b"a": b""})
    assert get(storage, b"a") == b""


def test_many_values_come_in_the_order_in_which_they_were_asked_for(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"2"})
    with storage.read() as reader:
        assert reader.get_many([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
        assert reader.get_many([]) == []


def test_values_outlive_their_snapshot(storage: Storage) -> None:
    storage.commit({b"a": b"x" * 10_000})
    with storage.read() as reader:
        [pair] = list(reader.scan(FIRST, BEHIND))
    storage.commit({b"a": None, b"b": b"y" * 10_000})
    assert pair == (b"a", b"x" * 10_000)


@pytest.mark.parametrize(
    ("start", "stop", "found"),
    [
        (b"b", b"d", [b"b", b"ba", b"c"]),
        (b"b", b"c", [b"b", b"ba"]),
        (b"b\0", b"c", [b"ba"]),
        (b"\0", b"b", [b"a"]),
        (b"c", b"\xff", [b"c", b"d"]),
        (b"e", b"\xff", []),
        (b"b", b"b", []),
        (b"d", b"b", []),
    ],
)
def test_a_scan_goes_from_its_start_up_to_its_stop(
    storage: Storage, start: bytes, stop: bytes, found: list[bytes]
) -> None:
    storage.commit(dict.fromkeys([b"d", b"ba", b"a", b"c", b"b"], b""))
    with storage.read() as reader:
        assert [key for key, _ in reader.scan(start, stop)] == found
        assert [key for key, _ in reader.scan(start, stop, reverse=True)] == found[::-1]


def test_keys_are_ordered_as_unsigned_bytes_and_a_prefix_comes_first(storage: Storage) -> None:
    keys = [b"\x00", b"\x00\x00", b"\x00\xff", b"\x01", b"a", b"aa", b"b", b"\x7f", b"\x80", b"\xfe\xff"]
    storage.commit(dict.fromkeys(keys, b""))
    assert [key for key, _ in all_of(storage)] == sorted(keys)


def test_many_keys_are_all_found_both_ways(storage: Storage) -> None:
    rows = {b"k%05d" % (i * 7919 % 20_000): b"%d" % i for i in range(20_000)}
    storage.commit(rows)
    with storage.read() as reader:
        assert dict(reader.scan(FIRST, BEHIND)) == rows
        assert [key for key, _ in reader.scan(FIRST, BEHIND, reverse=True)] == sorted(rows, reverse=True)


def test_a_scan_may_be_left_half_way(storage: Storage) -> None:
    storage.commit({b"%03d" % i: b"" for i in range(100)})
    with storage.read() as reader:
        assert next(iter(reader.scan(b"050", b"1"))) == (b"050", b"")
        assert next(iter(reader.scan(b"0", b"050", reverse=True))) == (b"049", b"")
        assert reader.get(b"099") == b""


def test_two_scans_of_one_snapshot_do_not_disturb_each_other(storage: Storage) -> None:
    storage.commit({b"%d" % i: b"" for i in range(5)})
    with storage.read() as reader:
        pairs = zip(reader.scan(b"0", b"9"), reader.scan(b"0", b"9", reverse=True), strict=True)
        assert [(up[0], down[0]) for up, down in pairs] == [(b"%d" % i, b"%d" % (4 - i)) for i in range(5)]


@pytest.mark.parametrize("size_bytes", [1, 4_096, 3 * 1_048_576])
def test_a_value_of_any_size_comes_back_as_it_was(storage: Storage, size_bytes: int) -> None:
    value = bytes(range(256)) * (size_bytes // 256) + b"z" * (size_bytes % 256)
    storage.commit({b"a": value, b"b": b"next to it"})
    assert get(storage, b"a") == value
    assert get(storage, b"b") == b"next to it"


def test_the_longest_key_is_accepted(storage: Storage) -> None:
    longest = b"k" * KEY_BYTES_MAX
    storage.commit({longest: b"1"})
    assert all_of(storage) == [(longest, b"1")]


def test_a_snapshot_does_not_see_what_is_committed_after_it(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"1"})
    with storage.read() as before:
        scan = before.scan(FIRST, BEHIND)
        assert next(scan) == (b"a", b"1")
        in_another_thread(lambda: storage.commit({b"a": b"2", b"b": None, b"c": b"2"}))
        assert list(scan) == [(b"b", b"1")]
        assert before.get_many([b"a", b"b", b"c"]) == [b"1", b"1", None]
        assert list(before.scan(FIRST, BEHIND, reverse=True)) == [(b"b", b"1"), (b"a", b"1")]
    assert all_of(storage) == [(b"a", b"2"), (b"c", b"2")]


def test_readers_in_other_threads_see_whole_commits_only(storage: Storage) -> None:
    storage.commit({b"%d" % i: b"0" for i in range(10)})
    seen: list[set[bytes]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with storage.read() as reader:
                seen.append({value for _key, value in reader.scan(FIRST, BEHIND)})

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for commit in range(1, 30):
        storage.commit({b"%d" % i: b"%d" % commit for i in range(10)})
    stop.set()
    for reader in readers:
        reader.join()
    assert seen
    assert all(len(values) == 1 for values in seen)


def in_another_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_commit_that_finds_no_room_leaves_nothing_behind(small: Storage) -> None:
    small.commit({b"a": b"1", b"b": b"2"})
    before = all_of(small)
    with pytest.raises(StorageUnavailable) as refused:
        small.commit({b"a": b"changed", b"b": None, **{b"k%d" % i: b"x" * 65_536 for i in range(32)}})
    assert all_of(small) == before
    assert refused.value.retry_after_s == 30


def test_after_a_commit_that_found_no_room_smaller_ones_go_on(small: Storage) -> None:
    with pytest.raises(StorageUnavailable):
        small.commit({b"a": b"x" * 2 * SMALL_BYTES})
    small.recover()
    small.commit({b"a": b"1"})
    assert get(small, b"a") == b"1"


def test_recovery_of_a_store_that_works_changes_no_row_of_the_caller(storage: Storage) -> None:
    storage.commit({b"a": b"1"})
    storage.recover()
    assert all_of(storage) == [(b"a", b"1")]


def test_row_sizes_are_those_of_keys_and_values_from_a_key_on(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": bytes(100), b"c": bytes(10_000), b"d": b""})
    sizes = dict(storage.row_sizes(b"b", 3))
    assert list(sizes) == [b"b", b"c", b"d"]
    assert sizes[b"b"] >= 101
    assert sizes[b"c"] >= 10_001
    assert list(dict(storage.row_sizes(b"a", 2))) == [b"a", b"b"]
    assert storage.row_sizes(KEYS_END, 9) == []


def test_there_is_room_and_nobody_reads_an_old_snapshot(storage: Storage) -> None:
    storage.check_room()
    storage.commit({b"a": b"1"})
    with storage.read() as reader:
        assert reader.get(b"a") == b"1"
        assert storage.oldest_reader_s() == 0, "the newest snapshot holds nothing back"


def test_used_bytes_grow_with_what_is_stored(storage: Storage) -> None:
    before = storage.used_bytes()
    storage.commit({b"a": b"x" * 1_000_000})
    assert storage.used_bytes() >= before + 1_000_000


def test_compaction_keeps_every_row_and_the_store_goes_on(storage: Storage) -> None:
    storage.commit({b"a": b"1", b"b": b"x" * 100_000, b"c": b"", b"k" * KEY_BYTES_MAX: b"2"})
    storage.commit({b"b": None})
    before, used = all_of(storage), storage.used_bytes()
    compaction = storage.compact()
    assert all_of(storage) == before
    assert (compaction.bytes_before, compaction.bytes_after) == (used, storage.used_bytes())
    storage.commit({b"a": b"3"})
    assert get(storage, b"a") == b"3"


@contextmanager
def memory() -> Iterator[Storage]:
    yield MemoryStorage()


@contextmanager
def lmdb_in_a_new_folder() -> Iterator[Storage]:
    with tempfile.TemporaryDirectory() as folder:
        opened = open_lmdb(Path(folder))
        yield opened
        opened.close()


KEYS = st.binary(min_size=1, max_size=3)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=20), max_size=8)


@pytest.mark.parametrize("opened", [memory, lmdb_in_a_new_folder])
@given(commits=st.lists(CHANGES, max_size=8), bounds=st.tuples(KEYS, KEYS))
@settings(max_examples=40)
def test_any_commits_leave_what_they_would_leave_in_a_dict(
    opened: Callable[[], AbstractContextManager[Storage]],
    commits: list[dict[bytes, bytes | None]],
    bounds: tuple[bytes, bytes],
) -> None:
    model: dict[bytes, bytes] = {}
    start, stop = bounds
    with opened() as storage:
        for changes in commits:
            storage.commit(changes)
            model = {key: value for key, value in {**model, **changes}.items() if value is not None}
        within = sorted((key, value) for key, value in model.items() if start <= key < stop)
        with storage.read() as reader:
            assert list(reader.scan(start, stop)) == within
            assert list(reader.scan(start, stop, reverse=True)) == within[::-1]
            asked = sorted(set(chain.from_iterable(commits)))
            assert reader.get_many(asked) == [model.get(key) for key in asked]
