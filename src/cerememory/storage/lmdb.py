"""The storage contract on LMDB: one environment, one map, one key space.

Durability is LMDB's own: a commit writes its pages, syncs them, then writes the meta page with a synchronous
write. It is never opened with NOSYNC, NOMETASYNC or WRITEMAP.

`set_mapsize` and reopening must not happen while a read transaction lives (a reader through the old map would
be killed by SIGBUS). Every read therefore holds a lease, and both take the exclusive one first: they wait
until no lease is out. Reads are short, so that wait is too.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from cerememory.errors import DataDirUnusable, StorageUnavailable
from cerememory.failpoints import failpoint
from cerememory.storage.contract import Changes
from cerememory.storage.keys import Table, system_key

GIB = 1 << 30
MAP_BYTES_MIN = 16 << 20
READERS_MAX = 256
FULL_SHARE = 0.8  # the map grows when this share of it is used
FREE_CHECK_INTERVAL_S = 1.0


class _Snapshot:
    """`Reader` over one LMDB read transaction."""

    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        return self._transaction.get(key)  # type: ignore[no-any-return]

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        get = self._transaction.get
        return [get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor() as cursor:
            if not reverse:
                if not cursor.set_range(start):
                    return
                for key, value in cursor:
                    if key >= stop:
                        return
                    yield key, value
                return
            positioned = cursor.prev() if cursor.set_range(stop) else cursor.last()
            if not positioned:
                return
            for key, value in cursor.iterprev():
                if key < start:
                    return
                yield key, value


class _Leases:
    """Any number of shared leases, or one exclusive."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._shared = 0

    def acquire(self) -> None:
        with self._condition:
            self._shared += 1

    def release(self) -> None:
        with self._condition:
            self._shared -= 1
            if not self._shared:
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._shared)
            yield


class LmdbStorage:
    """`Storage` in the folder `path`.

    `map_size_bytes` is what the map is opened with, halved until the system grants it. A full map grows, up to
    `map_size_bytes_max` (None: as far as the disk goes). A commit is refused while less than
    `min_free_bytes` of the disk are free.
    """

    def __init__(
        self,
        path: Path,
        *,
        map_size_bytes: int = 64 * GIB,
        map_size_bytes_max: int | None = None,
        min_free_bytes: int = 0,
    ) -> None:
        self._path = path
        self._map_size_bytes_max = map_size_bytes_max
        self._min_free_bytes = min_free_bytes
        self._leases = _Leases()
        self._free_checked_at = -FREE_CHECK_INTERVAL_S
        self._broken = False
        self._environment = self._open(min(map_size_bytes, map_size_bytes_max or map_size_bytes))

    def _open(self, map_size_bytes: int) -> Any:
        size = map_size_bytes
        while True:
            try:
                return lmdb.open(
                    str(self._path),
                    map_size=size,
                    max_readers=READERS_MAX,
                    max_dbs=0,
                    subdir=True,
                    mode=0o600,
                )
            except (MemoryError, lmdb.MemoryError):
                size //= 2
                if size < MAP_BYTES_MIN:
                    raise DataDirUnusable(
                        f"{self._path}: the system grants no memory map of {MAP_BYTES_MIN} bytes"
                    ) from None
            except lmdb.Error as error:
                raise DataDirUnusable(f"{self._path}: cannot be opened: {error}") from error

    @property
    def map_size_bytes(self) -> int:
        return int(self._environment.info()["map_size"])

    @contextmanager
    def read(self) -> Iterator[_Snapshot]:
        self._leases.acquire()
        try:
            with self._environment.begin() as transaction:
                yield _Snapshot(transaction)
        except lmdb.MapResizedError:
            raise StorageUnavailable("the memory map is being resized, try again") from None
        except lmdb.PanicError:
            self._broken = True
            raise StorageUnavailable("storage is being reopened after a failed write, try again") from None
        finally:
            self._leases.release()

    def commit(self, changes: Changes) -> None:
        self._check_free_space()
        while True:
            try:
                self._commit_once(changes)
                return
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise self._unavailable(error) from error

    def _commit_once(self, changes: Changes) -> None:
        puts = sorted((key, value) for key, value in changes.items() if value is not None)
        deletes = [key for key, value in changes.items() if value is None]
        with self._environment.begin(write=True) as transaction:
            for key in deletes:
                transaction.delete(key)
            with transaction.cursor() as cursor:
                cursor.putmulti(puts)  # one call for all: each call into LMDB gives the interpreter away
            failpoint("storage.commit.before_fsync")
        failpoint("storage.commit.after_fsync")

    def _grow(self) -> None:
        size = self.map_size_bytes
        target = min(size * 2, self._map_size_bytes_max or size * 2)
        if target <= size:
            raise StorageUnavailable(
                f"the memory map is full at its limit of {size} bytes (storage.map_size_max_gib)",
                retry_after_s=30,
            )
        with self._leases.exclusive():
            self._environment.set_mapsize(target)

    def _check_free_space(self) -> None:
        now = time.monotonic()
        if now - self._free_checked_at < FREE_CHECK_INTERVAL_S:
            return
        usage = os.statvfs(self._path)
        free = usage.f_bavail * usage.f_frsize
        if free < self._min_free_bytes:
            raise StorageUnavailable(
                f"only {free} bytes of disk are free, {self._min_free_bytes} are kept (storage.min_free_disk_mib)",
                retry_after_s=30,
            )
        self._free_checked_at = now

    def _unavailable(self, error: lmdb.Error) -> StorageUnavailable:
        self._broken = True
        full = isinstance(error, lmdb.DiskError) or os.strerror(errno.ENOSPC) in str(error)
        what = "the disk is full" if full else "the disk failed a write"
        return StorageUnavailable(f"{what}: nothing of this request was stored", retry_after_s=30)

    def recover(self) -> None:
        """Reopen the environment when a failed write has closed it for good, then prove it by a write."""
        if self._broken:
            self._reopen()
        self._free_checked_at = -FREE_CHECK_INTERVAL_S
        self.commit({system_key(Table.PROBE): time.time_ns().to_bytes(8, "big")})

    def _reopen(self) -> None:
        size = self.map_size_bytes
        with self._leases.exclusive():
            self._environment.close()
            self._environment = self._open(size)
            self._broken = False

    def used_bytes(self) -> int:
        info, stat = self._environment.info(), self._environment.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    def reader_check(self) -> int:
        """Frees the slots of readers whose process is gone; how many were freed."""
        return int(self._environment.reader_check())

    def close(self) -> None:
        with self._leases.exclusive():
            self._environment.close()
