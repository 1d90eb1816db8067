"""Compaction of the LMDB store: nothing is left of what was deleted, and a crash leaves a whole store."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cerememory import failpoints
from cerememory.errors import DataDirUnusable, StorageUnavailable
from cerememory.failpoints import InjectedCrash
from cerememory.storage import lmdb as lmdb_module
from cerememory.storage import rewriting
from cerememory.storage.lmdb import LmdbStorage

MIB = 1 << 20
WAIT_S = 30.0  # how long a test waits for an event that must come
CANARY = b"canary-that-must-not-stay "


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@contextmanager
def opened(path: Path, **sizes: Any) -> Iterator[LmdbStorage]:
    storage = LmdbStorage(path, **{"map_size_bytes": 64 * MIB, **sizes})
    try:
        yield storage
    finally:
        storage.close()


def rows(storage: LmdbStorage) -> dict[bytes, bytes]:
    with storage.read() as reader:
        return dict(reader.scan(b"", b"\xff" * 512))


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


@pytest.mark.parametrize(
    ("size_bytes", "later_bytes"), [(30, 2_100), (1_000, 2_100), (3_000, 10), (10_000, 3_000)]
)
def test_no_byte_is_left_of_what_was_deleted_or_replaced(path: Path, size_bytes: int, later_bytes: int) -> None:
    """A page is made in memory that held another page before: behind a value that is shorter than its page stands
    what stood there. LMDB's own compact copy would take it along.
    """
    canary = (CANARY * (1 + size_bytes // len(CANARY)))[: size_bytes + len(CANARY)]
    with opened(path) as storage:
        storage.commit({b"%03d" % i: canary for i in range(60)})
        for later in range(3):
            storage.commit({b"b%d.%03d" % (later, i): b"x" * later_bytes for i in range(60)})
        storage.commit({b"%03d" % i: None if i % 2 else b"short" for i in range(60)})
        for later in range(3):
            storage.commit({b"c%d.%03d" % (later, i): b"y" * later_bytes for i in range(60)})
        kept = rows(storage)
        assert CANARY in everything(path)
        storage.compact()
        assert CANARY not in everything(path)
        assert rows(storage) == kept


def test_the_room_of_what_was_deleted_is_given_back(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"%d" % i: b"x" * 10_000 for i in range(500)})
        storage.commit(dict.fromkeys(b"%d" % i for i in range(1, 500)))
        before = storage.used_bytes()
        compaction = storage.compact()
        assert compaction.bytes_before == before > 5 * MIB
        assert compaction.bytes_after == storage.used_bytes() < MIB // 10
        assert (path / "data.mdb").stat().st_size < MIB // 10


def test_the_store_goes_on_and_grows_behind_it(path: Path) -> None:
    with opened(path, map_size_bytes=MIB) as storage:
        storage.commit({b"a": b"1", b"\xff" * 511: b"last"})
        storage.compact()
        storage.commit({b"b": b"x" * 3 * MIB})
        storage.compact()
        storage.commit({b"a": None})
        kept = rows(storage)
        assert kept.keys() == {b"b", b"\xff" * 511}
    with opened(path) as storage:
        assert rows(storage) == kept


def test_an_empty_store_stays_one(path: Path) -> None:
    with opened(path) as storage:
        storage.compact()
        assert rows(storage) == {}
        storage.commit({b"a": b"1"})
        assert rows(storage) == {b"a": b"1"}


def test_its_files_are_closed_to_others_and_nothing_is_left_beside_them(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        storage.compact()
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()}
    assert modes == {"data.mdb": 0o600, "lock.mdb": 0o600}


def test_many_rows_are_written_in_transactions_that_memory_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "COMMIT_BYTES", 20_000)
    monkeypatch.setattr(rewriting, "PIECE_BYTES", 3_000)
    monkeypatch.setattr(rewriting, "PIECE_ROWS", 7)
    changes: dict[bytes, bytes | None] = {b"%05d" % i: b"x" * (i % 500) for i in range(2_000)}
    with opened(path) as storage:
        storage.commit(changes)
        storage.compact()
        assert rows(storage) == changes


def test_the_stores_are_exchanged_when_no_reader_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as storage:
        storage.commit({b"%03d" % i: b"x" * 1_000 for i in range(100)})
        written = threading.Event()
        failpoints.arm("storage.compact.written", lambda name: written.set())
        with storage.read() as reader:
            compacting = threading.Thread(target=storage.compact)
            compacting.start()
            assert written.wait(WAIT_S)
            assert len(list(reader.scan(b"0", b"1"))) == 100
            assert reader.get(b"099") == b"x" * 1_000
        compacting.join(WAIT_S)
        assert not compacting.is_alive()
        assert len(rows(storage)) == 100


OTHER_PROCESS = """
import sys
from pathlib import Path
from cerememory.storage.lmdb import LmdbStorage
storage = LmdbStorage.open_readonly(Path(sys.argv[1]))
for _line in sys.stdin:
    with storage.read() as reader:
        print(reader.get(b"a"), len(list(reader.scan(b"", b"\\xff" * 512))), flush=True)
