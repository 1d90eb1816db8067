"""lifecycle.redact: secrets taken out of what the raw journal has, by the recorder's rules (`domain.redaction`).

A scan goes through four parts, piece by piece: memories that were dreamt of entries, such memories in decay's
archive, what is kept of both and of entries to undo imports, and the entries. A dream tells their words in other
places, where nothing says that one was a secret; so memories come first, and are asked for the words of secrets
that their entries still have, and for those that they tell themselves. What a dream or a consolidation makes while
a scan goes on may be in a part that the scan has behind it: an entry that is written anew takes the memories along
that it became by then, and a memory its copies.

A piece is looked at outside of any transaction; what was found in it is written in one, and read anew there. So a
scan can be broken off, and gone on with from its cursor, and a second one finds nothing.

Ids, times, versions and order stay: it is no edit. An embedding of a text that held a secret goes with it. What
was replaced is in free pages of the store, and in the index's segments, until the next compaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from msgspec.structs import replace

from cerememory.domain.audit_chain import AuditDraft, bounded_ids
from cerememory.domain.derivation import raw_ids_of, semantic_ids_of
from cerememory.domain.redaction import NOTHING_KNOWN, Findings
from cerememory.errors import ValidationFailed
from cerememory.protocol import codec
from cerememory.protocol.records import MemoryContent
from cerememory.protocol.replies import Redacted
from cerememory.protocol.requests import Redact
from cerememory.protocol.values import RecordId
from cerememory.storage.contract import Reader
from cerememory.storage.groups import change_group
from cerememory.storage.keys import Table, after, key, trailing_id
from cerememory.storage.ledger import Ledger
from cerememory.storage.likenesses import drop_likeness, note_likeness
from cerememory.storage.mutations import Stored, embedding_of
from cerememory.storage.redacted_rows import redacted, secrets_of
from cerememory.storage.rows import (
    ArchivedRow,
    ContentRow,
    RawRow,
    dump_row,
    parse_archived_row,
    parse_content_row,
    parse_ids,
    parse_raw_row,
)
from cerememory.storage.undo_rows import (
    RAW,
    MemoryBefore,
    UndoRow,
    batch_in,
    dump_undo_row,
    parse_undo_row,
    raw_stamp,
    rows_prefix,
    stamp_anew,
    undo_key,
)
from cerememory.storage.vectors import Space, VectorChange, dump_vector, vector_key

PIECE_ROWS = 500
PIECE_BYTES = 1_048_576
PARTS = (Table.CONTENT, Table.ARCHIVED, Table.UNDO, Table.RAW)
OPERATION = "lifecycle.redact"


class Position(NamedTuple):
    """The part of a scan, and the first key that is to be looked at in it."""

    part: Table
    start: bytes

    @classmethod
    def of(cls, namespace: int, cursor: str | None) -> Position:
        """Raises `ValidationFailed` for a cursor that no answer had."""
        if cursor is None:
            return cls(PARTS[0], _prefix(namespace, PARTS[0]))
        number, _, behind = cursor.partition(".")
        try:
            part = PARTS[("0", "1", "2", "3").index(number)]
            return cls(part, _prefix(namespace, part) + bytes.fromhex(behind))
        except ValueError:
            raise ValidationFailed(f"cursor: expected the next_cursor of an answer, got {cursor[:64]!r}") from None

    def cursor(self, namespace: int) -> str:
        behind = self.start[len(_prefix(namespace, self.part)) :]
        return f"{PARTS.index(self.part)}.{behind.hex()}"

    def next_part(self, namespace: int) -> Position | None:
        number = PARTS.index(self.part) + 1
        return None if number == len(PARTS) else Position(PARTS[number], _prefix(namespace, PARTS[number]))


def _prefix(namespace: int, part: Table) -> bytes:
    return rows_prefix(namespace) if part is Table.UNDO else key(namespace, part)


class Hit(NamedTuple):
    """A row in which something was found; `known` are words of secrets that it may tell."""

    row_key: bytes
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was looked at: the `hits` to be written anew, the `secrets` in them by kind, and `dreamt_ids` of the
    memories that have some and are left, as are all of them unless the scan goes on `with_dreamt`.
    """

    part: Table
    scanned: int
    hits: tuple[Hit, ...]
    dreamt_ids: tuple[RecordId, ...]
    secrets: Mapping[str, int]
    next_cursor: str | None
    with_dreamt: bool

    def reply(
        self, redacted: int, secrets: Mapping[str, int], became: int = 0, left: Iterable[RecordId] = ()
    ) -> Redacted:
        """`redacted` counts what is of the part, `became` the memories that were derived of that; `left` are those
        of them that are as they were.
        """
        is_of_memories = self.part in (Table.CONTENT, Table.ARCHIVED)
        return Redacted(
            records_scanned=self.scanned,
            entries_redacted=redacted if self.part is Table.RAW else 0,
            memories_redacted=became + (redacted if is_of_memories else 0),
            kept_redacted=redacted if self.part is Table.UNDO else 0,
            secrets={} if self.part is Table.UNDO else dict(sorted(secrets.items())),  # those are copies
            dreamt_ids=(*self.dreamt_ids, *left),
            next_cursor=self.next_cursor,
        )


