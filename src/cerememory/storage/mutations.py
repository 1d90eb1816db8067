"""What each operation writes: functions of the committed state and a request, run inside the transaction.

The store actors prepare what can be prepared outside (JSON, states, documents); what depends on the state of
the moment (versions, counters, kept answers) is decided here, where nothing else can happen in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cerememory.domain.audit_chain import AuditDraft
from cerememory.errors import IdempotencyConflict, PreconditionFailed, RecordNotFound
from cerememory.protocol import codec
from cerememory.protocol.records import NEUTRAL, Association, EmotionVector, MemoryContent, MetaMemory
from cerememory.protocol.values import RecordId, format_id
from cerememory.storage.documents import edited_document
from cerememory.storage.keys import Table, after, key, pack_time, unpack_time
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.prepared import NewRecord, SavedState
from cerememory.storage.rows import (
    ContentRow,
    KeptAnswer,
    RawRow,
    dump_edges,
    dump_row,
    dump_state,
    parse_content_row,
    parse_kept_answer,
)
from cerememory.storage.text_index import IndexDocument
from cerememory.storage.vectors import Space, VectorChange, dump_vector, vector_key

R = TypeVar("R")
EXPIRED_DROPPED_MAX = 64  # how many expired answers one mutation drops


@dataclass(frozen=True, slots=True)
class Stored(Generic[R]):
    """What a mutation answers: the reply for the caller, the commit that holds it, and whether that is old."""

    reply: R
    sequence: int
    replayed: bool = False


def embedding_of(content: MemoryContent) -> tuple[float, ...] | None:
    """The vector that stands for `content`: that of its first block that has one."""
    return next((block.embedding for block in content.blocks if block.embedding), None)


@dataclass(frozen=True, slots=True)
class StoreRecords(Generic[R]):
    """Store `records` and one audit entry, all or nothing."""

    records: tuple[NewRecord, ...]
    audit: AuditDraft
    reply: R

    def apply(self, ledger: Ledger) -> Stored[R]:
        for record in self.records:
            if record.durable:
                _put_record(ledger, record)
            ledger.index(record.document, durable=record.durable)
            _put_vector(ledger, record, Space.CONTENT, record.embedding)
            _put_vector(ledger, record, Space.EMOTION, _axes(record.emotion))
        ledger.audit(self.audit)
        return Stored(self.reply, ledger.sequence)


def _put_record(ledger: Ledger, record: NewRecord) -> None:
    record_id, row = record.record_id, record.row
    ledger.put(key(Table.CONTENT, record_id), dump_row(row))
    ledger.put(key(Table.STATE, record_id), dump_state(record.state))
    ledger.put(key(Table.BY_TIME, pack_time(row.created_at), record_id), bytes([row.store_code]))
    if record.associations:
        _put_edges(ledger, record_id, record.associations)
    counters = ledger.counters()
    counters.records[row.store_code] += 1
    counters.fidelity_sums[row.store_code] += record.state.score
    counters.associations += len(record.associations)


def _put_edges(ledger: Ledger, source: RecordId, associations: tuple[Association, ...]) -> None:
    ledger.put(key(Table.EDGES, source), dump_edges(associations))
    for association in associations:
        ledger.put(key(Table.EDGES_BY_TARGET, association.target_id, source), b"")


def _axes(emotion: EmotionVector | None) -> tuple[float, ...] | None:
    axes = (emotion or NEUTRAL).axes()
    return axes if any(axes) else None


def _put_vector(ledger: Ledger, record: NewRecord, space: Space, values: tuple[float, ...] | None) -> None:
    if values is None:
        return
    change = VectorChange(space, record.record_id, record.row.store_code, record.row.created_at, values)
    if record.durable:
        ledger.put(vector_key(space, len(values), record.record_id), dump_vector(change))
        ledger.counters().vectors += space is Space.CONTENT
    ledger.vector(change)


@dataclass(frozen=True, slots=True)
class Edit:
    """The parts of a memory that an update replaces; None leaves a part as it is."""

    content: MemoryContent | None
    emotion: EmotionVector | None
    metadata: bytes | None
    meta: MetaMemory | None

    def applied(self, row: ContentRow, now: int) -> ContentRow:
        return ContentRow(
            row.store_code,
            row.version + 1,
            row.created_at,
            now,
            row.content if self.content is None else codec.dump(self.content),
            row.emotion if self.emotion is None else emotion_json(self.emotion),
            row.metadata if self.metadata is None else self.metadata,
            row.meta if self.meta is None else codec.dump(self.meta),
        )


def emotion_json(emotion: EmotionVector | None) -> bytes:
    """The emotion as a content row has it."""
    return b"" if emotion is None or emotion == NEUTRAL else codec.dump(emotion)


def check_version(record_id: RecordId, current: int, expected: int | None) -> None:
    """`If-Match`: the edit was made against `expected`; None was made against whatever there is."""
    if expected is not None and expected != current:
        raise PreconditionFailed(
            f"{format_id(record_id)}: has version {current}, If-Match asks for {expected}",
            details={"current_version": current},
        )


def update_audit(record_id: RecordId, store: str, edit: Edit, now: int) -> AuditDraft:
    summary = {
        "record_id": format_id(record_id),
        "store": store,
        "content_changed": edit.content is not None,
        "meta_changed": edit.meta is not None,
    }
    return AuditDraft(
        timestamp_ns=now,
        operation="encode.update",
        record_ids=(record_id,),
        store_types=(store,),
        summary=summary,
    )


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """Replace parts of a durable memory; `expected_version` as in `check_version`."""

    record_id: RecordId
    edit: Edit
    expected_version: int | None
    now: int

    def apply(self, ledger: Ledger) -> Stored[None]:
        row_key = key(Table.CONTENT, self.record_id)
        value = ledger.get(row_key)
        if value is None:
            raise RecordNotFound(f"Record not found: {format_id(self.record_id)}")
        row = parse_content_row(value)
        check_version(self.record_id, row.version, self.expected_version)
        edited = self.edit.applied(row, self.now)
        ledger.put(row_key, dump_row(edited))
        ledger.index(edited_document(self.record_id, edited))
        if self.edit.content is not None:
            self._replace_vector(ledger, row, Space.CONTENT, embedding_of(self.edit.content))
        if self.edit.emotion is not None:
            self._replace_vector(ledger, row, Space.EMOTION, _axes(self.edit.emotion))
        ledger.audit(update_audit(self.record_id, row.store.value, self.edit, self.now))
        return Stored(None, ledger.sequence)

    def _replace_vector(
        self, ledger: Ledger, row: ContentRow, space: Space, values: tuple[float, ...] | None
    ) -> None:
        old = _old_vector(row, space)
        if old == values:
            return
        if old is not None:
            ledger.delete(vector_key(space, len(old), self.record_id))
        change = VectorChange(space, self.record_id, row.store_code, row.created_at, values)
        if values is not None:
            ledger.put(vector_key(space, len(values), self.record_id), dump_vector(change))
        if space is Space.CONTENT:
            ledger.counters().vectors += (values is not None) - (old is not None)
        ledger.vector(change)


def _old_vector(row: ContentRow, space: Space) -> tuple[float, ...] | None:
    if space is Space.CONTENT:
        return embedding_of(codec.parse(row.content, MemoryContent))
    return _axes(codec.parse(row.emotion, EmotionVector)) if row.emotion else None


@dataclass(frozen=True, slots=True)
class NewRaw:
    """A raw journal entry ready to be stored."""

    record_id: RecordId
    row: RawRow
    document: IndexDocument
    session_digest: bytes


@dataclass(frozen=True, slots=True)
class StoreRaw(Generic[R]):
    """Store raw journal `records` and their audit entries, all or nothing."""

    records: tuple[NewRaw, ...]
    audits: tuple[AuditDraft, ...]
    reply: R

    def apply(self, ledger: Ledger) -> Stored[R]:
        for record in self.records:
            row, at = record.row, pack_time(record.row.created_at)
            flags = bytes([row.visibility_code, row.secrecy_code])
            ledger.put(key(Table.RAW, record.record_id), dump_row(row))
            ledger.put(key(Table.RAW_BY_SESSION, record.session_digest, at, record.record_id), flags)
            ledger.put(key(Table.RAW_BY_TIME, at, record.record_id), flags)
            ledger.index(record.document)
        counters = ledger.counters()
        counters.raw_records += len(self.records)
        counters.raw_pending_dream += len(self.records)
        for audit in self.audits:
            ledger.audit(audit)
        return Stored(self.reply, ledger.sequence)


@dataclass(frozen=True, slots=True)
class SaveRecall:
    """Write what one recall did to the states of the durable memories it returned, and its audit entry."""

    states: tuple[SavedState, ...]
    audit: AuditDraft

    def apply(self, ledger: Ledger) -> None:
        counters = ledger.counters()
        counters.recalls += 1
        for saved in self.states:
            ledger.put(key(Table.STATE, saved.record_id), dump_state(saved.state))
            counters.fidelity_sums[saved.store_code] += saved.score_change
            ledger.saved(saved)
        ledger.audit(self.audit)


@dataclass(frozen=True, slots=True)
class UpdateHeld:
    """An edit of working memory, whose outcome is `record`: no rows, but an audit entry, and the indexes told."""

    record: NewRecord
    edit: Edit
    expected_version: int | None

    def apply(self, ledger: Ledger) -> Stored[None]:
        record = self.record
        check_version(record.record_id, record.row.version - 1, self.expected_version)
        ledger.index(record.document, durable=False)
        for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, _axes(record.emotion))):
            ledger.vector(
                VectorChange(space, record.record_id, record.row.store_code, record.row.created_at, values)
            )
        ledger.audit(update_audit(record.record_id, record.row.store.value, self.edit, record.row.updated_at))
        return Stored(None, ledger.sequence)


@dataclass(frozen=True, slots=True)
class NoteAudit:
    """An audit entry of its own."""

    audit: AuditDraft

    def apply(self, ledger: Ledger) -> None:
        ledger.audit(self.audit)


@dataclass(frozen=True, slots=True)
class Once(Generic[R]):
    """Run `mutation` once for `key_digest`; again within its life, answer what it answered.

    Of two at once the second finds the first's answer: mutations are applied one after the other. A failed
    one keeps nothing. `reply_type` None stands for an answer without a body.
    """

    mutation: Mutation[Stored[R]]
    key_digest: bytes
    body_digest: bytes
    now: int
    expires_at: int
    reply_type: type[Any] | None

    def apply(self, ledger: Ledger) -> Stored[R]:
        row_key = key(Table.IDEMPOTENCY, self.key_digest)
        value = ledger.get(row_key)
        if value is not None and (kept := parse_kept_answer(value)).expires_at > self.now:
            return self._replay(kept)
        stored = self.mutation.apply(ledger)
        reply = b"" if self.reply_type is None else codec.dump(stored.reply)
        self._drop_expired(ledger)
        ledger.put(row_key, dump_row(KeptAnswer(self.body_digest, self.expires_at, stored.sequence, reply)))
        ledger.put(key(Table.IDEMPOTENCY_BY_EXPIRY, pack_time(self.expires_at), self.key_digest), b"")
        return stored

    def _replay(self, kept: KeptAnswer) -> Stored[R]:
        if kept.body_digest != self.body_digest:
            raise IdempotencyConflict("Idempotency-Key: was used with another request before")
        reply: Any = codec.parse(kept.reply, self.reply_type) if self.reply_type is not None else None
        return Stored(reply, kept.commit_sequence, replayed=True)

    def _drop_expired(self, ledger: Ledger) -> None:
        prefix = key(Table.IDEMPOTENCY_BY_EXPIRY)
        for dropped, (row_key, _) in enumerate(ledger.scan_committed(prefix, after(prefix))):
            expires_at = unpack_time(row_key[len(prefix) : len(prefix) + 8])
            if expires_at > self.now or dropped >= EXPIRED_DROPPED_MAX:
                return
            ledger.delete(row_key)
            self._drop_answer(ledger, row_key[len(prefix) + 8 :], expires_at)

    def _drop_answer(self, ledger: Ledger, key_digest: bytes, expires_at: int) -> None:
        """Unless the key was used anew after this expiry was written."""
        row_key = key(Table.IDEMPOTENCY, key_digest)
        value = ledger.get(row_key)
        if value is not None and parse_kept_answer(value).expires_at == expires_at:
            ledger.delete(row_key)