"""


class OtherProcess:
    """Has the store open, and says what it sees of it when it is asked."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sees(self) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        print("look", file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("commits", [7, 8])
def test_another_process_that_reads_keeps_the_store_that_it_has_open(path: Path, commits: int) -> None:
    """And it doesn't make the owner begin where the old store ended: of LMDB's two meta pages the number of the
    last transaction says which one counts, and that stands in the lock file, which both processes share.
    """
    with opened(path) as storage:
        for i in range(commits):
            storage.commit({b"a": b"before", b"%d" % i: b"x"})
        with OtherProcess(path) as other:
            assert other.sees() == f"b'before' {commits + 1}"
            storage.compact()
            assert len(rows(storage)) == commits + 1
            for i in range(5):
                storage.commit({b"a": b"after %d" % i, b"later %d" % i: b"x"})
                assert rows(storage)[b"a"] == b"after %d" % i
            assert len(rows(storage)) == commits + 6
            assert other.sees() == f"b'before' {commits + 1}"
            with OtherProcess(path) as newcomer:
                assert newcomer.sees() == f"b'after 4' {commits + 6}"
                storage.commit({b"a": b"at last"})
                assert newcomer.sees() == f"b'at last' {commits + 6}"
    with opened(path) as storage:
        assert rows(storage)[b"a"] == b"at last"


def test_a_store_whose_owner_died_in_the_exchange_is_opened_beside_a_reader_of_the_old_one(path: Path) -> None:
    with opened(path) as storage:
        for i in range(8):
            storage.commit({b"a": b"%d" % i})
    with OtherProcess(path) as other:
        assert other.sees() == "b'7' 1"
        assert compacting_process(path, "storage.compact.exchanged=kill").returncode == -9
        with pytest.raises(DataDirUnusable, match="is being compacted, try again"):
            LmdbStorage.open_readonly(path)
        with opened(path) as storage:
            storage.commit({b"b": b"x"})
            assert rows(storage) == {b"a": b"7", b"b": b"x"}
            assert other.sees() == "b'7' 1"
    with opened(path) as storage:
        assert rows(storage) == {b"a": b"7", b"b": b"x"}


COMPACTS = """
import os, sys
from pathlib import Path
from cerememory.failpoints import arm_from
from cerememory.storage.lmdb import LmdbStorage
arm_from(os.environ)
LmdbStorage(Path(sys.argv[1])).compact()
"""


def compacting_process(path: Path, armed: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, failpoints.VARIABLE: armed}
    return subprocess.run(
        [sys.executable, "-c", COMPACTS, str(path)], env=environment, check=False, timeout=WAIT_S
    )


