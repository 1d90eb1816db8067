"""Bringing a text index level with the store: from the feed of changed ids, or from all rows.

Each function does a bounded piece of work and may be called from any one thread; between two calls the index
can be searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.documents import stored_documents
from cerememory.storage.keys import (
    Table,
    after,
    counters_key,
    key,
    pack_sequence,
    system_key,
    trailing_id,
    unpack_sequence,
)
from cerememory.storage.rows import RAW_CODE, STORE_CODE, parse_counters, parse_head, parse_ids
from cerememory.storage.text_index import IndexDamaged, IndexOutdated, IndexWriteFailed, TextIndex, wipe

IDS_MAX = 1_000  # indexed in one call
WORKING_CODE = STORE_CODE[Store.WORKING]
COMMIT_EVERY = 20_000  # documents; a rebuild shows what it has so far


def open_index(path: Path | None) -> tuple[TextIndex, str]:
    """The index, and why it had to be started anew (empty when it hadn't). May raise `IndexWriteFailed`."""
    reason = ""
    try:
        index = TextIndex.open(path)
    except (IndexDamaged, IndexOutdated) as error:
        reason = str(error)
        if path is not None:
            _wipe(path)
        index = TextIndex.open(path)
    if index.holds_store(WORKING_CODE):  # what working memory held is gone
        index.delete_store(WORKING_CODE)
        index.commit()
    return index, reason


def _wipe(path: Path) -> None:
    try:
        wipe(path)
    except OSError as error:
        raise IndexWriteFailed(str(error)) from error


def needs_rebuild(index: TextIndex, storage: Storage) -> bool:
    """Whether the feed doesn't reach back to what `index` has."""
    applied = index.applied_sequence()
    with storage.read() as reader:
        floor = reader.get(system_key(Table.FEED_FLOOR))
    return applied == 0 or (floor is not None and applied < unpack_sequence(floor))


def apply_feed(index: TextIndex, storage: Storage) -> int:
    """Apply the next piece of the feed and commit it; how many ids it named, 0 when the index is level."""
    prefix = system_key(Table.FEED)
    record_ids: list[RecordId] = []
    applied = index.applied_sequence()
    with storage.read() as reader:
        for row_key, value in reader.scan(prefix + pack_sequence(applied + 1), after(prefix)):
            applied = unpack_sequence(row_key[len(prefix) :])
            record_ids += parse_ids(value)
            if len(record_ids) >= IDS_MAX:
                break
        if not record_ids:
            return 0
        documents, missing = stored_documents(reader, list(dict.fromkeys(record_ids)))
    index.apply(documents, missing, applied)
    index.commit(applied)
    return len(record_ids)


def rebuild(index: TextIndex, storage: Storage) -> Iterator[int]:
    """Index every row; yields how many are done after each piece. The last piece makes the index count.

    What the index held before goes first: it may name records that are gone. Changes that are committed
    meanwhile are in the feed behind the sequence it ends with.
    """
    for store_code in range(RAW_CODE + 1):
        index.delete_store(store_code)
    with storage.read() as reader:
        start = parse_head(reader.get(system_key(Table.HEAD)), GENESIS).commit_sequence
    done = uncommitted = 0
    for record_ids in _pieces(storage):
        with storage.read() as reader:
            documents, missing = stored_documents(reader, record_ids)
        index.apply(documents, missing, 0)
        done += len(record_ids)
        uncommitted += len(record_ids)
        if uncommitted >= COMMIT_EVERY:
            index.commit(0)
            uncommitted = 0
        yield done
    index.commit(start)


def _pieces(storage: Storage) -> Iterator[list[RecordId]]:
    """All ids, curated and raw, piece by piece, each read in a snapshot of its own."""
    return chain(_table_pieces(storage, Table.CONTENT), _table_pieces(storage, Table.RAW))


def _table_pieces(storage: Storage, table: Table) -> Iterator[list[RecordId]]:
    position = prefix = key(table)
    while True:
        with storage.read() as reader:
            record_ids = _ids_from(reader, position, after(prefix))
        if record_ids:
            yield record_ids
        if len(record_ids) < IDS_MAX:  # the end; what is stored meanwhile is in the feed, and might never end
            return
        position = prefix + record_ids[-1] + b"\0"


def _ids_from(reader: Reader, start: bytes, stop: bytes) -> list[RecordId]:
    record_ids: list[RecordId] = []
    for row_key, _value in reader.scan(start, stop):
        record_ids.append(trailing_id(row_key))
        if len(record_ids) == IDS_MAX:
            break
    return record_ids


def record_count(storage: Storage) -> int:
    """How many rows `rebuild` will index, by the counters."""
    with storage.read() as reader:
        counters = parse_counters(reader.get(counters_key()))
    return sum(counters.records) + counters.raw_records
