"""The LMDB backend beyond the contract: its map, its files, the room that it keeps, what it leaves on disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cerememory.errors import DataDirUnusable, StorageDamaged, StorageUnavailable
from cerememory.storage.lmdb import MAP_BYTES_MIN, LmdbStorage
from cerememory.storage.lmdb_readers import CHECK_INTERVAL_S
from cerememory.storage.mutations import UpdateRecord
from cerememory.storage.spare_pages import SPARE_PAGES
from tests.support.committing import a_record, commit, storing, updating

MIB, PAGE = 1 << 20, 4_096
WAIT_S = 30.0  # how long a test waits for an event that must come
CANARY = b"canary-that-must-not-stay " * 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@contextmanager
def opened(path: Path, map_size_bytes: int = MIB, **sizes: Any) -> Iterator[LmdbStorage]:
    storage = LmdbStorage(path, map_size_bytes=map_size_bytes, **sizes)
    yield storage
    storage.close()


def get(storage: LmdbStorage, key: bytes) -> bytes | None:
    with storage.read() as reader:
        return reader.get(key)


def test_what_was_committed_is_there_after_opening_again(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
    with opened(path) as storage:
        assert get(storage, b"a") == b"1"


def test_its_files_are_closed_to_others(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == {
        "data.mdb": 0o600,
        "lock.mdb": 0o600,
    }


def test_a_full_map_grows_and_the_commit_goes_on(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"first": b"1"})
        storage.commit({b"%d" % i: b"x" * 100_000 for i in range(100)})
        assert storage.map_size_bytes == 16 * MIB
        assert get(storage, b"99") == b"x" * 100_000
        assert get(storage, b"first") == b"1"


def test_a_map_never_grows_past_its_limit_and_the_error_names_the_setting(path: Path) -> None:
    with opened(path, map_size_bytes_max=3 * MIB) as storage:
        with pytest.raises(StorageUnavailable, match=r"full at its limit.*storage\.map_size_max_gib"):
            storage.commit({b"a": b"x" * 4 * MIB})
        assert storage.map_size_bytes == 3 * MIB
        storage.commit({b"a": b"x" * MIB})
        assert get(storage, b"a") == b"x" * MIB


PAGE_BYTES = 4_096
SPARE_BYTES = SPARE_PAGES * PAGE_BYTES


def test_a_file_that_grows_gets_free_pages_in_front_of_the_next_commits(path: Path) -> None:
    with opened(path, 64 * MIB) as storage:
        for i in range(4):
            storage.commit({b"%d" % i: b"x"})
        with_spare = storage.used_bytes()
        assert SPARE_BYTES < with_spare < 2 * SPARE_BYTES
        for i in range(100, 200):
            storage.commit({b"%d" % i: b"x" * 2_000})
        assert storage.used_bytes() == with_spare
        assert storage.live_bytes() < SPARE_BYTES


def test_a_file_that_grows_because_somebody_reads_gets_no_free_pages(path: Path) -> None:
    """Nobody could take them while the reader's snapshot needs all that gets free."""
    with opened(path, 256 * MIB) as storage:
        storage.commit({b"%d" % i: b"x" * 500 for i in range(500)})
        with storage.read():
            before = storage.used_bytes()
            for i in range(100):
                storage.commit({b"%d" % i: b"y" * 500})
            grown_beside_reader = storage.used_bytes() - before
        assert grown_beside_reader < 100 * 8 * PAGE_BYTES + 2 * SPARE_BYTES


@pytest.mark.parametrize("already_pages", range(100, 260, 20))
def test_a_commit_that_has_room_isnt_refused_for_free_pages(path: Path, already_pages: int) -> None:
    """The map ends where the commit does, but for a few pages."""
    size_bytes = 512 * PAGE_BYTES
    with opened(path, size_bytes, map_size_bytes_max=size_bytes) as storage:
        storage.commit({b"already": b"x" * (already_pages * PAGE_BYTES)})
        with storage._opened().begin():  # as another process reads: without a lease that an abort would wait for
            storage.commit({b"large": b"x" * ((480 - already_pages) * PAGE_BYTES)})


def test_the_file_always_reaches_its_last_page(path: Path) -> None:
    """The free ones included, that nobody has written: who opens it needn't look for those that are in use."""
    with opened(path, 64 * MIB) as storage:
        for i in range(1_000):
            storage.commit({b"%06d" % (i * 7_919 % 1_000): b"x" * 600, b"head": b"%d" % i})
            assert (path / "data.mdb").stat().st_size >= storage.used_bytes()


def test_whoever_opens_a_store_with_free_pages_adds_none(path: Path) -> None:
    for i in range(20):
        with opened(path, 64 * MIB) as storage:
            for part in range(3):
                storage.commit({b"%d %d" % (i, part): b"x"})
            assert storage.used_bytes() < 2 * SPARE_BYTES


