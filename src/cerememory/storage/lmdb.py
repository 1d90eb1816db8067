"""The storage contract on LMDB: one environment, one map, one key space.

Durability is LMDB's own: a commit writes its pages, syncs them, then writes the meta page with a synchronous
write. It is never opened with NOSYNC, NOMETASYNC or WRITEMAP.

`set_mapsize` and reopening must not happen while a read transaction lives (a reader through the old map would
be killed by SIGBUS). Every read therefore holds a lease, and both take the exclusive one first: they wait
until no lease is out, and reads that come meanwhile wait for them. Reads are short, so those waits are too.

After a failed write the environment is opened again at once, since LMDB refuses even reads once its meta page
couldn't be written. Whether writing works again is for `recover` to prove.

Compaction writes a second data file beside the first and exchanges them while no lease is out. Another process
that has the first one open keeps it, as it was at that moment, and with it the lock file that both went by.
Whoever opens the new one looks whether the lock file that it finds is of that store, for LMDB doesn't: it would
begin its next transaction where the old store had ended.

A commit is the faster the fewer places it writes to: pages that follow each other are one of them. LMDB takes the
free page that is first in the file, wherever the next one is; so whenever all were taken and the file has grown, a
run of pages is put in front of the next commits (ADR 23).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import lmdb

from cerememory.errors import DataDirUnusable, StorageDamaged, StorageUnavailable
from cerememory.failpoints import failpoint
from cerememory.storage.contract import Changes, Compaction, Transaction
from cerememory.storage.data_file import check_whole
from cerememory.storage.datadir import sync_directory
from cerememory.storage.keys import KEYS_END, Table, system_key
from cerememory.storage.leases import Leases
from cerememory.storage.lmdb_readers import Readers, pids
from cerememory.storage.lmdb_transactions import DAMAGE, Read, WriteTransaction, damaged
from cerememory.storage.rewriting import Pair, write_rows
from cerememory.storage.spare_pages import SparePages

R = TypeVar("R")
Watch: TypeAlias = Callable[[Iterator[Pair], int], Iterator[Pair]]
GIB = 1 << 30
MAP_BYTES_MIN = 16 << 20
READERS_MAX = 256
FREE_CHECK_INTERVAL_S = 1.0
AGREE_TRIES, AGREE_PAUSE_S = 50, 0.005
RESERVE_BYTES_MIN, RESERVE_PART = 1 << 20, 64  # of a map at its limit, for what makes room in it
FORGETTING_BYTES_MAX = 262_144
META_PAGES = 2  # in front of the others
DATA_NAME, LOCK_NAME, DRAFT_NAME = "data.mdb", "lock.mdb", "compacting"


def unwatched(pairs: Iterator[Pair], _count: int) -> Iterator[Pair]:
    return pairs


class LmdbStorage:
    """`Storage` in the folder `path`.

    `map_size_bytes` is what the map is opened with, halved until the system grants it. A full map grows, up to
    `map_size_bytes_max` (None: as far as the disk goes); beyond it there is a reserve for forgetting, or else a
    full map would stay full. A commit is refused while less than `min_free_bytes` of the disk are free.

    Raises `DataDirUnusable` when it can't be opened, `StorageDamaged` when it never will be.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_size_bytes: int = 64 * GIB,
        map_size_bytes_max: int | None = None,
        min_free_bytes: int = 0,
        is_readonly: bool = False,
    ) -> None:
        self._path = path
        self._file = path / DATA_NAME
        self._is_readonly = is_readonly
        self._map_size_bytes_max = map_size_bytes_max
        self._min_free_bytes = min_free_bytes
        self._leases = Leases()
        self._free_checked_at = -FREE_CHECK_INTERVAL_S
        self._readers = Readers()
        self._has_reserve = False
        self._environment: Any | None = None  # None: could not be opened again
        try:
            if not is_readonly:
                self._remove_draft()
                self._make()
            self._open(min(map_size_bytes, map_size_bytes_max or map_size_bytes))
        except StorageUnavailable as error:
            raise DataDirUnusable(str(error)) from error
        if not is_readonly:
            self._lengthen()
            self._sync_names()

    @classmethod
    def open_readonly(cls, path: Path) -> LmdbStorage:
        """The store at `path` for one thread that only reads, beside its owner; `DataDirUnusable` without one.

        Raises `StorageDamaged`, too.
        """
        return cls(path, is_readonly=True)

    def _make(self) -> None:
        """A new store appears as a whole: an empty file is one that has lost what was in it."""
        try:
            if self._file.exists():
                return
            self._draft_path.mkdir(mode=0o700, parents=True)
            write_rows(iter(()), self._draft_path, MAP_BYTES_MIN)
            (self._draft_path / DATA_NAME).replace(self._file)
            shutil.rmtree(self._draft_path)
        except OSError as error:
            raise self._refused(error) from error
        except (MemoryError, lmdb.MemoryError):
            raise self._no_map() from None
        except lmdb.Error as error:
            raise StorageUnavailable(f"{self._path}: cannot be made: {error}") from error

    def _no_map(self) -> StorageUnavailable:
        return StorageUnavailable(f"{self._path}: the system grants no memory map of {MAP_BYTES_MIN} bytes")

    def _open(self, map_size_bytes: int) -> None:
        self._open_files(map_size_bytes)
        if self._has_its_lock_file():
            return
        environment, self._environment = self._opened(), None
        environment.close()
        if self._is_readonly:
            raise StorageUnavailable(f"{self._path}: is being compacted, try again")
        self._remove_lock_file()
        self._open_files(map_size_bytes)

    def _remove_lock_file(self) -> None:
        """The readers that it knows are those of another store."""
        try:
            (self._path / LOCK_NAME).unlink()
        except OSError as error:
            raise self._refused(error) from error

    def _has_its_lock_file(self) -> bool:
        """Whether the lock file and the data file agree on the last transaction.

        Beside an owner they may differ for a moment: a commit changes the lock file once the data file is synced.
        """
        tries = AGREE_TRIES if self._is_readonly else 1
        for _ in range(tries - 1):
            if self._lock_file_agrees():
                return True
            time.sleep(AGREE_PAUSE_S)
        return self._lock_file_agrees()

    def _lock_file_agrees(self) -> bool:
        environment = self._opened()
        try:
            earliest = environment.info()["last_txnid"]
            with self._begin() as transaction:
                return bool(earliest <= transaction.id() <= environment.info()["last_txnid"])
        except lmdb.Error as error:
            raise StorageUnavailable(f"{self._path}: cannot be read: {error}") from error

    def _open_files(self, map_size_bytes: int) -> None:
        check_whole(self._file)
        size = map_size_bytes
        while True:
            try:
                self._environment = lmdb.open(
                    str(self._path),
                    map_size=size,
                    max_readers=READERS_MAX,
                    max_dbs=0,
                    subdir=True,
                    mode=0o600,
                    readonly=self._is_readonly,
                    create=not self._is_readonly,
                )
            except (MemoryError, lmdb.MemoryError):
                size //= 2
                if size < MAP_BYTES_MIN:
                    raise self._no_map() from None
            except DAMAGE as error:
                raise damaged(self._file, error) from error
            except lmdb.Error as error:
                raise StorageUnavailable(f"{self._path}: cannot be opened: {error}") from error
            else:
                info, stat = self._environment.info(), self._environment.stat()
                self.map_size_bytes, self._page_bytes = int(info["map_size"]), int(stat["psize"])
                self._spare_pages = SparePages(int(info["last_pgno"]))
                return

    def _sync_names(self) -> None:
        """LMDB syncs its files, not the names that they may just have been given."""
        try:
            sync_directory(self._path)
        except OSError as error:
            self.close()
            raise DataDirUnusable(f"{self._path}: cannot be synced: {error.strerror}") from error

    def _opened(self) -> Any:
        if self._environment is None:
            raise StorageUnavailable("storage couldn't be opened again after a failed write, try again")
        return self._environment

    def read(self) -> Read:
        return Read(self._leases, self._begin, self._file)

    def _begin(self) -> Any:
        environment = self._opened()
        try:
            return environment.begin()
        except lmdb.MapResizedError:
            if not self._is_readonly:
                raise
            environment.set_mapsize(0)  # as large as the owner has made it
            return environment.begin()

    def commit(self, changes: Changes) -> None:
        if self._transact(partial(self._write, changes), lambda: _makes_room(changes)):
            self._lengthen()

    def _lengthen(self) -> None:
        """Let the file reach its last page, though nobody has written that yet: then its length tells who opens it
        that no page was cut off (`data_file`), and none of them has to be looked up.
        """
        with suppress(OSError, lmdb.Error, StorageUnavailable):  # then they are looked up
            size_bytes = self.used_bytes()
            if self._file.stat().st_size < size_bytes:
                os.truncate(self._file, size_bytes)

    def _write(self, changes: Changes, transaction: WriteTransaction) -> bool:
        """Whether free pages for the next ones were put in front, which nobody writes yet."""
        info = self._opened().info()
        last_page = int(info["last_pgno"])

        def room_pages() -> int:
            taken_pages = _bytes_of(changes) // self._page_bytes + 2 * len(changes)
            return self.map_size_bytes // self._page_bytes - last_page - taken_pages

        spare = self._spare_pages.due(last_page, int(info["last_txnid"]), room_pages)
        if spare:
            transaction.spare(spare * self._page_bytes)
        transaction.write(changes)
        return spare > 0

    def transact(self, work: Callable[[Transaction], R]) -> R:
        return self._transact(work, lambda: False)

    def _transact(self, work: Callable[[WriteTransaction], R], makes_room: Callable[[], bool]) -> R:
        self.check_room()
        while True:
            try:
                self._check_readers()
                answer = self._transact_once(work)
            except lmdb.MapFullError:
                self._grow(with_reserve=makes_room())
            except DAMAGE as error:
                raise damaged(self._file, error) from error
            except lmdb.Error as error:
                self._reopen()
                raise _unavailable(error) from error
            else:
                self._leave_reserve()
                return answer

    def _transact_once(self, work: Callable[[WriteTransaction], R]) -> R:
        transaction = self._opened().begin(write=True)
        try:
            answer = work(WriteTransaction(transaction, self._file))
            failpoint("storage.commit.before_fsync")
            transaction.commit()
        except BaseException:
            # py-lmdb's abort waits for a moment without reads, which may never come by itself.
            with self._leases.exclusive():
                transaction.abort()
            raise
        failpoint("storage.commit.after_fsync")
        return answer

    def readers_should_end(self) -> bool:
        return self._leases.is_exclusive_wanted

    def _grow(self, with_reserve: bool) -> None:
        size, limit = self.map_size_bytes, self._map_size_bytes_max or math.inf
        ceiling = limit + max(RESERVE_BYTES_MIN, limit // RESERVE_PART) if with_reserve else limit
        target = int(min(size * 2, ceiling))
        if target <= size:
            raise StorageUnavailable(
                f"the memory map is full at its limit of {size} bytes (storage.map_size_max_gib)",
                retry_after_s=30,
            )
        self._set_map_size(target)
        self._has_reserve = target > limit

    def _leave_reserve(self) -> None:
        """The next commit may not take from it; pages beyond the limit stay in use."""
        if self._has_reserve and self._map_size_bytes_max is not None:
            self._has_reserve = False
            with suppress(StorageUnavailable):  # what was committed is committed: who comes next is told
                self._set_map_size(self._map_size_bytes_max)

    def _set_map_size(self, size_bytes: int) -> None:
        """LMDB makes it no smaller than what is used."""
        with self._leases.exclusive():
            try:
                self._opened().set_mapsize(size_bytes)
            except lmdb.Error as error:  # which leaves no map at all
                self._open_anew()
                raise StorageUnavailable(f"the memory map can't grow to {size_bytes} bytes: {error}") from error
            self.map_size_bytes = int(self._opened().info()["map_size"])

    def _check_readers(self) -> None:
        if self._readers.is_check_due():
            self.reader_check()
            self.oldest_reader_s()

    def check_room(self) -> None:
        now = time.monotonic()
        if now - self._free_checked_at < FREE_CHECK_INTERVAL_S:
            return
        free = self._free_bytes()
        if free < self._min_free_bytes:
            raise StorageUnavailable(
                f"only {free} bytes of disk are free, {self._min_free_bytes} are kept (storage.min_free_disk_mib)",
                retry_after_s=30,
            )
        self._free_checked_at = now

    def _free_bytes(self) -> int:
        try:
            usage = os.statvfs(self._path)
        except OSError as error:
            raise self._refused(error) from error
        return usage.f_bavail * usage.f_frsize

    def _refused(self, error: OSError) -> StorageUnavailable:
        return StorageUnavailable(f"{self._path}: {error.strerror}", retry_after_s=30)

    def recover(self) -> None:
        """Prove by a write that writing works, after opening what couldn't be opened again."""
        if self._environment is None:
            self._reopen()
        self._sync_exchange()
        self._free_checked_at = -FREE_CHECK_INTERVAL_S
        self.commit({system_key(Table.PROBE): time.time_ns().to_bytes(8, "big")})

    def _reopen(self) -> None:
        with self._leases.exclusive():
            self._open_anew()

    def _open_anew(self) -> None:
        with self._closed():
            pass

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Closed for the block, then open, for whoever has the exclusive lease.

        When it can't be opened, `recover` tries again.
        """
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()
        try:
            yield
        finally:
            with suppress(StorageUnavailable, StorageDamaged):  # who reads or writes next is told
                self._open(self.map_size_bytes)

    def compact(self) -> Compaction:
        bytes_before = self.used_bytes()
        self._check_room_for_draft()
        try:
            self._write_draft()
            failpoint("storage.compact.written")
            self._exchange()
        except OSError as error:
            raise self._refused(error) from error
        except (lmdb.Error, MemoryError) as error:
            raise StorageUnavailable(f"{self._path}: can't be compacted: {error}", retry_after_s=30) from error
        finally:
            shutil.rmtree(self._draft_path, ignore_errors=True)  # what stays goes at the next start
        self._sync_exchange()
        return Compaction(bytes_before, self.used_bytes())

    def copy(self, folder: Path, watch: Watch = unwatched) -> None:
        """Write the rows of one snapshot anew into the empty `folder`, durably; its owner may go on writing.

        `watch` is given the rows and how many there are, and hands them on. Raises `StorageUnavailable`; whatever
        is in `folder` then is worth nothing.
        """
        try:
            with self.read() as reader:
                rows = watch(reader.scan(b"", KEYS_END), int(self._opened().stat()["entries"]))
                write_rows(rows, folder, 2 * self.live_bytes() + MAP_BYTES_MIN)
        except (lmdb.Error, MemoryError) as error:
            raise StorageUnavailable(f"{self._path}: can't be copied: {error}", retry_after_s=30) from error

    @property
    def _draft_path(self) -> Path:
        """Within the store's own folder: a file is renamed within one file system only."""
        return self._path / DRAFT_NAME

    def _check_room_for_draft(self) -> None:
        needed, free = self.live_bytes() + self._min_free_bytes, self._free_bytes()
        if free < needed:
            raise StorageUnavailable(
                f"compacting needs {needed} bytes of free disk, {self._min_free_bytes} of them are kept free"
                f" (storage.min_free_disk_mib); there are {free}",
                retry_after_s=30,
            )

    def live_bytes(self) -> int:
        """How much of the disk the rows take, without what is free for the next ones."""
        stat = self._opened().stat()
        pages = META_PAGES + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages * stat["psize"])

    def _write_draft(self) -> None:
        self._remove_draft()
        self._draft_path.mkdir(mode=0o700)
        with self.read() as reader:
            write_rows(reader.scan(b"", KEYS_END), self._draft_path, 2 * self.live_bytes() + MAP_BYTES_MIN)

    def _exchange(self) -> None:
        with self._leases.exclusive(), self._closed():
            (self._draft_path / DATA_NAME).replace(self._file)
            failpoint("storage.compact.exchanged")

    def _sync_exchange(self) -> None:
        """Until the folder is synced, a power cut may bring the old data file back."""
        try:
            sync_directory(self._path)
        except OSError as error:
            raise self._refused(error) from error

    def _remove_draft(self) -> None:
        """What a compaction or a first start that was cut short has left."""
        try:
            if self._draft_path.exists():
                shutil.rmtree(self._draft_path)
        except OSError as error:
            raise self._refused(error) from error

    def used_bytes(self) -> int:
        environment = self._opened()
        info, stat = environment.info(), environment.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def reader_check(self) -> int:
        """Frees the slots of readers whose process is gone; how many were freed."""
        return int(self._opened().reader_check())

    def reader_pids(self) -> set[int]:
        """The processes that have a slot among the readers, alive or not."""
        return pids(self._opened())

    def oldest_reader_s(self) -> float:
        """See `Readers.oldest_s`."""
        with self._leased():
            return self._readers.oldest_s(self._opened())

    def row_sizes(self, start: bytes, count: int) -> list[tuple[bytes, int]]:
        """Values stay where they are: pages of long ones aren't even looked at."""
        try:
            with self._leased(), self._opened().begin(buffers=True) as reading, reading.cursor() as cursor:
                found = islice(cursor.iternext(), count) if cursor.set_range(start) else ()
                return [(bytes(key), len(key) + len(value)) for key, value in found]
        except DAMAGE as error:
            raise damaged(self._file, error) from error
        except lmdb.Error as error:
            raise StorageUnavailable(f"{self._path}: cannot be read: {error}") from error

    @contextmanager
    def _leased(self) -> Iterator[None]:
        self._leases.acquire()
        try:
            yield
        finally:
            self._leases.release()

    def close(self) -> None:
        with self._leases.exclusive():
            if self._environment is not None:
                self._environment.close()


def _makes_room(changes: Changes) -> bool:
    """Whether something is forgotten, and little else written: that takes pages, and gives back more."""
    return _bytes_of(changes) <= FORGETTING_BYTES_MAX and any(value is None for value in changes.values())


def _bytes_of(changes: Changes) -> int:
    """What is written, without its keys."""
    return sum(len(value) for value in changes.values() if value is not None)


def _unavailable(error: lmdb.Error) -> StorageUnavailable:
    what = "the disk is full" if isinstance(error, lmdb.DiskError) else "the disk failed a write"
    return StorageUnavailable(f"{what}: nothing of this request was stored", retry_after_s=30)
