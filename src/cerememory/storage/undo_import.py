"""lifecycle.undo_import: an import taken back, in one transaction, by what `undo_rows` has of it.

What the import added goes; what it replaced or deleted comes back as it was, with edges, earlier versions and the
numbers by which it fades. Edges of others stay, as they do in an import: they may lead to what isn't there.

What somebody changed since is never touched: such an undo is refused, or leaves it as it is when asked to.
What was forgotten since doesn't come back, for nothing is kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from cerememory.domain.audit_chain import AuditDraft
from cerememory.errors import ImportConflict, RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import EmotionVector, MemoryContent
from cerememory.protocol.replies import ImportUndone
from cerememory.protocol.requests import UndoImport
from cerememory.protocol.values import RecordId, format_id, format_timestamp
from cerememory.storage.archive_mutations import replace_memory
from cerememory.storage.contract import Reader
from cerememory.storage.keys import Table, after, digest, trailing_id
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.mutations import FindAnswer, NewRaw, Stored, embedding_of, put_memory, put_raw
from cerememory.storage.prepared import NewRecord
from cerememory.storage.removal import remove_archived_rows, remove_raw, remove_rows
from cerememory.storage.rows import dump_edges, parse_content_row, parse_edges, parse_state_row
from cerememory.storage.series import Steps
from cerememory.storage.undo_rows import (
    GONE,
    RAW,
    BatchRow,
    MemoryBefore,
    UndoRow,
    batch_key,
    batches,
    kind_in,
    parse_batch_row,
    parse_undo_row,
    put_archived,
    put_history,
    record_at,
    rows_prefix,
    undo_key,
)

PIECE_ROWS, PIECE_BYTES = 500, 1_048_576
LEFT_MAX = 100  # how many of those that stay an answer names
NAMED_MAX = 10  # and an error
NO_BATCH = BatchRow("", 0, 0, 0)

Last = Callable[[Mutation[Stored[ImportUndone]]], Mutation[Stored[ImportUndone]]]
"""Wraps the last mutation, as `Once` does."""


class Fate(Enum):
    """What an undo makes of a record."""

    REMOVED = auto()
    RESTORED = auto()
    LEFT = auto()  # changed since
    NOTHING = auto()  # it is gone anyhow


class Undone(NamedTuple):
    """What has become of the records of a batch so far."""

    removed: int = 0
    restored: int = 0
    left: int = 0
    left_ids: tuple[RecordId, ...] = ()

    def plus(self, fate: Fate, record_id: RecordId) -> Undone:
        match fate:
            case Fate.REMOVED:
                return self._replace(removed=self.removed + 1)
            case Fate.RESTORED:
                return self._replace(restored=self.restored + 1)
            case Fate.LEFT:
                return self._replace(left=self.left + 1, left_ids=(*self.left_ids, record_id)[:LEFT_MAX])
        return self

    def joined(self, other: Undone) -> Undone:
        left_ids = (self.left_ids + other.left_ids)[:LEFT_MAX]
        return Undone(
            self.removed + other.removed, self.restored + other.restored, self.left + other.left, left_ids
        )

    def reply(self, batch_id: RecordId, batch: BatchRow) -> ImportUndone:
        return ImportUndone(
            batch_id=batch_id,
            archive_id=batch.archive_id,
            records_removed=self.removed,
            records_restored=self.restored,
            records_left=self.left,
            left_ids=self.left_ids,
        )


class Looked(NamedTuple):
    """What would become of a piece of a batch, and where the next one begins; None at the end."""

    undone: Undone
    position: bytes | None


def find_batch(reader: Reader | Ledger, namespace: int, batch_id: RecordId) -> BatchRow:
    """Raises `RecordNotFound`, which names those that there are."""
    value = reader.get(batch_key(namespace, batch_id))
    if value is not None:
        return parse_batch_row(value)
    known = [
        f"{format_id(each)} ({row.archive_id}, {format_timestamp(row.at)})"
        for each, row in batches(reader, namespace)
    ]
    there_are = f"kept are {', '.join(known)}" if known else "none is kept"
    raise RecordNotFound(f"batch_id: {format_id(batch_id)} is no import that can be undone; {there_are}")


def check_left(undone: Undone, request: UndoImport) -> None:
    """Raises `ImportConflict` when something was changed since, and isn't to be left as it is."""
    if not undone.left or request.keep_changed:
        return
    named = [format_id(record_id) for record_id in undone.left_ids[:NAMED_MAX]]
    more = f" and {undone.left - len(named)} more" if undone.left > len(named) else ""
    raise ImportConflict(
        f"{undone.left} record(s) were changed since the import: {', '.join(named)}{more};"
        " with keep_changed they stay as they are, and all else is undone",
        details={"records_left": undone.left, "left_ids": [format_id(each) for each in undone.left_ids]},
    )


