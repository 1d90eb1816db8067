"""lifecycle.import: what of an archive is stored, and the steps of the one transaction in which it is.

An import of a hundred thousand memories is as atomic as that of one: its steps are a series (`series`), so that
nobody sees half of it, and a crash leaves all or nothing. A record that is stored already is decided upon by the
conflict resolution; one that is replaced keeps the edges of others to it, and loses its earlier versions. What was
there before is kept in the same transaction (`undo_rows`), so that the import can be taken back (`undo_import`).

Source: the durable formats' specification, "CMA archives".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from msgspec import UNSET

from cerememory.domain.audit_chain import AuditDraft
from cerememory.protocol.replies import Imported as Reply
from cerememory.protocol.requests import ConflictResolution, ImportStrategy
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.imported import PIECE_BYTES, PIECE_RECORDS, Imported
from cerememory.storage.keys import Table, after, key, trailing_id
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.mutations import FindAnswer, NewRaw, Stored, axes_of, put_memory, put_raw
from cerememory.storage.prepared import NewRecord
from cerememory.storage.removal import remove_archived_rows, remove_raw, remove_rows
from cerememory.storage.rows import (
    ContentRow,
    Counters,
    RawRow,
    parse_content_row,
    parse_raw_row,
)
from cerememory.storage.series import Steps
from cerememory.storage.undo_rows import (
    MEMORY,
    RAW,
    UNDO_BYTES_MAX,
    BatchRow,
    DropBatch,
    DropOldest,
    HeldImport,
    UndoRow,
    archived_before,
    batch_key,
    dump_batch_row,
    keep,
    memory_before,
    memory_stamp,
    raw_stamp,
)
from cerememory.storage.vectors import Space, VectorChange

CLEARED_ROWS = 2_000  # by one step
CURATED_TABLES = (
    Table.CONTENT,
    Table.STATE,
    Table.ARCHIVED,
    Table.ARCHIVED_BY_EXPIRY,
    Table.LIKENESS,
    Table.HISTORY,
    Table.EDGES,
    Table.EDGES_BY_TARGET,
    Table.GROUPS,
    Table.VECTORS,
)
RAW_TABLES = (Table.RAW, Table.RAW_BY_SESSION, Table.RAW_BY_TIME, Table.RAW_PENDING)
KEPT_TABLES = {Table.CONTENT: MEMORY, Table.ARCHIVED: MEMORY, Table.RAW: RAW}


class Tally(NamedTuple):
    """What became of the records of an archive: `kept` are those whose stored form stayed.

    `undo_bytes` is the size of what is kept to take that back, `undo_images` of how many records it has what they
    were before.
    """

    added: int = 0
    replaced: int = 0
    kept: int = 0
    undo_bytes: int = 0
    undo_images: int = 0

    @property
    def imported(self) -> int:
        return self.added + self.replaced

    def plus(self, other: Tally) -> Tally:
        return Tally(*map(sum, zip(self, other, strict=True)))


class Terms(NamedTuple):
    """On which terms an archive is imported; `has_raw`: it holds the raw journal, too."""

    archive_id: str
    strategy: ImportStrategy
    resolution: ConflictResolution
    has_raw: bool

    @property
    def cleared(self) -> tuple[Table, ...]:
        """The tables that make room first; the raw journal only for another one."""
        if self.strategy is ImportStrategy.MERGE:
            return ()
        return CURATED_TABLES + RAW_TABLES if self.has_raw else CURATED_TABLES


def is_taken(resolution: ConflictResolution, stored_at: int, archived_at: int) -> bool:
    """Whether an archived record replaces a stored one, by when each was updated."""
    if resolution is ConflictResolution.KEEP_NEWER:
        return archived_at > stored_at
    return resolution is ConflictResolution.KEEP_IMPORTED


def import_steps(
    namespace: int,
    terms: Terms,
    pieces: Iterable[tuple[Imported, ...]],
    held: tuple[HeldImport, ...],
    now: int,
    last: Callable[[Mutation[Stored[Reply]]], Mutation[Stored[Reply]]],
    batch: RecordId,
) -> Steps[Stored[Reply]]:
    """The steps of an import, the last of which writes its audit entry and answers.

    `held` of the archive's records go into working memory. `last` may wrap the last mutation, as `Once` does.
    `batch` is the id under which the import can be taken back. A retry that has waited for the first try is
    answered before anything is cleared.
    """
    answer: Stored[Reply] | None = yield FindAnswer(last(NoteImport(namespace, terms, 0, (), now)))
    if answer is not None:
        return answer
    keeping = _Keeping(namespace, batch)
    for table in terms.cleared:
        yield from keeping.rows_of(table)
    for table in terms.cleared:
        while (yield ClearRows(namespace, table)) == CLEARED_ROWS:
            pass
    tally = Tally()
    for piece in pieces:
        done: Tally = yield ImportPiece(namespace, piece, terms.resolution, keeping.batch)
        tally = tally.plus(done)
        yield from keeping.grow(done.undo_bytes, done.undo_images)
    kept = keeping.batch if keeping.size_bytes or held else None
    while kept is not None and (yield DropOldest(namespace, keeping.size_bytes, under_way=kept)):
        pass
    batch_row = BatchRow(terms.archive_id, now, keeping.size_bytes, keeping.images, held)
    stored: Stored[Reply] = yield last(NoteImport(namespace, terms, tally.imported, held, now, kept, batch_row))
    return stored


class _Keeping:
    """What one run of the steps keeps; `batch` is None once that is too much, and then nothing is."""

    def __init__(self, namespace: int, batch: RecordId) -> None:
        self._namespace = namespace
        self.batch: RecordId | None = batch
        self.size_bytes = self.images = 0

    def rows_of(self, table: Table) -> Generator[Mutation[Any], Any, None]:
        """Keep all that a table has: it is to be cleared. Most tables follow from others."""
        kind = KEPT_TABLES.get(table)
        position: bytes | None = None if kind is None else key(self._namespace, table)
        while position is not None and self.batch is not None:
            kept: Kept = yield KeepRows(self._namespace, self.batch, table, position)
            position = kept.position
            yield from self.grow(kept.undo_bytes, kept.undo_images)

    def grow(self, size_bytes: int, images: int) -> Generator[Mutation[Any], Any, None]:
        """Give up, and drop what was kept, when that is too much."""
        self.size_bytes += size_bytes
        self.images += images
        if self.batch is None or self.size_bytes <= UNDO_BYTES_MAX:
            return
        while (yield DropBatch(self._namespace, self.batch)):
            pass
        self.batch, self.size_bytes, self.images = None, 0, 0


class Kept(NamedTuple):
    """Where to go on, None at the end; and what was kept."""

    position: bytes | None
    undo_bytes: int
    undo_images: int


@dataclass(frozen=True, slots=True)
class KeepRows:
    """Keep the next records of a table that an import clears, from `position` on."""

    namespace: int
    batch: RecordId
    table: Table
    position: bytes

    def apply(self, ledger: Ledger) -> Kept:
        undo_bytes = images = 0
        for row_key, value in ledger.scan(self.position, after(ledger.key(self.table))):
            if images == PIECE_RECORDS or undo_bytes >= PIECE_BYTES:
                return Kept(row_key, undo_bytes, images)
            undo_bytes += self._keep(ledger, trailing_id(row_key), value)
            images += 1
        return Kept(None, undo_bytes, images)

    def _keep(self, ledger: Ledger, record_id: RecordId, value: bytes) -> int:
        match self.table:
            case Table.CONTENT:
                row = UndoRow(b"", memory_before(ledger, record_id, parse_content_row(value)))
            case Table.ARCHIVED:
                row = UndoRow(b"", archived_before(ledger, record_id))
            case _:
                row = UndoRow(b"", raw=parse_raw_row(value))
        return keep(ledger, self.batch, KEPT_TABLES[self.table], record_id, row)


@dataclass(frozen=True, slots=True)
class ClearRows:
    """Delete the first rows of a table of the namespace, all of which are to go: so nothing of it is counted.

    Answers how many there were, `CLEARED_ROWS` at most.
    """

    namespace: int
    table: Table

    def apply(self, ledger: Ledger) -> int:
        prefix = ledger.key(self.table)
        rows = ledger.scan(prefix + b"\0", after(prefix))  # what a table says of itself stays
        found = [row_key for row_key, _value in islice(rows, CLEARED_ROWS)]
        for row_key in found:
            ledger.delete(row_key)
            if self.table in (Table.CONTENT, Table.RAW):
                ledger.unindex(trailing_id(row_key))
        if found:
            _clear_count(ledger.counters(), self.table)
        return len(found)


def _clear_count(counters: Counters, table: Table) -> None:
    match table:
        case Table.CONTENT:
            nothing = Counters.empty()
            counters.records, counters.fidelity_sums = nothing.records, nothing.fidelity_sums
        case Table.EDGES:
            counters.associations = 0
        case Table.VECTORS:
            counters.vectors = 0
        case Table.RAW:
            counters.raw_records = 0
        case Table.RAW_PENDING:
            counters.raw_pending_dream = 0


@dataclass(frozen=True, slots=True)
class ImportPiece:
    """Store those of `records` that are new, or win against the stored ones.

    What was there before is kept under `batch`; None: it isn't.
    """

    namespace: int
    records: tuple[Imported, ...]
    resolution: ConflictResolution
    batch: RecordId | None = None

    def apply(self, ledger: Ledger) -> Tally:
        tally = Tally()
        for record in self.records:
            became = self._memory(ledger, record) if isinstance(record, NewRecord) else self._raw(ledger, record)
            tally = tally.plus(became)
        return tally

    def _memory(self, ledger: Ledger, record: NewRecord) -> Tally:
        record_id, stamp = record.record_id, memory_stamp(record.row)
        value = ledger.get(ledger.key(Table.CONTENT, record_id))
        if value is None:
            kept = self._keep(
                ledger, MEMORY, record_id, lambda: UndoRow(stamp, archived_before(ledger, record_id))
            )
            remove_archived_rows(ledger, record_id)  # what decay took away comes back from elsewhere
            put_memory(ledger, record)
            return kept._replace(added=1)
        row = parse_content_row(value)
        if not is_taken(self.resolution, row.updated_at, record.row.updated_at):
            return Tally(kept=1)
        kept = self._keep(ledger, MEMORY, record_id, lambda: UndoRow(stamp, memory_before(ledger, record_id, row)))
        replace_memory(ledger, record, row)
        return kept._replace(replaced=1)

    def _raw(self, ledger: Ledger, record: NewRaw) -> Tally:
        record_id, stamp = record.record_id, raw_stamp(record.row)
        value = ledger.get(ledger.key(Table.RAW, record_id))
        if value is None:
            kept = self._keep(ledger, RAW, record_id, lambda: UndoRow(stamp))
            put_raw(ledger, record)
            return kept._replace(added=1)
        row = parse_raw_row(value)
        if not is_taken(self.resolution, row.updated_at, record.row.updated_at):
            return Tally(kept=1)
        kept = self._keep(ledger, RAW, record_id, lambda: UndoRow(stamp, raw=row))
        remove_raw(ledger, record_id)
        put_raw(ledger, record)
        return kept._replace(replaced=1)

    def _keep(self, ledger: Ledger, kind: bytes, record_id: RecordId, before: Callable[[], UndoRow]) -> Tally:
        if self.batch is None:
            return Tally()
        row = before()
        undo_bytes = keep(ledger, self.batch, kind, record_id, row)
        return Tally(undo_bytes=undo_bytes, undo_images=not row.is_new)


def replace_memory(ledger: Ledger, record: NewRecord, before: ContentRow) -> None:
    """Put `record` in the place of a stored memory, whose history goes; the edges of others to it stay."""
    remove_rows(ledger, record.record_id, before)
    put_memory(ledger, record)
    if (record.row.store_code, record.row.created_at) != (before.store_code, before.created_at):
        ledger.relinked(record.record_id)
    _tell_of_lost_vectors(ledger, record, before)


def _tell_of_lost_vectors(ledger: Ledger, record: NewRecord, before: ContentRow) -> None:
    """A vector that the record had and has no more; another one of it takes its place by itself."""
    for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes_of(record.emotion))):
        if values is None:
            ledger.vector(
                VectorChange(record.namespace, space, record.record_id, before.store_code, before.created_at, None)
            )


@dataclass(frozen=True, slots=True)
class NoteImport:
    """The audit entry of an import of `imported` records and of `held` ones, and its answer.

    `batch` is what it is taken back by, None when nothing is kept for that; `batch_row` says what is.
    The times of what came in may lie before the last consolidation: the next one looks at all.
    """

    namespace: int
    terms: Terms
    imported: int
    held: tuple[HeldImport, ...]
    now: int
    batch: RecordId | None = None
    batch_row: BatchRow | None = None

    def apply(self, ledger: Ledger) -> Stored[Reply]:
        imported = self.imported + len(self.held)
        summary = {
            "archive_id": self.terms.archive_id,
            "strategy": self.terms.strategy.value,
            "conflict_resolution": self.terms.resolution.value,
            "imported": imported,
        }
        ledger.audit(AuditDraft(self.now, "lifecycle.import", (), (), summary))
        if imported:
            ledger.counters().last_consolidated_at = None
        if self.batch is not None and self.batch_row is not None:
            ledger.put(batch_key(self.namespace, self.batch), dump_batch_row(self.batch_row))
        return Stored(Reply(records_imported=imported, batch_id=self.batch or UNSET), ledger.sequence)


def planned(reader: Reader, namespace: int, records: tuple[Imported, ...], terms: Terms) -> Tally:
    """What `ImportPiece` would answer for records of which no two are the same."""
    tally = Tally()
    for record in records:
        tally = tally.plus(_planned(reader, namespace, record, terms))
    return tally


def _planned(reader: Reader, namespace: int, record: Imported, terms: Terms) -> Tally:
    table = Table.CONTENT if isinstance(record, NewRecord) else Table.RAW
    value = None if table in terms.cleared else reader.get(key(namespace, table, record.record_id))
    if value is None:
        return Tally(added=1)
    stored: ContentRow | RawRow = parse_content_row(value) if table is Table.CONTENT else parse_raw_row(value)
    is_replaced = is_taken(terms.resolution, stored.updated_at, record.row.updated_at)
    return Tally(replaced=1) if is_replaced else Tally(kept=1)