@pytest.mark.parametrize("point", ["storage.compact.written", "storage.compact.exchanged"])
def test_killed_anywhere_it_leaves_a_whole_store_and_nothing_else(path: Path, point: str) -> None:
    with opened(path) as storage:
        storage.commit({b"%03d" % i: b"x" * 1_000 for i in range(100)})
        storage.commit({b"000": None})
        kept = rows(storage)
    assert compacting_process(path, f"{point}=kill").returncode == -9
    assert "compacting" in names(path)
    with opened(path) as storage:
        assert names(path) == ["data.mdb", "lock.mdb"]
        assert rows(storage) == kept
        storage.compact()
        assert rows(storage) == kept


def test_a_reader_beside_the_owner_leaves_the_draft_alone(path: Path) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
    (path / "compacting").mkdir()
    LmdbStorage.open_readonly(path).close()
    assert "compacting" in names(path)


@pytest.mark.parametrize("point", ["storage.compact.written", "storage.compact.exchanged"])
def test_a_crash_in_it_leaves_the_store_open(path: Path, point: str) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        failpoints.arm(point)
        with pytest.raises(InjectedCrash):
            storage.compact()
        storage.commit({b"b": b"2"})
        assert rows(storage) == {b"a": b"1", b"b": b"2"}
        assert names(path) == ["data.mdb", "lock.mdb"]


def test_without_enough_free_disk_it_is_refused_and_nothing_is_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path, min_free_bytes=MIB) as storage:
        storage.commit({b"a": b"x" * 3 * MIB})
        inode = (path / "data.mdb").stat().st_ino
        have_free_bytes(monkeypatch, 4 * MIB)
        with pytest.raises(StorageUnavailable, match=r"compacting needs \d+ bytes.*storage\.min_free_disk_mib"):
            storage.compact()
        assert (path / "data.mdb").stat().st_ino == inode
        have_free_bytes(monkeypatch, 5 * MIB)
        storage.compact()
        assert (path / "data.mdb").stat().st_ino != inode
        assert len(rows(storage)[b"a"]) == 3 * MIB


def have_free_bytes(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    usage = list(os.statvfs("/"))
    usage[0:5] = [4_096, 4_096, size_bytes // 4_096, size_bytes // 4_096, size_bytes // 4_096]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(usage))


@pytest.mark.parametrize("error", [lmdb.DiskError("no room"), MemoryError(), OSError(errno.EIO, "bad disk")])
def test_a_draft_that_cannot_be_written_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write_half(pairs: Any, folder: Path, map_size_bytes: int) -> None:
        (folder / "data.mdb").write_bytes(b"half")
        raise error

    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        monkeypatch.setattr(lmdb_module, "write_rows", write_half)
        with pytest.raises(StorageUnavailable):
            storage.compact()
        assert names(path) == ["data.mdb", "lock.mdb"]
        storage.commit({b"b": b"2"})
        assert rows(storage) == {b"a": b"1", b"b": b"2"}


def test_until_the_exchange_is_synced_no_write_is_said_to_work(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut could bring the old store back, and with it what was written before."""
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        monkeypatch.setattr(lmdb_module, "sync_directory", fails_to_sync)
        with pytest.raises(StorageUnavailable, match="bad disk"):
            storage.compact()
        with pytest.raises(StorageUnavailable, match="bad disk"):
            storage.recover()
        monkeypatch.undo()
        storage.recover()
        storage.commit({b"b": b"2"})
        assert rows(storage).keys() >= {b"a", b"b"}


def fails_to_sync(_path: Path) -> None:
    raise OSError(errno.EIO, "bad disk")


def test_a_store_that_cannot_be_opened_again_is_opened_by_its_recovery(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as storage:
        storage.commit({b"a": b"1"})
        really_open = lmdb.open

        def refuse(where: str, **options: Any) -> Any:
            if where == str(path):
                raise lmdb.Error("not now")
            return really_open(where, **options)

        monkeypatch.setattr(lmdb, "open", refuse)
        with pytest.raises(StorageUnavailable):
            storage.compact()
        with pytest.raises(StorageUnavailable), storage.read():
            pass
        monkeypatch.undo()
        storage.recover()
        assert rows(storage)[b"a"] == b"1"
