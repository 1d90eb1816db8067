"""What imports changed, kept so that one of them can be taken back: a *batch* of rows for each.

    UNDO | 0 | batch                  -> batch row: which import it was, and how much is kept for it
    UNDO | 1 | batch | kind | id      -> undo row: what stood there before, and the stamp of what the import put;
                                         of kind GONE, that the record was forgotten since

A *stamp* stands for one state of a record: another one there later means that somebody changed it since. What
changes a record without saying anything else with it (an edge lost, a secret taken out) stamps it anew here.

Kept are the newest `BATCHES_MAX` batches of a namespace, `UNDO_BYTES_MAX` bytes of them. Forgetting reaches into
them, and compaction drops them all: what was replaced or deleted is on the disk for as long as they are. A batch
goes as it came, in one transaction; rows of none, which an earlier version could leave, go with the next to go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from cerememory.errors import StorageDamaged
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader, Storage
from cerememory.storage.keys import (
    ID_BYTES,
    Table,
    after,
    key,
    pack_time,
    pack_version,
    state_key,
    trailing_id,
)
from cerememory.storage.ledger import Ledger
from cerememory.storage.namespaces import namespaces_of
from cerememory.storage.rows import (
    ArchivedRow,
    ContentRow,
    RawRow,
    dump_edges,
    dump_row,
    parse_archived_row,
    parse_content_row,
    parse_edges,
    parse_raw_row,
)
from cerememory.storage.series import Steps

T = TypeVar("T")

BATCHES_MAX = 8
UNDO_BYTES_MAX = 256 * 1_048_576  # of a namespace
DROPPED_ROWS = 2_000  # by one step
STAMP_BYTES = 8
MEMORY, RAW, GONE = b"m", b"r", b"x"  # in this order
_BATCH, _ROW = b"\0", b"\1"


class MemoryBefore(msgspec.Struct, frozen=True, array_like=True):
    """A memory with its earlier versions. `kept_until` of `rows` counts for one that decay had archived."""

    rows: ArchivedRow
    is_archived: bool
    history: tuple[bytes, ...]  # content rows, as they are stored


class UndoRow(msgspec.Struct, frozen=True, array_like=True):
    """`stamp` is empty where the import left nothing; without `memory` and `raw` there was nothing before it."""

    stamp: bytes
    memory: MemoryBefore | None = None
    raw: RawRow | None = None

    @property
    def is_new(self) -> bool:
        return self.memory is None and self.raw is None


class HeldImport(msgspec.Struct, frozen=True, array_like=True):
    """A record that an import put into working memory: its id and `updated_at`."""

    record_id: bytes
    updated_at: int


class BatchRow(msgspec.Struct, frozen=True, array_like=True):
    """An import that was made at `at` (nanoseconds); `size_bytes` is that of its undo rows, `images` how many of
    them say what was before.
    """

    archive_id: str
    at: int
    size_bytes: int
    images: int
    held: tuple[HeldImport, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_undo_rows = msgspec.msgpack.Decoder(UndoRow)
_batch_rows = msgspec.msgpack.Decoder(BatchRow)


def parse_undo_row(value: bytes) -> UndoRow:
    return _read(_undo_rows, value)


def parse_batch_row(value: bytes) -> BatchRow:
    return _read(_batch_rows, value)


def dump_batch_row(row: BatchRow) -> bytes:
    return _encoder.encode(row)


def dump_undo_row(row: UndoRow) -> bytes:
    return _encoder.encode(row)


def _read(decoder: msgspec.msgpack.Decoder[T], value: bytes) -> T:
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StorageDamaged(f"what is kept to undo an import can't be read: {error}") from error


def memory_stamp(row: ContentRow) -> bytes:
    """An edit moves both of what it is made of; what a provider adds to a memory moves neither."""
    return _stamp(b"%d %d" % (row.version, row.updated_at))


def raw_stamp(row: RawRow) -> bytes:
    """A dream marks an entry, and leaves what was said alone."""
    return _stamp(b"%d %b\0%b" % (row.created_at, row.session_id.encode(), row.content))


def _stamp(said: bytes) -> bytes:
    return blake2b(said, digest_size=STAMP_BYTES).digest()


def batch_key(namespace: int, batch: RecordId) -> bytes:
    return key(namespace, Table.UNDO, _BATCH, batch)


def rows_prefix(namespace: int, batch: RecordId | None = None) -> bytes:
    """Of the undo rows of one batch, or of all."""
    return key(namespace, Table.UNDO, _ROW, batch or b"")


def undo_key(namespace: int, batch: RecordId, kind: bytes, record_id: RecordId) -> bytes:
    return key(namespace, Table.UNDO, _ROW, batch, kind, record_id)


def kind_in(row_key: bytes) -> bytes:
    """Of the key of an undo row."""
    return row_key[-ID_BYTES - 1 : -ID_BYTES]


def batch_in(row_key: bytes) -> RecordId:
    """Of the key of an undo row."""
    return RecordId(row_key[-2 * ID_BYTES - 1 : -ID_BYTES - 1])


def batches(reader: Reader | Ledger, namespace: int) -> list[tuple[RecordId, BatchRow]]:
    """Those that are kept, the oldest first."""
    prefix = key(namespace, Table.UNDO, _BATCH)
    return [(trailing_id(k), parse_batch_row(value)) for k, value in reader.scan(prefix, after(prefix))]


def with_undo(storage: Storage) -> list[int]:
    """The namespaces in which something is kept."""
    namespaces = namespaces_of(storage)
    with storage.read() as reader:
        return [namespace for namespace in namespaces if _has_undo(reader, namespace)]


def _has_undo(reader: Reader, namespace: int) -> bool:
    prefix = key(namespace, Table.UNDO)
    return next(reader.scan(prefix, after(prefix)), None) is not None


def undo_rows(reader: Reader | Ledger, namespace: int, batch: RecordId) -> Iterator[tuple[bytes, UndoRow]]:
    prefix = rows_prefix(namespace, batch)
    return ((row_key, parse_undo_row(value)) for row_key, value in reader.scan(prefix, after(prefix)))


def undo_keys(reader: Reader, namespace: int) -> Iterator[bytes]:
    """The keys of all undo rows, each of which can be read."""
    prefix = rows_prefix(namespace)
    for row_key, value in reader.scan(prefix, after(prefix)):
        parse_undo_row(value)
        yield row_key


def memory_before(ledger: Ledger, record_id: RecordId, row: ContentRow) -> MemoryBefore:
    """A memory that is stored, with all that goes when it is replaced."""
    state = ledger.get(state_key(ledger.namespace, row.created_at, record_id)) or b""
    edges = ledger.get(ledger.key(Table.EDGES, record_id)) or b""
    return MemoryBefore(ArchivedRow(row, state, edges, 0), False, _history(ledger, record_id))


def archived_before(ledger: Ledger, record_id: RecordId) -> MemoryBefore | None:
    """The same of one that decay has archived."""
    value = ledger.get(ledger.key(Table.ARCHIVED, record_id))
    if value is None:
        return None
    return MemoryBefore(parse_archived_row(value), True, _history(ledger, record_id))


def _history(ledger: Ledger, record_id: RecordId) -> tuple[bytes, ...]:
    prefix = ledger.key(Table.HISTORY, record_id)
    return tuple(value for _key, value in ledger.scan(prefix, after(prefix)))


def put_history(ledger: Ledger, record_id: RecordId, before: MemoryBefore) -> None:
    for value in before.history:
        version = pack_version(parse_content_row(value).version)
        ledger.put(ledger.key(Table.HISTORY, record_id, version), value)


def put_archived(ledger: Ledger, record_id: RecordId, before: MemoryBefore) -> None:
    """What decay had archived is in the archive again, and its edges are listed by their targets."""
    rows = before.rows
    ledger.put(ledger.key(Table.ARCHIVED, record_id), dump_row(rows))
    ledger.put(ledger.key(Table.ARCHIVED_BY_EXPIRY, pack_time(rows.kept_until), record_id), b"")
    for edge in parse_edges(rows.edges):
        ledger.put(ledger.key(Table.EDGES_BY_TARGET, edge.target_id, record_id), b"")


def keep(ledger: Ledger, batch: RecordId, kind: bytes, record_id: RecordId, row: UndoRow) -> int:
    """Note what an import does to a record, and return by how many bytes the batch grows.

    Of a record that comes twice the first note says what was before, and the last what is there now.
    """
    row_key = undo_key(ledger.namespace, batch, kind, record_id)
    kept = ledger.get(row_key)
    if kept is not None:
        row = replace(parse_undo_row(kept), stamp=row.stamp)
    value = dump_undo_row(row)
    ledger.put(row_key, value)
    return len(value) - len(kept) if kept is not None else len(row_key) + len(value)


def stamp_anew(ledger: Ledger, kind: bytes, record_id: RecordId, old: bytes, new: bytes) -> None:
    """The record is the same as it was imported, for all that an undo has to know."""
    for batch, _row in batches(ledger, ledger.namespace):
        row_key = undo_key(ledger.namespace, batch, kind, record_id)
        value = ledger.get(row_key)
        if value is not None and (row := parse_undo_row(value)).stamp == old:
            ledger.put(row_key, dump_undo_row(replace(row, stamp=new)))


@dataclass(frozen=True, slots=True)
class Meant:
    """What is forgotten: these records and, when it `is_wide`, what `memory` and `raw` (None: nothing) say yes to.

    `memory` is told, too, which entries that are only kept are meant.
    """

    record_ids: Collection[RecordId]
    is_wide: bool
    memory: Callable[[ArchivedRow, Collection[RecordId]], bool]
    raw: Callable[[RawRow], bool] | None


def forget_kept(ledger: Ledger, meant: Meant) -> None:
    """Leave nothing in the batches of what is forgotten. What they put stays as it is."""
    kept = batches(ledger, ledger.namespace)
    imaged = [batch for batch, row in kept if meant.is_wide and row.images]
    entries = {record_id for batch in imaged for record_id in _meant_entries(ledger, batch, meant.raw)}
    for batch, row in kept:
        if batch in imaged:
            _forget_meant(ledger, batch, meant, entries)
        else:
            _forget_named(ledger, batch, meant.record_ids, is_marked=bool(row.images))


def _forget_named(ledger: Ledger, batch: RecordId, record_ids: Collection[RecordId], *, is_marked: bool) -> None:
    """Without a look at all rows: the edges that lead there are left out by an undo, for their marks."""
    for record_id in record_ids:
        for kind in (MEMORY, RAW):
            row_key = undo_key(ledger.namespace, batch, kind, record_id)
            if ledger.get(row_key) is not None:
                ledger.delete(row_key)
        if is_marked:
            ledger.put(undo_key(ledger.namespace, batch, GONE, record_id), dump_undo_row(UndoRow(b"")))


def _meant_entries(
    ledger: Ledger, batch: RecordId, is_meant: Callable[[RawRow], bool] | None
) -> Iterator[RecordId]:
    if is_meant is None:
        return
    prefix = rows_prefix(ledger.namespace, batch) + RAW
    for row_key, value in ledger.scan(prefix, after(prefix)):
        row = parse_undo_row(value)
        if row.raw is not None and is_meant(row.raw):
            yield trailing_id(row_key)


def _forget_meant(ledger: Ledger, batch: RecordId, meant: Meant, entries: Collection[RecordId]) -> None:
    for row_key, row in undo_rows(ledger, ledger.namespace, batch):
        if kind_in(row_key) == GONE:
            continue
        if _is_meant(meant, entries, trailing_id(row_key), row):
            ledger.delete(row_key)
        elif (left := _without_edges(row, meant.record_ids)) is not row:
            ledger.put(row_key, dump_undo_row(left))


def _is_meant(meant: Meant, entries: Collection[RecordId], record_id: RecordId, row: UndoRow) -> bool:
    if record_id in meant.record_ids:
        return True
    if row.memory is not None:
        return meant.memory(row.memory.rows, entries)
    return row.raw is not None and meant.raw is not None and meant.raw(row.raw)


def _without_edges(row: UndoRow, targets: Collection[RecordId]) -> UndoRow:
    """`row` itself when nothing of it leads there."""
    if row.memory is None:
        return row
    edges = parse_edges(row.memory.rows.edges)
    left = tuple(edge for edge in edges if edge.target_id not in targets)
    if len(left) == len(edges):
        return row
    return replace(row, memory=replace(row.memory, rows=replace(row.memory.rows, edges=dump_edges(left))))


@dataclass(frozen=True, slots=True)
class DropBatch:
    """Drop a batch, and the first of its rows; answers whether there may be more of them."""

    namespace: int
    batch: RecordId

    def apply(self, ledger: Ledger) -> bool:
        if ledger.get(batch_key(self.namespace, self.batch)) is not None:
            ledger.delete(batch_key(self.namespace, self.batch))
        prefix = rows_prefix(self.namespace, self.batch)
        found = [row_key for row_key, _ in islice(ledger.scan(prefix, after(prefix)), DROPPED_ROWS)]
        for row_key in found:
            ledger.delete(row_key)
        return len(found) == DROPPED_ROWS


@dataclass(frozen=True, slots=True)
class DropOldest:
    """Drop, some rows at a time, the oldest batches that would be too many with one of `size_bytes` more.

    Rows without a batch go first, but for those of the one that is `under_way`. Answers whether there may be more
    to drop. `batches_max` 0 leaves none.
    """

    namespace: int
    size_bytes: int = 0
    batches_max: int = BATCHES_MAX - 1
    under_way: RecordId | None = None

    def apply(self, ledger: Ledger) -> bool:
        kept = batches(ledger, self.namespace)
        batch = self._without_row(ledger, {self.under_way, *(each for each, _row in kept)})
        if batch is None:
            batch = self._too_many(kept)
        if batch is not None:
            DropBatch(self.namespace, batch).apply(ledger)
        return batch is not None

    def _without_row(self, ledger: Ledger, known: Collection[RecordId | None]) -> RecordId | None:
        position, stop = rows_prefix(self.namespace), after(rows_prefix(self.namespace))
        while (first := next(ledger.scan(position, stop), None)) is not None:
            batch = batch_in(first[0])
            if batch not in known:
                return batch
            position = after(rows_prefix(self.namespace, batch))
        return None

    def _too_many(self, kept: list[tuple[RecordId, BatchRow]]) -> RecordId | None:
        size_bytes = self.size_bytes + sum(row.size_bytes for _batch, row in kept)
        if not kept or (len(kept) <= self.batches_max and size_bytes <= UNDO_BYTES_MAX):
            return None
        return kept[0][0]


def drop_steps(namespace: int) -> Steps[None]:
    """The steps by which nothing is kept any more."""
    while (yield DropOldest(namespace, batches_max=0)):
        pass


def record_at(reader: Reader | Ledger, namespace: int, kind: bytes, record_id: RecordId) -> bytes:
    """The stamp of what is stored; empty where there is nothing."""
    if kind == RAW:
        value = reader.get(key(namespace, Table.RAW, record_id))
        return b"" if value is None else raw_stamp(parse_raw_row(value))
    value = reader.get(key(namespace, Table.CONTENT, record_id))
    if value is not None:
        return memory_stamp(parse_content_row(value))
    value = reader.get(key(namespace, Table.ARCHIVED, record_id))
    return b"" if value is None else memory_stamp(parse_archived_row(value).content)