NOTHING = Piece(PARTS[0], 0, (), (), {}, None, with_dreamt=False)


def look_at_piece(reader: Reader, namespace: int, request: Redact) -> Piece:
    """The next piece of a scan: `PIECE_ROWS` rows or about `PIECE_BYTES` at most, of one part."""
    position = Position.of(namespace, request.cursor)
    look = _Look(reader, namespace, position.part)
    hits: list[Hit] = []
    dreamt_ids: list[RecordId] = []
    secrets, scanned = Findings(), 0
    following = position.next_part(namespace)
    for row_key, value in reader.scan(position.start, after(_prefix(namespace, position.part))):
        if scanned == PIECE_ROWS or look.size_bytes >= PIECE_BYTES:
            following = Position(position.part, row_key)
            break
        scanned += 1
        found = look.at(row_key, value)
        if found.secrets and found.is_memory and not request.include_dreamt:
            dreamt_ids.append(trailing_id(row_key))
        elif found.secrets:
            hits.append(Hit(row_key, found.known))
            secrets.update(found.secrets)
    cursor = None if following is None else following.cursor(namespace)
    return Piece(
        part=position.part,
        scanned=scanned,
        hits=tuple(hits),
        dreamt_ids=tuple(dreamt_ids),
        secrets=secrets.kinds,
        next_cursor=cursor,
        with_dreamt=request.include_dreamt,
    )


class _Found(NamedTuple):
    secrets: Findings
    is_memory: bool
    known: frozenset[str] = NOTHING_KNOWN


class _Look:
    """Looks at the rows of one part; `size_bytes` is what it has read for that."""

    def __init__(self, reader: Reader, namespace: int, part: Table) -> None:
        self._reader = reader
        self._namespace = namespace
        self._part = part
        self.size_bytes = 0

    def at(self, row_key: bytes, value: bytes) -> _Found:
        self.size_bytes += len(value)
        match self._part:
            case Table.RAW:
                return _Found(secrets_of(parse_raw_row(value)), False)
            case Table.CONTENT:
                return self._memory(trailing_id(row_key), parse_content_row(value))
            case Table.ARCHIVED:
                return self._memory(trailing_id(row_key), parse_archived_row(value).content)
        return self._undo(row_key, parse_undo_row(value))

    def _memory(self, record_id: RecordId, row: ContentRow) -> _Found:
        def rows() -> Iterator[ContentRow]:
            versions = _versions(self._reader, self._namespace, record_id)
            return chain((row,), (parse_content_row(version) for _key, version in versions))

        secrets = Findings()
        if not any(map(_is_dreamt, rows())):
            return _Found(secrets, True)
        known = self._known([*rows()])
        for each in rows():
            redacted(each, secrets, known)
        return _Found(secrets, True, known)

    def _undo(self, row_key: bytes, row: UndoRow) -> _Found:
        secrets, known = Findings(), NOTHING_KNOWN
        if row.memory is not None:
            known = self._known([*_rows_before(row.memory)], batch_in(row_key))
        _redacted_undo(row, secrets, known)
        return _Found(secrets, row.memory is not None, known)

    def _known(self, rows: Sequence[ContentRow], batch: RecordId | None = None) -> frozenset[str]:
        """The words of the secrets in `rows` of a memory, in the entries of which they say that it was dreamt, and
        in those of them kept in `batch`.
        """
        secrets = secrets_of(*rows)
        for record_id in {record_id for row in rows for record_id in raw_ids_of(row.metadata)}:
            for entry in self._entries(record_id, batch):
                secrets.update(secrets_of(entry))
        return secrets.words()

    def _entries(self, record_id: RecordId, batch: RecordId | None) -> Iterator[RawRow]:
        value = self._reader.get(key(self._namespace, Table.RAW, record_id))
        if value is not None:
            self.size_bytes += len(value)
            yield parse_raw_row(value)
        kept = None if batch is None else self._reader.get(undo_key(self._namespace, batch, RAW, record_id))
        if kept is not None and (row := parse_undo_row(kept).raw) is not None:
            self.size_bytes += len(kept)
            yield row


def _is_dreamt(row: ContentRow) -> bool:
    """An edit may have taken the word for it; then an earlier version has it."""
    return bool(raw_ids_of(row.metadata))


