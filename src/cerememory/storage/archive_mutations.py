"""lifecycle.import: what of an archive is stored, and the steps of the one transaction in which it is.

An import of a hundred thousand memories is as atomic as that of one: its steps are a series (`series`), so that
nobody sees half of it, and a crash leaves all or nothing. A record that is stored already is decided upon by the
conflict resolution; one that is replaced keeps the edges of others to it, and loses its earlier versions.

Source: the durable formats' specification, "CMA archives".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from cerememory.domain.audit_chain import AuditDraft
from cerememory.protocol.replies import Imported as Reply
from cerememory.protocol.requests import ConflictResolution, ImportStrategy
from cerememory.storage.contract import Reader
from cerememory.storage.imported import Imported
from cerememory.storage.keys import Table, after, key, trailing_id
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.mutations import NewRaw, Stored, axes_of, put_memory, put_raw
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


class Tally(NamedTuple):
    """What became of the records of an archive: `kept` are those whose stored form stayed."""

    added: int = 0
    replaced: int = 0
    kept: int = 0

    @property
    def imported(self) -> int:
        return self.added + self.replaced

    def plus(self, other: Tally) -> Tally:
        return Tally(self.added + other.added, self.replaced + other.replaced, self.kept + other.kept)


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
    held: int,
    now: int,
    last: Callable[[Mutation[Stored[Reply]]], Mutation[Stored[Reply]]],
) -> Steps[Stored[Reply]]:
    """The steps of an import, the last of which writes its audit entry and answers.

    `held` of the archive's records go into working memory. `last` may wrap the last mutation, as `Once` does.
    """
    for table in terms.cleared:
        while (yield ClearRows(namespace, table)) == CLEARED_ROWS:
            pass
    tally = Tally()
    for piece in pieces:
        tally = tally.plus((yield ImportPiece(namespace, piece, terms.resolution)))
    stored: Stored[Reply] = yield last(NoteImport(namespace, terms, tally.imported + held, now))
    return stored


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
    """Store those of `records` that are new, or win against the stored ones."""

    namespace: int
    records: tuple[Imported, ...]
    resolution: ConflictResolution

    def apply(self, ledger: Ledger) -> Tally:
        tally = Tally()
        for record in self.records:
            became = self._memory(ledger, record) if isinstance(record, NewRecord) else self._raw(ledger, record)
            tally = tally.plus(became)
        return tally

    def _memory(self, ledger: Ledger, record: NewRecord) -> Tally:
        value = ledger.get(ledger.key(Table.CONTENT, record.record_id))
        if value is None:
            remove_archived_rows(ledger, record.record_id)  # what decay took away comes back from elsewhere
            put_memory(ledger, record)
            return Tally(added=1)
        row = parse_content_row(value)
        if not is_taken(self.resolution, row.updated_at, record.row.updated_at):
            return Tally(kept=1)
        remove_rows(ledger, record.record_id, row)
        put_memory(ledger, record)
        _tell_of_lost_vectors(ledger, record, row)
        return Tally(replaced=1)

    def _raw(self, ledger: Ledger, record: NewRaw) -> Tally:
        value = ledger.get(ledger.key(Table.RAW, record.record_id))
        if value is None:
            put_raw(ledger, record)
            return Tally(added=1)
        if not is_taken(self.resolution, parse_raw_row(value).updated_at, record.row.updated_at):
            return Tally(kept=1)
        remove_raw(ledger, record.record_id)
        put_raw(ledger, record)
        return Tally(replaced=1)


def _tell_of_lost_vectors(ledger: Ledger, record: NewRecord, before: ContentRow) -> None:
    """A vector that the record had and has no more; another one of it takes its place by itself."""
    for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes_of(record.emotion))):
        if values is None:
            ledger.vector(
                VectorChange(record.namespace, space, record.record_id, before.store_code, before.created_at, None)
            )


@dataclass(frozen=True, slots=True)
class NoteImport:
    """The audit entry of an import of `imported` records, and its answer.

    The times of what came in may lie before the last consolidation: the next one looks at all.
    """

    namespace: int
    terms: Terms
    imported: int
    now: int

    def apply(self, ledger: Ledger) -> Stored[Reply]:
        summary = {
            "archive_id": self.terms.archive_id,
            "strategy": self.terms.strategy.value,
            "conflict_resolution": self.terms.resolution.value,
            "imported": self.imported,
        }
        ledger.audit(AuditDraft(self.now, "lifecycle.import", (), (), summary))
        if self.imported:
            ledger.counters().last_consolidated_at = None
        return Stored(Reply(records_imported=self.imported), ledger.sequence)


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
