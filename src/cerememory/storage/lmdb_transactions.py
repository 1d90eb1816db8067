"""What LMDB's transactions are to the storage contract: a snapshot that is read, a transaction that is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from cerememory.errors import StorageDamaged, StorageUnavailable
from cerememory.storage.contract import Changes
from cerememory.storage.data_file import REMEDY
from cerememory.storage.keys import Table, system_key
from cerememory.storage.leases import Leases

PAGE_HEAD_BYTES = 16  # in front of a long value
DAMAGE = (  # what LMDB says of pages that it can't have written
    *(lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.CursorFullError, lmdb.PageFullError, lmdb.ProblemError),
    *(lmdb.InvalidError, lmdb.VersionMismatchError),
    lmdb.BadTxnError,  # and of all that is asked of a transaction which has met one
)


def damaged(file: Path, error: lmdb.Error) -> StorageDamaged:
    """What to say of `file` when LMDB raised one of `DAMAGE`."""
    reason = str(error).removeprefix(f"{file.parent}: ")
    return StorageDamaged(f"{file}: is damaged ({reason}); {REMEDY}")


class Snapshot:
    """`Reader` over one LMDB read transaction; `file` is what it reads. All raise `StorageDamaged`."""

    __slots__ = ("_damage", "_file", "_transaction")

    def __init__(self, transaction: Any, file: Path) -> None:
        self._transaction = transaction
        self._file = file
        self._damage: StorageDamaged | None = None

    def _damaged(self, error: lmdb.Error) -> StorageDamaged:
        """The first damage that was met: from then on LMDB only says that the transaction must end."""
        if self._damage is None:
            self._damage = damaged(self._file, error)
        return self._damage

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._transaction.get(key)  # type: ignore[no-any-return]
        except DAMAGE as error:
            raise self._damaged(error) from error

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        get = self._transaction.get
        try:
            return [get(key) for key in keys]
        except DAMAGE as error:
            raise self._damaged(error) from error

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        try:
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
        except DAMAGE as error:
            raise self._damaged(error) from error


class Read:
    """A lease, and a read transaction, for one block. A generator would cost as much as a dozen of its reads."""

    __slots__ = ("_begin", "_file", "_leases", "_transaction")

    def __init__(self, leases: Leases, begin: Callable[[], Any], file: Path) -> None:
        self._leases = leases
        self._begin = begin
        self._file = file

    def __enter__(self) -> Snapshot:
        self._leases.acquire()
        try:
            self._transaction = self._begin()
        except BaseException as error:
            self._leases.release()
            _raise_passing(error)
            raise
        return Snapshot(self._transaction, self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._transaction.abort()
        finally:
            self._leases.release()
        if error is not None:
            _raise_passing(error)


def _raise_passing(error: BaseException) -> None:
    """What a read meets while the store is looked after, as the error that says so."""
    if isinstance(error, lmdb.MapResizedError):
        raise StorageUnavailable("the memory map is being resized, try again") from None
    if isinstance(error, lmdb.PanicError):
        raise StorageUnavailable("storage is being reopened after a failed write, try again") from None


class WriteTransaction(Snapshot):
    """`Transaction` over one LMDB write transaction: its changed pages are in memory until there are too many."""

    def spare(self, size_bytes: int) -> None:
        """Leave free pages of `size_bytes`, one behind the other, to whoever writes next.

        The pages of a row that goes again in its own transaction are free at once, and never written while the
        transaction has others that are.
        """
        row_key = system_key(Table.PROBE)
        self._transaction.put(row_key, bytes(size_bytes - PAGE_HEAD_BYTES))
        self._transaction.delete(row_key)

    def write(self, changes: Changes) -> None:
        puts = sorted((key, value) for key, value in changes.items() if value is not None)
        for key, value in changes.items():
            if value is None:
                self._transaction.delete(key)
        with self._transaction.cursor() as cursor:
            cursor.putmulti(puts)  # one call for all: each call into LMDB gives the interpreter away