def _versions(reader: Reader | Ledger, namespace: int, record_id: RecordId) -> Iterator[tuple[bytes, bytes]]:
    prefix = key(namespace, Table.HISTORY, record_id)
    return reader.scan(prefix, after(prefix))


def _redacted_undo(row: UndoRow, secrets: Findings, known: frozenset[str]) -> UndoRow:
    if row.raw is not None:
        raw = redacted(row.raw, secrets)
        return row if raw is row.raw else replace(row, raw=raw)
    if row.memory is None or not any(map(_is_dreamt, _rows_before(row.memory))):
        return row
    before = _redacted_before(row.memory, secrets, known)
    return row if before is row.memory else replace(row, memory=before)


def _rows_before(before: MemoryBefore) -> Iterator[ContentRow]:
    return chain((before.rows.content,), map(parse_content_row, before.history))


def _redacted_before(before: MemoryBefore, secrets: Findings, known: frozenset[str]) -> MemoryBefore:
    found = Findings()
    content = redacted(before.rows.content, found, known)
    history = tuple(dump_row(redacted(parse_content_row(value), found, known)) for value in before.history)
    secrets.update(found)
    return replace(before, rows=replace(before.rows, content=content), history=history) if found else before


@dataclass(slots=True)
class _Done:
    """What a transaction took out: `stores` are those of the records that had a secret, entries have none; `left`
    are memories that have one still.
    """

    secrets: Findings = field(default_factory=Findings)
    stores: dict[RecordId, str] = field(default_factory=dict)
    left: list[RecordId] = field(default_factory=list)

    def note(self, record_id: RecordId, store: str, found: Findings) -> None:
        self.secrets.update(found)
        if found:
            self.stores[record_id] = store


@dataclass(frozen=True, slots=True)
class RedactPiece:
    """Write what was found in `piece` anew, without its secrets; those of them that are there still."""

    namespace: int
    piece: Piece
    now: int

    def apply(self, ledger: Ledger) -> Stored[Redacted]:
        done, derived = _Done(), _Derived()
        for hit in self.piece.hits:
            value = ledger.get(hit.row_key)
            if value is not None:
                self._rewrite(ledger, hit, value, done, derived)
        of_part = len(done.stores)
        copies = self._follow(ledger, derived, done)
        self._follow(ledger, copies, done)
        reply = self.piece.reply(of_part, done.secrets.kinds, len(done.stores) - of_part, done.left)
        if not done.stores:
            return Stored(reply, ledger.read_from)
        ledger.audit(self._entry(done.stores, done.secrets))
        return Stored(reply, ledger.sequence)

    def _rewrite(self, ledger: Ledger, hit: Hit, value: bytes, done: _Done, derived: _Derived) -> None:
        found = Findings()
        record_id, store = trailing_id(hit.row_key), ""
        match self.piece.part:
            case Table.RAW:
                entry = parse_raw_row(value)
                _rewrite_entry(ledger, record_id, entry, found)
                derived.add(parse_ids(entry.derived) if found else (), found.words())
            case Table.CONTENT:
                row = parse_content_row(value)
                store = _rewrite_memory(ledger, record_id, row, found, hit.known)
                derived.add(semantic_ids_of(row.metadata), hit.known)
            case Table.ARCHIVED:
                archived = parse_archived_row(value)
                store = _rewrite_archived(ledger, record_id, archived, found, hit.known)
                derived.add(semantic_ids_of(archived.content.metadata), hit.known)
            case Table.UNDO:
                _rewrite_undo(ledger, hit, parse_undo_row(value), found)
        done.note(record_id, store, found)

    def _follow(self, ledger: Ledger, derived: _Derived, done: _Done) -> _Derived:
        """Rewrite what was derived, or note that it is left; returns what was derived of that, in turn."""
        further = _Derived()
        for record_id, words in derived.known.items():
            if (memory := _memory(ledger, record_id)) is None:
                continue
            rows = _with_versions(ledger, record_id, memory)
            if not any(map(_is_dreamt, rows)):
                continue
            known = words | secrets_of(*rows).words()
            further.add(semantic_ids_of(rows[0].metadata), known)
            found = secrets_of(*rows, known=known)
            if found and not self.piece.with_dreamt:
                done.left.append(record_id)
            elif found:
                done.note(record_id, _rewrite_derived(ledger, record_id, memory, known), found)
        return further

    def _entry(self, stores: dict[RecordId, str], secrets: Findings) -> AuditDraft:
        bounded = bounded_ids([*stores])
        named = tuple(filter(None, (stores[record_id] for record_id in bounded.record_ids)))
        part = self.piece.part.name.lower()
        summary = {"redacted": len(stores), "part": part, "secrets": dict(secrets.kinds), **bounded.summary}
        return AuditDraft(self.now, OPERATION, bounded.record_ids, named, summary)