def look_at(reader: Reader | Ledger, namespace: int, batch_id: RecordId, position: bytes | None) -> Looked:
    """What would become of the next records of a batch."""
    prefix, undone, later = rows_prefix(namespace, batch_id), Undone(), _later_than(reader, namespace, batch_id)
    for number, (row_key, value) in enumerate(reader.scan(position or prefix, after(prefix))):
        if number == PIECE_ROWS:
            return Looked(undone, row_key)
        record_id = trailing_id(row_key)
        undone = undone.plus(_fate(reader, namespace, row_key, parse_undo_row(value), later), record_id)
    return Looked(undone, None)


def look_at_held(batch: BatchRow, held: Mapping[RecordId, int]) -> Undone:
    """The same of what went into working memory; `held` is what that has now, with `updated_at`."""
    undone = Undone()
    for each in batch.held:
        record_id = RecordId(each.record_id)
        if record_id in held:
            is_same = held[record_id] == each.updated_at
            undone = undone.plus(Fate.REMOVED if is_same else Fate.LEFT, record_id)
    return undone


def _later_than(reader: Reader | Ledger, namespace: int, batch_id: RecordId) -> list[RecordId]:
    """The imports that came after that one."""
    return [each for each, _row in batches(reader, namespace) if each > batch_id]


def _fate(
    reader: Reader | Ledger, namespace: int, row_key: bytes, row: UndoRow, later: Collection[RecordId]
) -> Fate:
    """A record that one of the `later` imports has changed may have the stamp of this one all the same: archives
    bring version and time with them.
    """
    kind, record_id = kind_in(row_key), trailing_id(row_key)
    if kind == GONE:
        return Fate.NOTHING
    stamp = record_at(reader, namespace, kind, record_id)
    came_again = (reader.get(undo_key(namespace, batch, kind, record_id)) is not None for batch in later)
    if stamp == row.stamp and not any(came_again):
        return Fate.REMOVED if row.is_new else Fate.RESTORED
    return Fate.NOTHING if row.is_new and not stamp else Fate.LEFT


def undo_steps(
    namespace: int, request: UndoImport, held: Mapping[RecordId, int], now: int, last: Last
) -> Steps[Stored[ImportUndone]]:
    """The steps of an undo: nothing is changed before all was looked at.

    A retry is answered before its batch is looked for, which the first try has taken away.
    """
    nothing = NoteUndo(namespace, request.batch_id, NO_BATCH, Undone(), held, now)
    kept: Stored[ImportUndone] | None = yield FindAnswer(last(nothing))
    if kept is not None:
        return kept
    batch: BatchRow = yield FindBatch(namespace, request.batch_id)
    foreseen = look_at_held(batch, held)
    position: bytes | None = rows_prefix(namespace, request.batch_id)
    while position is not None:
        looked: Looked = yield LookAt(namespace, request.batch_id, position)
        foreseen, position = foreseen.joined(looked.undone), looked.position
    check_left(foreseen, request)
    while (yield UndoPiece(namespace, request.batch_id)):
        pass
    stored: Stored[ImportUndone] = yield last(NoteUndo(namespace, request.batch_id, batch, foreseen, held, now))
    return stored


@dataclass(frozen=True, slots=True)
class FindBatch:
    namespace: int
    batch_id: RecordId

    def apply(self, ledger: Ledger) -> BatchRow:
        return find_batch(ledger, self.namespace, self.batch_id)


@dataclass(frozen=True, slots=True)
class LookAt:
    namespace: int
    batch_id: RecordId
    position: bytes

    def apply(self, ledger: Ledger) -> Looked:
        return look_at(ledger, self.namespace, self.batch_id, self.position)


