"""What each operation writes: functions of the committed state and a request, run inside the transaction.

The store actors prepare what can be prepared outside (JSON, states, documents); what depends on the state of
the moment (versions, counters, kept answers) is decided here, where nothing else can happen in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from cerememory.domain.audit_chain import AuditDraft
from cerememory.domain.decay import STANDARD
from cerememory.errors import (
    IdempotencyConflict,
    PreconditionFailed,
    RecordNotFound,
    StorageDamaged,
    ValidationFailed,
)
from cerememory.protocol import codec
from cerememory.protocol.records import (
    NEUTRAL,
    Association,
    EmotionVector,
    MemoryContent,
    MetaMemory,
)
from cerememory.protocol.replies import Encoded
from cerememory.protocol.values import UINT32_MAX, RecordId, format_id
from cerememory.storage.documents import row_document
from cerememory.storage.dynamics import Reads
from cerememory.storage.groups import change_group, join_group
from cerememory.storage.keys import Table, after, key, pack_time, pack_version, state_key, unpack_time
from cerememory.storage.ledger import Ledger, Mutation
from cerememory.storage.likenesses import drop_likeness, find_like, note_likeness
from cerememory.storage.pending import add_pending
from cerememory.storage.prepared import NewRecord
from cerememory.storage.rows import (
    ContentRow,
    KeptAnswer,
    RawRow,
    dump_edges,
    dump_row,
    dump_state_row,
    parse_content_row,
    parse_kept_answer,
    parse_state_row,
)
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

    namespace: int
    records: tuple[NewRecord, ...]
    audit: AuditDraft
    reply: R

    def apply(self, ledger: Ledger) -> Stored[R]:
        for record in self.records:
            put_memory(ledger, _begun(ledger, record) if record.durable else record)
        ledger.audit(self.audit)
        return Stored(self.reply, ledger.sequence)


@dataclass(frozen=True, slots=True)
class StoreIfAbsent:
    """`store` one memory, unless there is one like it."""

    store: StoreRecords[Encoded]

    @property
    def namespace(self) -> int:
        return self.store.namespace

    def apply(self, ledger: Ledger) -> Stored[Encoded]:
        like = find_like(ledger, self.store.records[0].row)
        return self.store.apply(ledger) if like is None else Stored(like, ledger.read_from)


def _begun(ledger: Ledger, record: NewRecord) -> NewRecord:
    """With the state in which memories begin here and now; it was made for a namespace in which nothing moved."""
    row = record.row
    curve = ledger.curve(row.store_code)
    if curve is STANDARD[row.store]:
        return record
    return replace(record, state=curve.fresh(row.created_at, record.state.intensity))


def put_memory(ledger: Ledger, record: NewRecord) -> None:
    """Write a new memory of the ledger's namespace and tell the indexes; one of working memory is only told."""
    if record.durable:
        _put_record(ledger, record)
    else:
        ledger.index_held(row_document(record.namespace, record.record_id, record.row))
    _put_vector(ledger, record, Space.CONTENT, record.embedding)
    _put_vector(ledger, record, Space.EMOTION, axes_of(record.emotion))


def _put_record(ledger: Ledger, record: NewRecord) -> None:
    record_id, row = record.record_id, record.row
    ledger.put(ledger.key(Table.CONTENT, record_id), dump_row(row))
    ledger.put(
        state_key(record.namespace, row.created_at, record_id), dump_state_row(row.store_code, record.state)
    )
    join_group(ledger, record_id, row)
    note_likeness(ledger, record_id, row)
    ledger.index(record_id)
    if record.associations:
        _put_edges(ledger, record_id, record.associations)
    counters = ledger.counters()
    counters.records[row.store_code] += 1
    counters.fidelity_sums[row.store_code] += record.state.score
    counters.associations += len(record.associations)


def _put_edges(ledger: Ledger, source: RecordId, associations: tuple[Association, ...]) -> None:
    ledger.put(ledger.key(Table.EDGES, source), dump_edges(associations))
    for association in associations:
        ledger.put(ledger.key(Table.EDGES_BY_TARGET, association.target_id, source), b"")


def axes_of(emotion: EmotionVector | None) -> tuple[float, ...] | None:
    """The vector that stands for `emotion`; a neutral one has none."""
    axes = () if emotion is None else emotion.axes()
    return axes if any(axes) else None


def _vector_change(record: NewRecord, space: Space, values: tuple[float, ...] | None) -> VectorChange:
    row = record.row
    return VectorChange(record.namespace, space, record.record_id, row.store_code, row.created_at, values)