class _Derived:
    """Memories that were made of what is written anew; `known` are the words of secrets that each may tell."""

    def __init__(self) -> None:
        self.known: dict[RecordId, frozenset[str]] = defaultdict(frozenset)

    def add(self, record_ids: Iterable[RecordId], words: frozenset[str]) -> None:
        for record_id in record_ids:
            self.known[record_id] |= words


def _memory(ledger: Ledger, record_id: RecordId) -> ContentRow | ArchivedRow | None:
    """The row of a memory, archived or not; None when it isn't there."""
    if (value := ledger.get(ledger.key(Table.CONTENT, record_id))) is not None:
        return parse_content_row(value)
    archived = ledger.get(ledger.key(Table.ARCHIVED, record_id))
    return None if archived is None else parse_archived_row(archived)


def _with_versions(ledger: Ledger, record_id: RecordId, memory: ContentRow | ArchivedRow) -> list[ContentRow]:
    """What a memory is, and what it was before."""
    row = memory.content if isinstance(memory, ArchivedRow) else memory
    return [row, *(parse_content_row(each) for _key, each in _versions(ledger, ledger.namespace, record_id))]


def _rewrite_derived(
    ledger: Ledger, record_id: RecordId, memory: ContentRow | ArchivedRow, known: frozenset[str]
) -> str:
    """Returns its store."""
    if isinstance(memory, ArchivedRow):
        return _rewrite_archived(ledger, record_id, memory, Findings(), known)
    return _rewrite_memory(ledger, record_id, memory, Findings(), known)


def _rewrite_entry(ledger: Ledger, record_id: RecordId, row: RawRow, secrets: Findings) -> None:
    changed = redacted(row, secrets)
    if changed is not row:
        ledger.put(ledger.key(Table.RAW, record_id), dump_row(changed))
        stamp_anew(ledger, RAW, record_id, raw_stamp(row), raw_stamp(changed))
        ledger.index(record_id)


def _rewrite_undo(ledger: Ledger, hit: Hit, row: UndoRow, secrets: Findings) -> None:
    """An entry that comes back is to be told, then, for what an earlier import has put."""
    changed = _redacted_undo(row, secrets, hit.known)
    ledger.put(hit.row_key, dump_undo_row(changed))
    if row.raw is not None and changed.raw is not None:
        stamp_anew(ledger, RAW, trailing_id(hit.row_key), raw_stamp(row.raw), raw_stamp(changed.raw))


def _rewrite_memory(
    ledger: Ledger, record_id: RecordId, row: ContentRow, secrets: Findings, known: frozenset[str]
) -> str:
    """Returns its store."""
    changed = redacted(row, secrets, known)
    if changed is not row:
        ledger.put(ledger.key(Table.CONTENT, record_id), dump_row(changed))
        change_group(ledger, record_id, row, changed)
        drop_likeness(ledger, record_id, row)
        note_likeness(ledger, record_id, changed)
        _drop_vector(ledger, record_id, row, changed)
        ledger.index(record_id)
    _rewrite_versions(ledger, record_id, secrets, known)
    return row.store.value


def _rewrite_archived(
    ledger: Ledger, record_id: RecordId, row: ArchivedRow, secrets: Findings, known: frozenset[str]
) -> str:
    """Returns its store."""
    content = redacted(row.content, secrets, known)
    ledger.put(ledger.key(Table.ARCHIVED, record_id), dump_row(replace(row, content=content)))
    _rewrite_versions(ledger, record_id, secrets, known)
    return content.store.value


def _rewrite_versions(ledger: Ledger, record_id: RecordId, secrets: Findings, known: frozenset[str]) -> None:
    for version_key, value in _versions(ledger, ledger.namespace, record_id):
        row = parse_content_row(value)
        changed = redacted(row, secrets, known)
        if changed is not row:
            ledger.put(version_key, dump_row(changed))


def _drop_vector(ledger: Ledger, record_id: RecordId, row: ContentRow, changed: ContentRow) -> None:
    """Of a text that held a secret; of another block the embedding may stand for the memory now."""
    old, new = (embedding_of(codec.parse(each.content, MemoryContent)) for each in (row, changed))
    if old == new or old is None:
        return
    ledger.delete(vector_key(ledger.namespace, Space.CONTENT, len(old), record_id))
    ledger.counters().vectors -= new is None
    change = VectorChange(ledger.namespace, Space.CONTENT, record_id, row.store_code, row.created_at, new)
    if new is not None:
        ledger.put(vector_key(ledger.namespace, Space.CONTENT, len(new), record_id), dump_vector(change))
    ledger.vector(change)