def test_a_map_that_is_nearly_full_is_left_to_what_is_stored(path: Path) -> None:
    with opened(path, 2 * SPARE_BYTES, map_size_bytes_max=2 * SPARE_BYTES) as storage:
        for i in range(20):
            storage.commit({b"%d" % i: b"x" * 2_000})
        assert storage.used_bytes() < SPARE_BYTES


def test_a_store_that_outgrew_the_map_it_is_opened_with_is_opened_and_grows_on(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"x" * 3 * MIB})
    with opened(path) as storage:
        assert get(storage, b"a") == b"x" * 3 * MIB
        storage.commit({b"b": b"y" * 3 * MIB})
        assert get(storage, b"b") == b"y" * 3 * MIB


def test_the_map_grows_only_when_no_reader_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader through the old map would be killed by the system, the daemon with it."""
    with opened(path) as storage:
        storage.commit({b"%03d" % i: b"x" * 1_000 for i in range(100)})
        happened: list[str] = []
        growing = threading.Event()
        exclusive = storage._leases.exclusive

        @contextmanager
        def seen_exclusive() -> Iterator[None]:
            growing.set()
            with exclusive():
                happened.append("grown")
                yield

        monkeypatch.setattr(storage._leases, "exclusive", seen_exclusive)
        with storage.read() as reader:
            writer = threading.Thread(target=storage.commit, args=({b"a": b"y" * 4 * MIB},))
            writer.start()
            assert growing.wait(WAIT_S)
            assert [value for _key, value in reader.scan(b"0", b"1")] == [b"x" * 1_000] * 100
            happened.append("read")
        writer.join(WAIT_S)
        assert happened[0] == "read"
        assert "grown" in happened
        assert get(storage, b"a") == b"y" * 4 * MIB


def test_a_commit_is_refused_while_less_of_the_disk_is_free_than_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path, min_free_bytes=2**62) as storage:
        with pytest.raises(StorageUnavailable, match=r"storage\.min_free_disk_mib"):
            storage.commit({b"a": b"1"})
        with pytest.raises(StorageUnavailable, match=r"storage\.min_free_disk_mib"):
            storage.recover()
        assert get(storage, b"a") is None
        have_free_bytes(monkeypatch, 2**62)
        storage.recover()
        storage.commit({b"a": b"1"})
        assert get(storage, b"a") == b"1"


def have_free_bytes(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    usage = list(os.statvfs("/"))
    usage[0:5] = [4_096, 4_096, size_bytes // 4_096, size_bytes // 4_096, size_bytes // 4_096]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(usage))


def granting(monkeypatch: pytest.MonkeyPatch, size_bytes: int, error: type[Exception]) -> None:
    """A system that grants no map above `size_bytes`."""
    really_open: Callable[..., Any] = lmdb.open

    def open_up_to(path: str, *, map_size: int, **options: Any) -> Any:
        if map_size > size_bytes:
            raise error("no room")
        return really_open(path, map_size=map_size, **options)

    monkeypatch.setattr(lmdb, "open", open_up_to)


@pytest.mark.parametrize("error", [MemoryError, lmdb.MemoryError])
def test_the_map_is_halved_until_the_system_grants_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    granting(monkeypatch, 100 * MIB, error)
    with opened(path, map_size_bytes=1024 * MIB) as storage:
        assert storage.map_size_bytes == 64 * MIB
        storage.commit({b"a": b"1"})


def test_a_system_that_grants_no_map_at_all_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    granting(monkeypatch, MAP_BYTES_MIN - 1, MemoryError)
    with pytest.raises(DataDirUnusable, match=f"grants no memory map of {MAP_BYTES_MIN} bytes"):
        LmdbStorage(path, map_size_bytes=64 * MAP_BYTES_MIN)


def test_a_file_that_is_no_store_is_refused_with_its_path(path: Path) -> None:
    (path / "data.mdb").write_bytes(b"no store" * 4_096)
    said = re.escape("data.mdb: is damaged (MDB_INVALID: File is not an LMDB file); restore the data directory")
    with pytest.raises(StorageDamaged, match=f"{path}/{said}"):
        LmdbStorage(path)


def damage(path: Path) -> None:
    """Let all pages but the first two be of no kind."""
    with (path / "data.mdb").open("r+b") as file:
        for place in range(2 * PAGE, (path / "data.mdb").stat().st_size, PAGE):
            file.seek(place)
            file.write(bytes(16))


READS: dict[str, Callable[[LmdbStorage, Path], object]] = {
    "get": lambda storage, _path: get(storage, b"1"),
    "get_many": lambda storage, _path: got_many(storage),
    "scan": lambda storage, _path: scanned(storage, reverse=False),
    "scan, reverse": lambda storage, _path: scanned(storage, reverse=True),
    "row_sizes": lambda storage, _path: storage.row_sizes(b"", 10),
    "commit": lambda storage, _path: storage.commit({b"1": b"2"}),
    "delete": lambda storage, _path: storage.commit({b"1": None}),
    "transact": lambda storage, _path: storage.transact(lambda transaction: transaction.get(b"1")),
    "compact": lambda storage, _path: storage.compact(),
    "copy": lambda storage, path: storage.copy(path),
}


def got_many(storage: LmdbStorage) -> list[bytes | None]:
    with storage.read() as reader:
        return reader.get_many([b"1", b"2"])


def scanned(storage: LmdbStorage, *, reverse: bool) -> list[tuple[bytes, bytes]]:
    with storage.read() as reader:
        return list(reader.scan(b"", b"\xff", reverse=reverse))


@pytest.mark.parametrize("name", READS)
def test_damaged_pages_are_an_error_that_names_the_file_and_what_to_do(
    path: Path, tmp_path: Path, name: str
) -> None:
    with opened(path) as storage:
        storage.commit({b"%d" % i: b"x" * 1_000 for i in range(100)})
        damage(path)
        (tmp_path / "copy").mkdir()
        with pytest.raises(
            StorageDamaged, match=r"data\.mdb: is damaged \(.*MDB_.*\); restore the data directory"
        ):
            READS[name](storage, tmp_path / "copy")
        assert not (path / "compacting").exists()


def test_what_is_read_behind_damage_says_what_the_damage_was(path: Path) -> None:
    """LMDB would only say that the transaction must end."""
    with opened(path) as storage:
        storage.commit({b"%d" % i: b"x" * 1_000 for i in range(100)})
        damage(path)
        with storage.read() as reader:
            for _ in range(2):
                with pytest.raises(StorageDamaged, match="MDB_CORRUPTED"):
                    reader.get(b"1")


def test_no_reader_of_this_process_is_taken_for_a_dead_one(path: Path) -> None:
    with opened(path) as storage, storage.read() as reader:
        assert storage.reader_check() == 0
        assert reader.get(b"a") is None


READS_FOR_EVER = """
import lmdb, sys
transaction = lmdb.open(sys.argv[1], readonly=True).begin()
transaction.get(b"a")
print("reading", flush=True)
sys.stdin.read()
"""


def test_the_slot_of_a_killed_reader_is_freed_by_a_commit(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        command = [sys.executable, "-c", READS_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None and reader.stdout.readline() == b"reading\n"
            reader.kill()
        storage._readers._checked_at -= CHECK_INTERVAL_S
        storage.commit({b"a": b"2"})
        assert storage.reader_check() == 0


def test_the_age_of_a_reader_counts_from_when_it_held_something_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("cerememory.storage.lmdb_readers.time.monotonic", lambda: clock[0])
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        command = [sys.executable, "-c", READS_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None and reader.stdout.readline() == b"reading\n"
            assert storage.oldest_reader_s() == 0
            clock[0] += 5
            assert storage.oldest_reader_s() == 0, "what it reads is the newest"
            storage.commit({b"a": b"2"})
            assert storage.oldest_reader_s() == 0
            clock[0] += 40
            assert storage.oldest_reader_s() == 40
            clock[0] += 2
            assert storage.oldest_reader_s() == 42
            reader.kill()
        clock[0] += CHECK_INTERVAL_S
        storage.commit({b"a": b"3"})
        assert storage.oldest_reader_s() == 0


def test_reads_leave_no_reader_behind(path: Path) -> None:
    """There are slots for 256; a scan that was left half way gives its slot back, too."""
    with opened(path) as storage:
        storage.commit({b"%03d" % i: b"" for i in range(10)})
        for _ in range(600):
            with storage.read() as reader:
                next(iter(reader.scan(b"000", b"1")))
        assert get(storage, b"005") == b""


def test_of_two_edits_in_one_transaction_the_first_never_gets_to_the_disk(path: Path) -> None:
    """A long value that a short one replaces in the same transaction would stay behind in a freed page."""
    with opened(path, map_size_bytes=64 * MIB) as storage:
        commit(storage, storing(a_record(1)))
        commit(storage, an_edit(CANARY.decode()), an_edit("short"))
        data = (path / "data.mdb").read_bytes()
    assert b"short" in data
    assert CANARY[:26] not in data


def an_edit(text: str) -> UpdateRecord:
    return updating(1, versions_kept=0, metadata={"note": text})


WRITER = """
import sys
from pathlib import Path
from cerememory.storage.lmdb import LmdbStorage
storage = LmdbStorage(Path(sys.argv[1]), map_size_bytes=1 << 26)
for number in range(10**9):
    storage.commit({b"%d" % (number % 100): b"v"})
    if number == 0:
        print("writing", flush=True)
"""


def test_a_store_can_be_opened_while_another_process_writes_to_it(path: Path) -> None:
    """Also between the moments in which a commit changes the data file and the lock file."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            for _ in range(300):
                LmdbStorage.open_readonly(path).close()
        finally:
            writer.kill()
