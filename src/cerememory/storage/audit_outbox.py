"""The audit log's lines and head as the store holds them, for whoever compares the file with them."""

from __future__ import annotations

from collections.abc import Iterator

from cerememory.domain.audit_chain import GENESIS, ChainHead
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, after, pack_sequence, system_key, unpack_sequence
from cerememory.storage.rows import Head, parse_head


class StoredOutbox:
    """`audit_file.Outbox` over storage; every attribute is read anew."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def _head(self) -> Head:
        with self._storage.read() as reader:
            return parse_head(reader.get(system_key(Table.HEAD)), GENESIS)

    @property
    def head(self) -> ChainHead:
        head = self._head()
        return ChainHead(head.audit_sequence, head.audit_hash)

    @property
    def synced(self) -> int:
        return self._head().audit_synced

    @property
    def oldest_sequence(self) -> int:
        prefix = system_key(Table.AUDIT_OUTBOX)
        with self._storage.read() as reader:
            for row_key, _value in reader.scan(prefix, after(prefix)):
                return unpack_sequence(row_key[len(prefix) :])
        return self.head.sequence + 1

    def lines(self, from_sequence: int) -> Iterator[tuple[int, bytes]]:
        """One row at a time, each in a snapshot of its own: a long repair pins nothing."""
        sequence = from_sequence
        while (row := self._row_with(sequence)) is not None:
            first, value = row
            for number, line in enumerate(value.splitlines(keepends=True), first):
                if number >= sequence:
                    yield number, line
            sequence = first + value.count(b"\n")

    def _row_with(self, sequence: int) -> tuple[int, bytes] | None:
        """The row that holds line `sequence`: the last one that doesn't start behind it."""
        prefix = system_key(Table.AUDIT_OUTBOX)
        with self._storage.read() as reader:
            for row_key, value in reader.scan(prefix, prefix + pack_sequence(sequence + 1), reverse=True):
                first = unpack_sequence(row_key[len(prefix) :])
                return (first, value) if first + value.count(b"\n") > sequence else None
        return None
