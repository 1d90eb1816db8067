"""Whether the text index holds exactly the documents of the rows: one of each, in its store, and no other.

Beside a daemon the index is a moment behind the rows. What the log has behind the commit that the index has is
left out; an index that is behind the whole log will be built again, and isn't looked at. Documents of working
memory have no rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cerememory.errors import CerememoryError
from cerememory.protocol.records import DURABLE_STORES
from cerememory.protocol.values import format_id
from cerememory.storage.contract import Reader
from cerememory.storage.fsck_rows import Finding, Tally
from cerememory.storage.fsck_system import namespaces_in
from cerememory.storage.inverted_index import IndexDamaged, IndexOutdated
from cerememory.storage.keys import (
    Address,
    Table,
    after,
    key,
    pack_sequence,
    parse_addresses,
    system_key,
    trailing_id,
    unpack_sequence,
)
from cerememory.storage.rows import RAW_CODE, STORE_CODE, parse_content_row, parse_log_row
from cerememory.storage.text_index import TextIndex

PIECE = 1_000  # documents that are looked up at once
PENDING_MAX = 100_000  # addresses; of an index that is further behind nothing is said
STRAYS_MAX = 100  # that are named, of each store
TRIES, PAUSE_S = 8, 0.25  # its owner may take away files while they are read, or be about to make them
CODES = (*(STORE_CODE[store] for store in DURABLE_STORES), RAW_CODE)
WORDS = {**{STORE_CODE[store]: store.value for store in DURABLE_STORES}, RAW_CODE: "the raw journal"}


def open_index(path: Path, tally: Tally) -> TextIndex | Finding | None:
    """The index in `path`, to be read; None, with a note, when there is none that counts."""
    if not os.path.lexists(path):
        tally.notes.append("there is no text index on the disk")
        return None
    try:
        return _opened(path)
    except IndexOutdated as error:
        tally.notes.append(f"the text index will be built again: {error}")
        return None
    except IndexDamaged as error:
        return Finding("index", str(error))


def _opened(path: Path) -> TextIndex:
    for _try in range(TRIES - 1):
        try:
            return TextIndex.open_existing(path)
        except IndexDamaged:
            time.sleep(PAUSE_S)
    return TextIndex.open_existing(path)


def check_index(index: TextIndex, reader: Reader, tally: Tally) -> Iterator[Finding]:
    """`index` was opened before `reader`, so that it has nothing that the rows don't."""
    try:
        pending = pending_in(index, reader)
        if pending is None:
            tally.notes.append("the text index is behind the log and will be built again")
            return
        yield from _Index(index, reader, pending).findings()
    except IndexDamaged as error:
        yield Finding("index", str(error))


def pending_in(index: TextIndex, reader: Reader) -> set[Address] | None:
    """What was changed behind the last commit that the index has; None when that isn't known, or too much."""
    applied = index.applied_sequence()
    if applied < unpack_sequence(reader.get(system_key(Table.LOG_FLOOR)) or b""):
        return None
    prefix = system_key(Table.LOG)
    found: set[Address] = set()
    for _key, value in reader.scan(prefix + pack_sequence(applied + 1), after(prefix)):
        found.update(parse_addresses(parse_log_row(value).changed))
        if len(found) > PENDING_MAX:
            return None
    return found


class _Index:
    def __init__(self, index: TextIndex, reader: Reader, pending: set[Address]) -> None:
        self._index = index
        self._reader = reader
        self._pending = pending
        self._namespaces = namespaces_in(reader)

    def findings(self) -> Iterator[Finding]:
        rows = dict.fromkeys(CODES, 0)
        for store_code, addresses in self._pieces():
            rows[store_code] += len(addresses)
            yield from self._check_piece(store_code, addresses)
        for store_code, count in rows.items():
            if self._documents(store_code) > count:
                yield from self._strays(store_code)

    def _pieces(self) -> Iterator[tuple[int, list[Address]]]:
        """The addresses of all rows but those that are pending, by store."""
        waiting: dict[int, list[Address]] = {code: [] for code in CODES}
        for store_code, address in self._rows():
            piece = waiting.get(store_code)
            if piece is not None and address not in self._pending:
                piece.append(address)
                if len(piece) == PIECE:
                    yield store_code, piece
                    waiting[store_code] = []
        yield from waiting.items()

    def _rows(self) -> Iterator[tuple[int, Address]]:
        for namespace in self._namespaces:
            prefix = key(namespace, Table.CONTENT)
            for row_key, value in self._reader.scan(prefix, after(prefix)):
                store_code = _store_of(value)
                if store_code is not None:
                    yield store_code, (namespace, trailing_id(row_key))
            prefix = key(namespace, Table.RAW)
            for row_key, _value in self._reader.scan(prefix, after(prefix)):
                yield RAW_CODE, (namespace, trailing_id(row_key))

    def _check_piece(self, store_code: int, addresses: list[Address]) -> Iterator[Finding]:
        if self._index.count(store_code, addresses) == len(addresses):
            return
        for address in addresses:
            count = self._index.count(store_code, [address])
            if count != 1:
                what = f"{format_id(address[1])} has {count} documents in {WORDS[store_code]}"
                yield Finding("index", what, address[0])

    def _documents(self, store_code: int) -> int:
        """How many of the store there are, without those of what is pending."""
        pending = iter(self._pending)
        pieces = iter(lambda: list(islice(pending, PIECE)), [])
        return self._index.count(store_code) - sum(self._index.count(store_code, piece) for piece in pieces)

    def _strays(self, store_code: int) -> Iterator[Finding]:
        """Documents without a row. The index tells their ids alone, so each namespace is looked at."""
        found = dict.fromkeys(islice(self._stray_addresses(store_code), STRAYS_MAX))
        for namespace, record_id in found:
            what = f"{format_id(record_id)} has a document in {WORDS[store_code]}, and no row"
            yield Finding("index", what, namespace)
        if not found:
            yield Finding("index", f"has documents in {WORDS[store_code]} of a namespace without rows")

    def _stray_addresses(self, store_code: int) -> Iterator[Address]:
        for record_id in self._index.record_ids(store_code):
            for namespace in self._namespaces:
                address = (namespace, record_id)
                if address in self._pending or self._is_row(store_code, address):
                    continue
                if self._index.count(store_code, [address]):
                    yield address

    def _is_row(self, store_code: int, address: Address) -> bool:
        namespace, record_id = address
        table = Table.RAW if store_code == RAW_CODE else Table.CONTENT
        value = self._reader.get(key(namespace, table, record_id))
        return value is not None and (table is Table.RAW or _store_of(value) == store_code)


def _store_of(value: bytes) -> int | None:
    try:
        return parse_content_row(value).store_code
    except CerememoryError:  # which is a finding of the rows
        return None
