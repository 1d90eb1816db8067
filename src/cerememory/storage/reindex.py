"""Bringing a text index level with the store: from the log of changes, or from all rows.

Each function does a bounded piece of work and may be called from any one thread; between two calls the index
can be searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from cerememory.domain.audit_chain import GENESIS
from cerememory.protocol.records import Store
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.documents import changed_documents, stored_documents
from cerememory.storage.keys import (
    Address,
    Table,
    after,
    counters_range,
    key,
    pack_sequence,
    parse_addresses,
    parse_places,
    system_key,
    trailing_id,
    unpack_sequence,
)
from cerememory.storage.namespaces import namespaces_of
from cerememory.storage.rows import RAW_CODE, STORE_CODE, parse_counters, parse_head, parse_log_row
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
        if path is not None and (aside := _wipe(path)) is not None:
            reason = f"{reason}; it is {aside} now"
        index = TextIndex.open(path)
    if index.holds_store(WORKING_CODE):  # what working memory held is gone
        index.delete_store(WORKING_CODE)
        index.commit()
    return index, reason


def renew_index(path: Path | None) -> TextIndex:
    """An empty index in the place of the one in `path`, which isn't open. May raise `IndexWriteFailed`."""
    if path is not None:
        _wipe(path)
    return TextIndex.open(path)


def _wipe(path: Path) -> Path | None:
    try:
        return wipe(path)
    except OSError as error:
        raise IndexWriteFailed(str(error)) from error


def needs_rebuild(index: TextIndex, storage: Storage) -> bool:
    """Whether the log doesn't reach back to what `index` has."""
    applied = index.applied_sequence()
    with storage.read() as reader:
        floor = reader.get(system_key(Table.LOG_FLOOR))
    return applied == 0 or (floor is not None and applied < unpack_sequence(floor))


def apply_log(index: TextIndex, storage: Storage) -> int:
    """Apply the next piece of the log and commit it; how many records it named, 0 when the index is level."""
    prefix = system_key(Table.LOG)
    changed: list[Address] = []
    left: list[bytes] = []
    applied = index.applied_sequence()
    with storage.read() as reader:
        for row_key, value in reader.scan(prefix + pack_sequence(applied + 1), after(prefix)):
            applied = unpack_sequence(row_key[len(prefix) :])
            row = parse_log_row(value)
            changed += parse_addresses(row.changed)
            left += parse_places(row.left)
            if len(changed) >= IDS_MAX:
                break
        if not changed:
            return 0
    apply_changes(index, storage, changed, left, applied)
    index.commit(applied)
    return len(changed)


def apply_changes(
    index: TextIndex, storage: Storage, changed: Iterable[Address], left: Iterable[bytes], sequence: int
) -> None:
    """Apply what became of the records that `changed`, and of all who had words of them, up to `sequence`.

    What is read may be newer than that; it comes again with the changes behind it. `left`: places in groups.
    The documents of `IDS_MAX` records at a time are in memory.
    """
    addresses, places = [*dict.fromkeys(changed)], left
    for start in range(0, max(len(addresses), 1), IDS_MAX):
        with storage.read() as reader:
            documents, missing = changed_documents(reader, addresses[start : start + IDS_MAX], places)
        index.apply(documents, missing, 0)
        places = ()
    index.apply((), (), sequence)


def rebuild(index: TextIndex, storage: Storage) -> Iterator[int]:
    """Index every row; yields how many are done after each piece. The last piece makes the index count.

    What the index held before goes first: it may name records that are gone. Changes that are committed
    meanwhile are in the log behind the sequence it ends with.
    """
    for store_code in range(RAW_CODE + 1):
        index.delete_store(store_code)
    with storage.read() as reader:
        start = parse_head(reader.get(system_key(Table.HEAD)), GENESIS).commit_sequence
    done = uncommitted = 0
    for addresses in _pieces(storage):
        with storage.read() as reader:
            documents, missing = stored_documents(reader, addresses)
        index.apply(documents, missing, 0)
        done += len(addresses)
        uncommitted += len(addresses)
        if uncommitted >= COMMIT_EVERY:
            index.commit(0)
            uncommitted = 0
        yield done
    index.commit(start)


def _pieces(storage: Storage) -> Iterator[list[Address]]:
    """All addresses, curated and raw, piece by piece, each read in a snapshot of its own."""
    for namespace in namespaces_of(storage):
        yield from _table_pieces(storage, namespace, Table.CONTENT)
        yield from _table_pieces(storage, namespace, Table.RAW)


def _table_pieces(storage: Storage, namespace: int, table: Table) -> Iterator[list[Address]]:
    position = prefix = key(namespace, table)
    while True:
        with storage.read() as reader:
            record_ids = _ids_from(reader, position, after(prefix))
        if record_ids:
            yield [(namespace, record_id) for record_id in record_ids]
        if len(record_ids) < IDS_MAX:  # the end; what is stored meanwhile is in the log, and might never end
            return
        position = prefix + record_ids[-1] + b"\0"


def _ids_from(reader: Reader, start: bytes, stop: bytes) -> list[RecordId]:
    return [trailing_id(row_key) for row_key, _value in islice(reader.scan(start, stop), IDS_MAX)]


def record_count(storage: Storage) -> int:
    """How many rows `rebuild` will index, by the counters."""
    with storage.read() as reader:
        counted = [parse_counters(value) for _key, value in reader.scan(*counters_range())]
    return sum(sum(counters.records) + counters.raw_records for counters in counted)