def _put_vector(ledger: Ledger, record: NewRecord, space: Space, values: tuple[float, ...] | None) -> None:
    if values is None:
        return
    change = _vector_change(record, space, values)
    if record.durable:
        ledger.put(vector_key(ledger.namespace, space, len(values), record.record_id), dump_vector(change))
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
        """Raises `ValidationFailed` when there is no further version, as only an import can bring it about."""
        if row.version >= UINT32_MAX:
            raise ValidationFailed(f"the record is at version {row.version}, behind which there is none")
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
    """Replace parts of a durable memory; `expected_version` as in `check_version`.

    Of what it was before, the newest `versions_kept` versions stay readable.
    """

    namespace: int
    record_id: RecordId
    edit: Edit
    expected_version: int | None
    now: int
    versions_kept: int

    def apply(self, ledger: Ledger) -> Stored[None]:
        row_key = ledger.key(Table.CONTENT, self.record_id)
        value = ledger.get(row_key)
        if value is None:
            raise RecordNotFound(f"Record not found: {format_id(self.record_id)}")
        row = parse_content_row(value)
        check_version(self.record_id, row.version, self.expected_version)
        edited = self.edit.applied(row, self.now)
        ledger.put(row_key, dump_row(edited))
        self._keep_version(ledger, row.version, value)
        change_group(ledger, self.record_id, row, edited)
        if self.edit.content is not None:
            drop_likeness(ledger, self.record_id, row)
            note_likeness(ledger, self.record_id, edited)
        ledger.index(self.record_id)
        if self.edit.content is not None:
            self._replace_vector(ledger, row, Space.CONTENT, embedding_of(self.edit.content))
        if self.edit.emotion is not None:
            self._replace_vector(ledger, row, Space.EMOTION, axes_of(self.edit.emotion))
            if edited.emotion != row.emotion:  # else a retry would let the memory fade anew
                self._change_intensity(ledger, row, self.edit.emotion.intensity)
        ledger.audit(update_audit(self.record_id, row.store.value, self.edit, self.now))
        return Stored(None, ledger.sequence)

    def _change_intensity(self, ledger: Ledger, row: ContentRow, intensity: float) -> None:
        """From now on the memory fades as its new emotion lets it."""
        row_key = state_key(self.namespace, row.created_at, self.record_id)
        value = ledger.get(row_key)
        if value is None:
            raise StorageDamaged(f"{format_id(self.record_id)}: has no state")
        state = parse_state_row(value)[1]
        changed = ledger.curve(row.store_code).rebased(state, self.now, intensity=intensity)
        ledger.put(row_key, dump_state_row(row.store_code, changed))
        ledger.counters().fidelity_sums[row.store_code] += changed.score - state.score

    def _keep_version(self, ledger: Ledger, version: int, value: bytes) -> None:
        if self.versions_kept:
            ledger.put(ledger.key(Table.HISTORY, self.record_id, pack_version(version)), value)
        if version > self.versions_kept:
            ledger.delete(ledger.key(Table.HISTORY, self.record_id, pack_version(version - self.versions_kept)))

    def _replace_vector(
        self, ledger: Ledger, row: ContentRow, space: Space, values: tuple[float, ...] | None
    ) -> None:
        old = _old_vector(row, space)
        if old == values:
            return
        if old is not None:
            ledger.delete(vector_key(ledger.namespace, space, len(old), self.record_id))
        change = VectorChange(ledger.namespace, space, self.record_id, row.store_code, row.created_at, values)
        if values is not None:
            ledger.put(vector_key(ledger.namespace, space, len(values), self.record_id), dump_vector(change))
        if space is Space.CONTENT:
            ledger.counters().vectors += (values is not None) - (old is not None)
        ledger.vector(change)


def _old_vector(row: ContentRow, space: Space) -> tuple[float, ...] | None:
    if space is Space.CONTENT:
        return embedding_of(codec.parse(row.content, MemoryContent))
    return axes_of(codec.parse(row.emotion, EmotionVector)) if row.emotion else None


@dataclass(frozen=True, slots=True)
class NewRaw:
    """A raw journal entry ready to be stored."""

    record_id: RecordId
    row: RawRow
    has_text: bool
    session_digest: bytes


@dataclass(frozen=True, slots=True)
class StoreRaw(Generic[R]):
    """Store raw journal `records` and their audit entries, all or nothing."""

    namespace: int
    records: tuple[NewRaw, ...]
    audits: tuple[AuditDraft, ...]
    reply: R

    def apply(self, ledger: Ledger) -> Stored[R]:
        for record in self.records:
            put_raw(ledger, record)
        for audit in self.audits:
            ledger.audit(audit)
        return Stored(self.reply, ledger.sequence)