@dataclass(frozen=True, slots=True)
class UndoPiece:
    """Undo what the first rows of a batch say, and drop them; answers whether there may be more."""

    namespace: int
    batch_id: RecordId

    def apply(self, ledger: Ledger) -> bool:
        later, found = _later_than(ledger, self.namespace, self.batch_id), list(self._first_rows(ledger))
        for row_key, value in found:
            row = parse_undo_row(value)
            if _fate(ledger, self.namespace, row_key, row, later) in (Fate.REMOVED, Fate.RESTORED):
                self._undo(ledger, kind_in(row_key), trailing_id(row_key), row)
            ledger.delete(row_key)
        return bool(found)

    def _first_rows(self, ledger: Ledger) -> Iterator[tuple[bytes, bytes]]:
        """At most `PIECE_ROWS`, or about `PIECE_BYTES`."""
        prefix, size_bytes = rows_prefix(self.namespace, self.batch_id), 0
        for row_key, value in islice(ledger.scan(prefix, after(prefix)), PIECE_ROWS):
            yield row_key, value
            size_bytes += len(value)
            if size_bytes >= PIECE_BYTES:
                return

    def _undo(self, ledger: Ledger, kind: bytes, record_id: RecordId, row: UndoRow) -> None:
        if kind == RAW:
            _undo_raw(ledger, record_id, row)
        else:
            _undo_memory(ledger, record_id, row.memory and self._without_edges_to_gone(ledger, row.memory))

    def _without_edges_to_gone(self, ledger: Ledger, before: MemoryBefore) -> MemoryBefore:
        edges = parse_edges(before.rows.edges)
        left = [edge for edge in edges if not self._is_gone(ledger, edge.target_id)]
        return replace(before, rows=replace(before.rows, edges=dump_edges(tuple(left))))

    def _is_gone(self, ledger: Ledger, record_id: RecordId) -> bool:
        """Their marks come behind all memories of the batch."""
        return ledger.get(undo_key(self.namespace, self.batch_id, GONE, record_id)) is not None


def _undo_raw(ledger: Ledger, record_id: RecordId, row: UndoRow) -> None:
    remove_raw(ledger, record_id)
    if row.raw is not None:  # how much text there is doesn't matter: the index makes its document anew
        put_raw(ledger, NewRaw(record_id, row.raw, True, digest(row.raw.session_id)))


def _undo_memory(ledger: Ledger, record_id: RecordId, before: MemoryBefore | None) -> None:
    value = ledger.get(ledger.key(Table.CONTENT, record_id))
    current = None if value is None else parse_content_row(value)
    remove_archived_rows(ledger, record_id)
    if before is not None and not before.is_archived:
        memory = _memory(ledger.namespace, record_id, before)
        if current is None:
            put_memory(ledger, memory)
        else:
            replace_memory(ledger, memory, current)
    elif current is not None:
        remove_rows(ledger, record_id, current)
        ledger.unindex(record_id)
    if before is not None:
        put_history(ledger, record_id, before)
        if before.is_archived:
            put_archived(ledger, record_id, before)


def _memory(namespace: int, record_id: RecordId, before: MemoryBefore) -> NewRecord:
    row = before.rows.content
    return NewRecord(
        namespace=namespace,
        record_id=record_id,
        row=row,
        state=parse_state_row(before.rows.state)[1],
        associations=parse_edges(before.rows.edges),
        embedding=embedding_of(codec.parse(row.content, MemoryContent)),
        emotion=codec.parse(row.emotion, EmotionVector) if row.emotion else None,
    )


@dataclass(frozen=True, slots=True)
class NoteUndo:
    """The end of a batch: its audit entry, and its answer. What it put into working memory goes, too."""

    namespace: int
    batch_id: RecordId
    batch: BatchRow
    undone: Undone
    held: Mapping[RecordId, int]
    now: int

    def apply(self, ledger: Ledger) -> Stored[ImportUndone]:
        ledger.delete(batch_key(self.namespace, self.batch_id))
        for each in self.batch.held:
            if self.held.get(RecordId(each.record_id)) == each.updated_at:
                ledger.drop(RecordId(each.record_id))
        ledger.counters().last_consolidated_at = None  # what came back may be older than that
        ledger.audit(AuditDraft(self.now, "lifecycle.undo_import", (), (), self._summary()))
        return Stored(self.undone.reply(self.batch_id, self.batch), ledger.sequence)

    def _summary(self) -> dict[str, str | int]:
        return {
            "archive_id": self.batch.archive_id,
            "batch_id": format_id(self.batch_id),
            "removed": self.undone.removed,
            "restored": self.undone.restored,
            "left": self.undone.left,
        }
