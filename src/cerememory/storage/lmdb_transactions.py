"""What LMDB's transactions are to the storage contract: a snapshot that is read, a transaction that is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import lmdb

from cerememory.errors import StorageUnavailable
from cerememory.storage.contract import Changes
from cerememory.storage.keys import Table, system_key
from cerememory.storage.leases import Leases

PAGE_HEAD_BYTES = 16  # in front of a long value


class Snapshot:
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


class Read:
    """A lease, and a read transaction, for one block. A generator would cost as much as a dozen of its reads."""

    __slots__ = ("_begin", "_leases", "_transaction")

    def __init__(self, leases: Leases, begin: Callable[[], Any]) -> None:
        self._leases = leases
        self._begin = begin

    def __enter__(self) -> Snapshot:
        self._leases.acquire()
        try:
            self._transaction = self._begin()
        except BaseException as error:
            self._leases.release()
            _raise_passing(error)
            raise
        return Snapshot(self._transaction)

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