def put_raw(ledger: Ledger, record: NewRaw) -> None:
    """Write a new raw entry of the ledger's namespace and tell the text index."""
    row, at = record.row, pack_time(record.row.created_at)
    flags = bytes([row.visibility_code, row.secrecy_code])
    ledger.put(ledger.key(Table.RAW, record.record_id), dump_row(row))
    ledger.put(ledger.key(Table.RAW_BY_SESSION, record.session_digest, at, record.record_id), flags)
    ledger.put(ledger.key(Table.RAW_BY_TIME, at, record.record_id), flags)
    add_pending(ledger, record.record_id, row)
    ledger.counters().raw_records += 1
    ledger.index(record.record_id)


@dataclass(frozen=True, slots=True)
class UpdateHeld:
    """An edit of working memory, whose outcome is `record`: no rows, but an audit entry, and the indexes told."""

    record: NewRecord
    edit: Edit
    expected_version: int | None

    @property
    def namespace(self) -> int:
        return self.record.namespace

    def apply(self, ledger: Ledger) -> Stored[None]:
        record = self.record
        check_version(record.record_id, record.row.version - 1, self.expected_version)
        ledger.index_held(row_document(record.namespace, record.record_id, record.row))
        for space, values in ((Space.CONTENT, record.embedding), (Space.EMOTION, axes_of(record.emotion))):
            ledger.vector(_vector_change(record, space, values))
        ledger.audit(update_audit(record.record_id, record.row.store.value, self.edit, record.row.updated_at))
        return Stored(None, ledger.sequence)


@dataclass(frozen=True, slots=True)
class NoteAudit:
    """An audit entry of its own."""

    namespace: int
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

    @property
    def namespace(self) -> int:
        return self.mutation.namespace

    def apply(self, ledger: Ledger) -> Stored[R]:
        kept = self._kept(ledger.get)
        if kept is not None:
            return kept
        stored = self.mutation.apply(ledger)
        reply = b"" if self.reply_type is None else codec.dump(stored.reply)
        answer = KeptAnswer(self.body_digest, self.expires_at, stored.sequence, reply)
        self._drop_expired(ledger)
        ledger.put(self._row_key, dump_row(answer))
        ledger.put(ledger.key(Table.IDEMPOTENCY_BY_EXPIRY, pack_time(self.expires_at), self.key_digest), b"")
        return stored

    def kept_in(self, reads: Reads) -> Stored[R] | None:
        """What is kept under the key so far, for an operation of which this is only the last mutation."""
        return self._kept(reads.get)

    @property
    def _row_key(self) -> bytes:
        return key(self.namespace, Table.IDEMPOTENCY, self.key_digest)

    def _kept(self, get: Callable[[bytes], bytes | None]) -> Stored[R] | None:
        value = get(self._row_key)
        if value is None or (kept := parse_kept_answer(value)).expires_at <= self.now:
            return None
        if kept.body_digest != self.body_digest:
            raise IdempotencyConflict("Idempotency-Key: was used with another request before")
        reply: Any = codec.parse(kept.reply, self.reply_type) if self.reply_type is not None else None
        return Stored(reply, kept.commit_sequence, replayed=True)

    def _drop_expired(self, ledger: Ledger) -> None:
        prefix = ledger.key(Table.IDEMPOTENCY_BY_EXPIRY)
        for dropped, (row_key, _) in enumerate(ledger.scan(prefix, after(prefix))):
            expires_at = unpack_time(row_key[len(prefix) : len(prefix) + 8])
            if expires_at > self.now or dropped >= EXPIRED_DROPPED_MAX:
                return
            ledger.delete(row_key)
            self._drop_answer(ledger, row_key[len(prefix) + 8 :], expires_at)

    def _drop_answer(self, ledger: Ledger, key_digest: bytes, expires_at: int) -> None:
        """Unless the key was used anew after this expiry was written."""
        row_key = ledger.key(Table.IDEMPOTENCY, key_digest)
        value = ledger.get(row_key)
        if value is not None and parse_kept_answer(value).expires_at == expires_at:
            ledger.delete(row_key)


def kept_answer(reads: Reads, mutation: Mutation[Stored[R]]) -> Stored[R] | None:
    """What is kept for the request that `mutation` is the last of; None, too, without an idempotency key."""
    return mutation.kept_in(reads) if isinstance(mutation, Once) else None


@dataclass(frozen=True, slots=True)
class FindAnswer(Generic[R]):
    """`kept_answer`, as the first step of a series: what was stored since its caller has looked is seen, too."""

    mutation: Mutation[Stored[R]]

    @property
    def namespace(self) -> int:
        return self.mutation.namespace

    def apply(self, ledger: Ledger) -> Stored[R] | None:
        return kept_answer(ledger, self.mutation)
