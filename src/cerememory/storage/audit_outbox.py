"""The audit log's lines and head as the store holds them, for whoever compares the file with them."""

from __future__ import annotations

from collections.abc import Iterator

from cerememory.domain.audit_chain import GENESIS, ChainHead
from cerememory.domain.merkle import CompactRange
from cerememory.storage.audit_closed import ClosedFile, closed_files
from cerememory.storage.audit_head import tree_of
from cerememory.storage.contract import Storage
from cerememory.storage.keys import Table, after, system_key
from cerememory.storage.rows import Head, LogRow, parse_head, parse_log_row


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
    def tree(self) -> CompactRange:
        return tree_of(self._head())

    @property
    def synced(self) -> int:
        return self._head().audit_synced

    @property
    def closed(self) -> list[ClosedFile]:
        with self._storage.read() as reader:
            return closed_files(reader)

    @property
    def oldest_sequence(self) -> int:
        prefix = system_key(Table.LOG)
        with self._storage.read() as reader:
            for _key, value in reader.scan(prefix, after(prefix)):
                return parse_log_row(value).first_line
        return self.head.sequence + 1

    def lines(self, from_sequence: int) -> Iterator[tuple[int, bytes]]:
        """One row at a time, each in a snapshot of its own: a long repair pins nothing."""
        position, expected = self._position_of(from_sequence), from_sequence
        while (found := self._row_from(position)) is not None and found[1].first_line <= expected:
            position, row = found
            for number, line in enumerate(row.lines.splitlines(keepends=True), row.first_line):
                if number >= from_sequence:
                    yield number, line
            expected = max(expected, row.end_line)

    def _position_of(self, sequence: int) -> bytes:
        """Where the row with line `sequence` is, or the first row when the log begins behind it."""
        position = prefix = system_key(Table.LOG)
        with self._storage.read() as reader:
            for row_key, value in reader.scan(prefix, after(prefix), reverse=True):
                position = row_key
                if parse_log_row(value).first_line <= sequence:
                    break
        return position

    def _row_from(self, position: bytes) -> tuple[bytes, LogRow] | None:
        """The row at `position` or behind it, and where the next one may be."""
        with self._storage.read() as reader:
            for row_key, value in reader.scan(position, after(system_key(Table.LOG))):
                return row_key + b"\0", parse_log_row(value)
        return None
